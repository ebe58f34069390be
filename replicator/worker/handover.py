"""What an operator is told of the handover that he asked for: who took over, or why nobody did.

Used on the control thread only. The answer comes when another owner is promised an epoch, when the core
refuses, or after `ANSWER_S`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from msgspec import json

from replicator.errors import Unavailable
from replicator.model import NodeId, Owner

ANSWER_S = 4.0  # less than the admin socket waits

Reply = Callable[[bytes], None]


class Handovers:
    """At most one at a time."""

    def __init__(self, node: NodeId) -> None:
        self._node = node
        self._reply: Reply | None = None
        self._to: NodeId | None = None
        self.deadline = math.inf

    def ask(self, to: NodeId | None, reply: Reply, now: float) -> None:
        """Have *reply* called with what became of it; raises `Unavailable` while another is under way."""
        if self._reply is not None:
            raise Unavailable("a handover is under way already")
        self._reply, self._to, self.deadline = reply, to, now + ANSWER_S

    def refused(self, reason: str) -> None:
        """The tenure goes on."""
        self._tell({"error": reason})

    def promised(self, owner: Owner) -> None:
        """An epoch is promised; to another node it is the end of the handover."""
        if owner.node == self._node:
            return
        if self._to in (None, owner.node):
            self._tell({"ok": True, "primary": owner.node})
        else:
            self._tell({"error": f"{self._to} did not take over in time, {owner.node} did"})

    def tick(self, now: float) -> None:
        """Answer when nothing has come of it in time."""
        if now >= self.deadline:
            self._tell({"error": "nobody has taken over yet"})

    def _tell(self, answer: dict[str, object]) -> None:
        reply, self._reply, self.deadline = self._reply, None, math.inf
        if reply is not None:
            reply(json.encode(answer))
