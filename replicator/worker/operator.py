"""What an operator may ask of a primary, to hand over or to abandon a checkpoint, and what he is told of it.

Used on the control thread only. What becomes of a handover is known when another owner is promised an epoch,
when the core refuses, or after `ANSWER_S`; to abandon is answered by the core at once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from msgspec import json

from replicator.adapters.ports import Elector
from replicator.core import effects, events
from replicator.errors import Unavailable
from replicator.model import NodeId, Owner, Role, StreamName

log = logging.getLogger(__name__)

ANSWER_S = 4.0  # less than the admin socket waits

Reply = Callable[[bytes], None]
Handle = Callable[[events.Event], None]


class Operator:
    """Takes his requests to the core, by *handle*, and its answers to him: at most one handover at a time."""

    def __init__(self, node: NodeId, elector: Elector, handle: Handle, clock: Callable[[], float]) -> None:
        self._node = node
        self._elector = elector
        self._handle = handle
        self._clock = clock
        self._handing_over: Reply | None = None
        self._abandoning: Reply  # set while the core has the request
        self._to: NodeId | None = None
        self.role = Role.FOUNDING  # the node's
        self.is_promised = False  # whether the newest epoch promised by this process is its own
        self.deadline = math.inf

    # ── what he asks; raises `Unavailable` if this node is not primary ──

    def hand_over(self, to: str | None, reply: Reply) -> None:
        """End the tenure and hand over, if *to* (or anybody) can take over; *reply* is called with who did.
        Raises `Unavailable` also while another handover is under way."""
        self._check_primary()
        if self._handing_over is not None:
            raise Unavailable("a handover is under way already")
        self._to = NodeId(to) if to else None
        self._handing_over, self.deadline = reply, self._clock() + ANSWER_S
        self._handle(events.ResignAsked(self._to, if_able=True))

    def abandon(self, stream: StreamName, reply: Reply) -> None:
        """Give up the stream's head, which nobody can read (R8); *reply* is called with what came of that."""
        self._check_primary()
        self._abandoning = reply
        self._handle(events.AbandonAsked(stream))

    def _check_primary(self) -> None:
        if self.role is not Role.PRIMARY:
            leader = self._elector.leader
            where = f"; ask {leader}" if leader not in (None, self._node) else ""
            raise Unavailable(f"{self._node} is {self.role}, not primary{where}")

    # ── what comes of it ──

    def handover_refused(self, reason: str) -> None:
        """The tenure goes on."""
        log.warning("handover refused node=%s reason=%r", self._node, reason)
        self._tell_handover({"error": reason})

    def promised(self, owner: Owner) -> None:
        """An epoch is promised; to another node it is the end of the handover."""
        self.is_promised = owner.node == self._node
        if self.is_promised:
            return
        if self._to in (None, owner.node):
            self._tell_handover({"ok": True, "primary": owner.node})
        else:
            self._tell_handover({"error": f"{self._to} did not take over in time, {owner.node} did"})

    def tick(self, now: float) -> None:
        """Answer when nothing has come of it in time."""
        if now >= self.deadline:
            self._tell_handover({"error": "nobody has taken over yet"})

    def _tell_handover(self, answer: dict[str, object]) -> None:
        reply, self._handing_over, self.deadline = self._handing_over, None, math.inf
        if reply is not None:
            reply(json.encode(answer))

    def abandoned(self, effect: effects.Abandoned) -> None:
        """The checkpoint is given up, for an older one or for the stream's deletion."""
        log.warning("abandoned node=%s head=%s instead=%s", self._node, effect.head, effect.instead)
        instead = effect.instead.position if effect.instead else None
        self._abandoning(json.encode({"ok": True, "position": effect.head.position, "instead": instead}))

    def abandon_refused(self, reason: str) -> None:
        """Nothing was changed."""
        log.warning("abandon refused node=%s reason=%r", self._node, reason)
        self._abandoning(json.encode({"error": f"nothing was changed: {reason}"}))
