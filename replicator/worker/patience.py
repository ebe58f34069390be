"""How long a source of repair may be silent before it counts as dead: longer behind a slow link (R18).

A source that does not answer is asked once more and then left alone for the next one, so patience is short.
But an answer of 1 MiB takes seconds on a slow link, and one that comes too late is asked for again in vain.
So every answer, wanted still or not, tells how long the next may take: the silence before it, counted from
the very request that it answers. What is never answered, by a dead source or one that has lost it, teaches
nothing. A small answer, such as a manifest, comes fast and says little of a large one: patience grows at once
and falls slowly. Plain state without a clock: the time is an argument.
"""

from __future__ import annotations

from replicator.model import NodeId

PATIENCE_S = 0.5
PATIENCE_MAX_S = 20.0  # an answer at 50 KB/s
MARGIN = 2.0
FADING = 0.9  # of it remains, at least, with each answer


class Patience:
    """By source, what its answers have taught."""

    def __init__(self) -> None:
        self._patience_s: dict[NodeId, float] = {}
        self._heard_at: dict[NodeId, float] = {}

    def of(self, node: NodeId) -> float:
        """How many seconds it may be silent."""
        return self._patience_s.get(node, PATIENCE_S)

    def knows(self, node: NodeId) -> bool:
        """Whether it has ever answered: before, it is asked for little."""
        return node in self._patience_s

    def answered(self, node: NodeId, asked_at: float, now: float) -> None:
        """It has answered a request of then, all of it or a part."""
        silent_s = now - max(asked_at, self._heard_at.get(node, asked_at))
        patience_s = max(PATIENCE_S, MARGIN * silent_s, FADING * self.of(node))
        self._patience_s[node] = min(patience_s, PATIENCE_MAX_S)
        self._heard_at[node] = now
