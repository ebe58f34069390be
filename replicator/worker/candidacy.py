"""The candidacy: what the elector is told of this node, and when it has its turn.

A node stands for election only while an engine waits for tenures and the core could take one (T17); one that
is behind stands after the others. Used on the control thread only.
"""

from __future__ import annotations

import math

from replicator.adapters.ports import Elector
from replicator.core.replica import Replica


class Candidacy:
    """Ticks the elector, after telling it what has changed."""

    def __init__(self, elector: Elector, core: Replica) -> None:
        self._elector = elector
        self._core = core
        self._electable = False
        self.has_engine = False
        self.is_leaving = False
        self.is_primary = False
        self.deadline = -math.inf
        elector.set_electable(False)

    def tick(self, now: float) -> None:
        """Let the elector run what is due."""
        if now >= self.deadline:
            self.tell()
            self._elector.tick(now)
            self.deadline = now + self._elector.tick_interval_s

    def tell(self) -> None:
        """Tell the elector whether this node may lead; a primary decides that by itself."""
        able = self.has_engine and not self.is_leaving and self._core.can_lead
        if able != self._electable and (able or not self.is_primary):
            self._electable = able
            self._elector.set_electable(able)
        self._elector.set_behind(self._core.is_behind)
