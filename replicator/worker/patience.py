"""How long a source of repair may be silent before it counts as dead: longer behind a slow link (R18).

A source that does not answer is asked once more and then left alone for the next one, so patience is short.
But an answer of 1 MiB takes seconds on a slow link, and one that comes too late is asked for again in vain.
So every answer, wanted still or not, tells how long the next may take. A source that never answers teaches
nothing and is left alone as quickly as before. Plain state without a clock: the time is an argument.
"""

from __future__ import annotations

from replicator.model import NodeId

PATIENCE_S = 0.5
PATIENCE_MAX_S = 20.0  # an answer at 50 KB/s
MARGIN = 2.0


class Patience:
    """By source, what its answers have taught."""

    def __init__(self) -> None:
        self._patience_s: dict[NodeId, float] = {}
        self._silent_since: dict[NodeId, float] = {}  # it has been asked, and has not answered since

    def of(self, node: NodeId) -> float:
        """How many seconds it may be silent."""
        return self._patience_s.get(node, PATIENCE_S)

    def knows(self, node: NodeId) -> bool:
        """Whether it has ever answered: before, it is asked for little."""
        return node in self._patience_s

    def asked(self, node: NodeId, now: float) -> None:
        """A request has left for it."""
        self._silent_since.setdefault(node, now)

    def answered(self, node: NodeId, now: float, *, owes: bool) -> None:
        """It has answered something, and *owes* more or not."""
        silent_since = self._silent_since.pop(node, None)
        if silent_since is not None:
            self._patience_s[node] = min(max(PATIENCE_S, MARGIN * (now - silent_since)), PATIENCE_MAX_S)
        if owes:
            self._silent_since[node] = now
