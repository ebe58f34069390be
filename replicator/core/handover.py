"""Handing over: when a primary gives its tenure up by itself, and to whom (R11, R25, R26).

It resigns because the engine or an operator asks, or because the elector has steadily named another; what
is in flight commits first, if that does not take longer than a claim may take.
"""

from __future__ import annotations

import math

from replicator.core.reign import Reign
from replicator.core.state import State
from replicator.model import NodeId


class Handover:
    """One primary's intention to resign; none while *deadline* is infinite."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._successor: NodeId | None = None
        self._revoked_at: float | None = None
        self.deadline = math.inf

    @property
    def is_asked(self) -> bool:
        return self.deadline < math.inf

    def ask(self, successor: NodeId | None) -> None:
        """Resign once nothing is in flight, or at the deadline."""
        if not self.is_asked:
            self._successor = successor
            self.deadline = self._state.now + self._state.config.claim_timeout_s

    def grant(self) -> None:
        """The elector names this node."""
        self._revoked_at = None

    def revoke(self) -> None:
        """The elector names another, or nobody."""
        if self._revoked_at is None:
            self._revoked_at = self._state.now

    @property
    def is_revoked_steadily(self) -> bool:
        """Whether the elector has named another for so long that it means it (R25)."""
        since = self._revoked_at
        return since is not None and self._state.now - since > self._state.config.hand_over_after_s

    def successor(self, reign: Reign) -> NodeId | None:
        """Who was named, else the follower heard lately that has room and lacks least."""
        if self._successor is not None:
            return self._successor
        recent = self._state.now - self._state.config.lease_s
        up = [f for f in reign.progress.followers.values() if f.heard_at >= recent and not f.full]
        return min(up, key=lambda follower: (len(follower.lacking), follower.node)).node if up else None

    def clear(self) -> None:
        """The reign is over, or a new one begins."""
        self._successor, self._revoked_at, self.deadline = None, None, math.inf
