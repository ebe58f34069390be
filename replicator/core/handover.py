"""Handing over: when a primary gives its tenure up by itself, and to whom (R11, R25, R26).

It resigns because the engine or an operator asks, or because the elector has steadily named another; what
is in flight commits first, if that does not take longer than a claim may take. Whoever names a successor
means it: that node must be able to take over and hold everything by then, or the tenure goes on.
"""

from __future__ import annotations

import math

from replicator.core import effects
from replicator.core.progress import Follower
from replicator.core.reign import Reign
from replicator.core.state import State
from replicator.model import NodeId


class Handover:
    """One primary's intention to resign; none while *deadline* is infinite."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._successor: NodeId | None = None
        self._if_able = False  # only if somebody can take over
        self._why = ""  # the own disk keeps this node from going on
        self._asked_at = 0.0
        self._revoked_at = math.inf  # the elector named another then, or nobody
        self.deadline = math.inf

    def ask(self, successor: NodeId | None, if_able: bool) -> None:
        """Resign once nothing is in flight, or at the deadline. Conditions do not replace what was asked."""
        if self.deadline < math.inf and (if_able or successor is not None):
            return
        self._successor, self._if_able = successor, if_able or successor is not None
        self._asked_at = self._state.now
        self.deadline = min(self.deadline, self._state.now + self._state.config.claim_timeout_s)

    def step(self, reign: Reign) -> bool:
        """Whether the tenure is to end now. What comes is held back once the successor is able to take over;
        if it is not when the time is up, the tenure goes on. On too full a disk, or one that has written
        nothing for long, it ends at once, if somebody else could go on."""
        if (reign.lacks_room or reign.is_outrun) and (better := self._better(reign)) is not None:
            self._successor, self._why = better, "the disk is full" if reign.lacks_room else "the disk hangs"
            return True
        if self.deadline == math.inf:
            return False
        objection, window = self._objection(reign), reign.window
        window.hold(objection is None)
        is_late = self._state.now >= self.deadline
        objection = objection or self._lag(reign)
        if objection is None:
            return is_late or window.empty
        if is_late:
            self._successor, self._if_able, self.deadline = None, False, math.inf
            self._state.emit(effects.HandoverRefused(objection))
            window.hold(False)
        return False

    def grant(self) -> None:
        """The elector names this node."""
        self._revoked_at = math.inf

    def revoke(self) -> None:
        """The elector names another, or nobody."""
        self._revoked_at = min(self._revoked_at, self._state.now)

    @property
    def is_revoked_steadily(self) -> bool:
        """Whether the elector has named another, or nobody, for so long that it means it (R25)."""
        return self._state.now - self._revoked_at > self._state.config.hand_over_after_s

    @property
    def reason(self) -> str:
        """Why the tenure ends by a handover."""
        if self._why:
            return self._why
        return "the elector names this node no longer" if self.is_revoked_steadily else "resigned"

    def _objection(self, reign: Reign) -> str | None:
        """Why nobody that was asked for could take over now; None if somebody could, or none need to."""
        named = self._successor
        if not self._if_able:
            return None
        if named is None and (able := self._able(reign)):
            return None if any(map(self._is_no_worse, able)) else "no other node has room on its disk"
        if named is None:
            return "no other node is reachable and can be primary"
        follower = reign.progress.followers.get(named)
        if follower is None:
            return f"{named} is not another member of this cluster"
        if not self._is_up(follower):
            return f"{named} is not reachable, or its disk hangs"
        if not follower.can_lead:
            return f"{named} cannot be primary: no engine is ready there, or it is joining"
        return None if self._is_no_worse(follower) else f"{named} has no room on its disk"

    def _lag(self, reign: Reign) -> str | None:
        """Why who would take over is not ready to, in words: whoever was named has to hold everything, any
        other one to have told at least what it holds; None if nothing stands against it."""
        successor = self.successor(reign) if self._if_able else None
        follower = reign.progress.followers.get(successor) if successor is not None else None
        if follower is None:
            return None
        if not follower.is_known:
            return f"it is not known yet what {successor} holds"
        lacking = len(follower.lacking) if self._successor is not None else 0
        return f"{successor} lacks the newest checkpoint of {lacking} streams" if lacking else None

    def successor(self, reign: Reign) -> NodeId | None:
        """Who was named, else the follower that could take over and lacks least; one with room before."""
        if self._successor is not None:
            return self._successor
        ranks = [(f.full, not f.is_known, len(f.lacking), f.node) for f in self._able(reign)]
        return min(ranks)[-1] if ranks else None

    def _able(self, reign: Reign) -> list[Follower]:
        return [each for each in reign.progress.followers.values() if self._is_up(each) and each.can_lead]

    def _is_up(self, follower: Follower) -> bool:
        return follower.heard_at > self._asked_at if self._if_able else self._is_recent(follower)

    def _is_no_worse(self, follower: Follower) -> bool:
        """Whether its disk takes new checkpoints, or none does here either: leadership goes to none that
        would have to give it back (R21)."""
        return self._state.full or not follower.full

    def _better(self, reign: Reign) -> NodeId | None:
        """Who, heard lately, could go on where this disk is too full to: one with room or, before the tenure
        has begun, one that lacks nothing and needs none: not even for its adoption (R21, T17)."""
        able = [f for f in reign.progress.followers.values() if f.can_lead and self._is_recent(f)]
        whole = [f for f in able if not reign.serving and f.adopted and reign.recovery.is_whole(f.replica)]
        fit = [f for f in able if not f.full] or whole
        return min(fit, key=lambda f: (len(f.lacking), f.node)).node if fit else None

    def is_to_follow(self, reign: Reign, is_serving: bool) -> bool:
        """Whether the elector means another, or nobody, and somebody heard lately could take over, or there
        is nothing to take over from (R25)."""
        fit = (f for f in self._able(reign) if self._is_recent(f) and self._is_no_worse(f))
        return self.is_revoked_steadily and (not is_serving or any(fit))

    def let_try(self, reign: Reign, lapsed_since: float | None) -> None:
        """Have the elector name another, after so long without the lease. By itself it goes on with who is
        heard, if too late to be lent anything. The tenure stays while nothing newer is promised (R25)."""
        state, is_named = self._state, self._revoked_at == math.inf
        if lapsed_since is None or not is_named or not state.owns(reign.epoch):
            return
        if state.now - lapsed_since > state.config.hand_over_after_s and (able := self.successor(reign)):
            state.emit(effects.Transfer(able))

    def _is_recent(self, follower: Follower) -> bool:
        return follower.heard_at >= self._state.now - self._state.config.lease_s

    def clear(self) -> None:
        """The reign is over, or a new one begins."""
        self._successor, self._revoked_at, self.deadline = None, math.inf, math.inf
        self._if_able, self._why = False, ""
