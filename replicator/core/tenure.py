"""The tenure as the core sees it: what the engine has been told of its right to work (R24-R26).

It starts with the restored heads, is active while the lease lasts, suspended without it, and ends once. Of
a stream whose head the engine was not given nothing is taken: it would commit over that (R8).
"""

from __future__ import annotations

from msgspec import Struct

from replicator.core import effects
from replicator.core.events import StartedWithout
from replicator.core.state import State
from replicator.model import Digest, Epoch, Head, StreamName

PAUSE_MIN_S, PAUSE_MAX_S = 1.0, 512.0


class GivenUp(Struct, frozen=True):
    """A head that could not be restored when a tenure was to start; no other starts for it until then."""

    digest: Digest
    pause_s: float
    until: float


class Tenure:
    """At most one at a time; *epoch* is None while the engine has none."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.epoch: Epoch | None = None
        self.suspended_since: float | None = None
        self._deadline = 0.0
        self.withheld: set[StreamName] = set()  # streams that it was not given (R8)
        self._given_up: dict[StreamName, GivenUp] = {}

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
        self.withheld = {StreamName(head.stream) for head in unavailable}
        self._state.emit(effects.StartTenure(epoch, heads, unavailable, unchanged))

    def without(self, event: StartedWithout) -> None:
        """It starts without that head after all. What is mended in vain, for want of memory perhaps, is given
        up again and again: the pauses grow, for every new tenure is one of all streams."""
        if event.epoch != self.epoch:
            return
        stream, last = event.stream, self._given_up.get(event.stream)
        again = last is not None and last.digest == event.digest
        pause_s = min(2 * last.pause_s, PAUSE_MAX_S) if last is not None and again else PAUSE_MIN_S
        self._given_up[stream] = GivenUp(event.digest, pause_s, self._state.now + pause_s)
        self.withheld.add(stream)
        self._state.notice(
            f"stream {stream}: its newest checkpoint could not be restored here; nothing is taken of the "
            "stream until it can be read (R8)"
        )

    def may_have(self, stream: StreamName, head: Head | None) -> bool:
        """Whether a stream that it was not given could be given now, in a new one; *head* is adopted."""
        last = self._given_up.get(stream)
        return head is None or (head.readable and (last is None or self._state.now >= last.until))

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
        self.withheld = set()
        self.suspended_since = None
        self._deadline = 0.0
