"""The tenure as the core sees it: what the engine has been told of its right to work (R24-R26).

It starts with the restored heads, is active while the lease lasts, suspended without it, and ends once.
"""

from __future__ import annotations

from replicator.core import effects
from replicator.core.state import State
from replicator.model import Epoch, Head


class Tenure:
    """At most one at a time; *epoch* is None while the engine has none."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.epoch: Epoch | None = None
        self.suspended_since: float | None = None
        self._deadline = 0.0

    def start(
        self,
        epoch: Epoch,
        heads: tuple[Head, ...],
        unavailable: tuple[Head, ...],
        unchanged: bool,
        deadline: float,
    ) -> None:
        """Hand the restored heads to the engine, with the lease word set before it can look at it."""
        assert self.epoch is None
        self.epoch = epoch
        self.suspended_since = None
        self._deadline = 0.0
        self.lend(deadline)
        self._state.emit(effects.StartTenure(epoch, heads, unavailable, unchanged))

    def is_active(self, now: float) -> bool:
        return self.epoch is not None and now < self._deadline

    @property
    def deadline(self) -> float:
        """The instant at which the lease lapses, while it has not."""
        return self._deadline

    def lend(self, deadline: float) -> None:
        """The lease lasts until *deadline*: a suspended tenure is resumed by it (R25)."""
        if self.epoch is None or deadline == self._deadline:
            return
        self._deadline = deadline
        self._state.emit(effects.SetLease(self.epoch, deadline))
        if self.suspended_since is not None and deadline > self._state.now:
            self.suspended_since = None
            self._state.notice(f"tenure of epoch {self.epoch} is resumed")

    def suspend(self) -> None:
        """The lease has lapsed, or is taken back before something else is promised (R24)."""
        if self.epoch is None or self.suspended_since is not None:
            return
        self.suspended_since = self._state.now
        if self._deadline > self._state.now:
            self._deadline = 0.0
            self._state.emit(effects.SetLease(self.epoch, 0.0))
        self._state.notice(f"tenure of epoch {self.epoch} is suspended: no majority lends the lease")

    def end(self, reason: str) -> None:
        """The end, once and for good: the lease word first, so that nothing is emitted any longer."""
        if self.epoch is None:
            return
        self._state.emit(effects.SetLease(self.epoch, 0.0))
        self._state.emit(effects.EndTenure(self.epoch, reason))
        self.epoch = None
        self.suspended_since = None
        self._deadline = 0.0
