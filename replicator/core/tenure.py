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

PAUSE_S = (1.0, 2.0, 4.0, 8.0, 16.0, 512.0)  # after each time that a head was restored in vain
LONG_AGO_S = 60.0  # since the last pause: it has been restored meanwhile, or nobody has tried


class GivenUp(Struct, frozen=True):
    """A head that could not be restored when a tenure was to start, so often; no other starts for it until
    then."""

    digest: Digest
    times: int
    until: float


class Tenure:
    """At most one at a time; *epoch* is None while the engine has none."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.epoch: Epoch | None = None
        self.is_suspended = False
        self.deadline = 0.0  # the instant at which the lease lapses, while it has not
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
        self.lend(deadline)
        self.withheld = {StreamName(head.stream) for head in unavailable}
        if self._given_up:
            present = {(head.stream, head.digest) for head in (*heads, *unavailable)}
            self._given_up = {s: each for s, each in self._given_up.items() if (s, each.digest) in present}
        self._state.emit(effects.StartTenure(epoch, heads, unavailable, unchanged))

    def without(self, event: StartedWithout) -> None:
        """It starts without that head after all. What is mended in vain, for want of memory perhaps, is given
        up again and again, after growing pauses, for every new tenure is one of all streams; and an operator
        may abandon it."""
        if event.epoch != self.epoch:
            return
        stream, last = event.stream, self._last(event.stream, event.digest)
        times = last.times if last is not None and self._state.now < last.until + LONG_AGO_S else 0
        pause_s = PAUSE_S[min(times, len(PAUSE_S) - 1)]
        self._given_up[stream] = GivenUp(event.digest, times + 1, self._state.now + pause_s)
        self.withheld.add(stream)
        self._state.notice(
            f"stream {stream}: its newest checkpoint could not be restored here; nothing is taken of the "
            "stream until it can be read, or is abandoned (R8)"
        )

    def may_have(self, stream: StreamName, head: Head | None) -> bool:
        """Whether a stream that it was not given could be given now, in a new one; *head* is adopted."""
        if head is None or not head.readable:
            return head is None
        last = self._last(stream, head.digest)
        return last is None or self._state.now >= last.until

    def is_in_vain(self, head: Head) -> bool:
        """Whether every disk may well read that head and no node can restore it, as it has turned out."""
        return (last := self._last(StreamName(head.stream), head.digest)) is not None and last.times > 1

    def _last(self, stream: StreamName, digest: bytes) -> GivenUp | None:
        return last if (last := self._given_up.get(stream)) and last.digest == digest else None

    def is_active(self, now: float) -> bool:
        return self.epoch is not None and now < self.deadline

    def lend(self, deadline: float) -> None:
        """The lease lasts until *deadline*: a suspended tenure is resumed by it (R25)."""
        if self.epoch is None or deadline == self.deadline:
            return
        self.deadline = deadline
        self._state.emit(effects.SetLease(self.epoch, deadline))
        if self.is_suspended and deadline > self._state.now:
            self.is_suspended = False
            self._state.notice(f"tenure of epoch {self.epoch} is resumed")

    def suspend(self) -> None:
        """The lease has lapsed, or is taken back before something else is promised (R24)."""
        if self.epoch is None or self.is_suspended:
            return
        self.is_suspended = True
        if self.deadline > self._state.now:
            self.deadline = 0.0
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
        self.is_suspended = False
        self.deadline = 0.0
