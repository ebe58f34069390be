"""The tenure: what the engine sees of an epoch in which its node is primary.

It starts with the restored checkpoints and ends once. In between it is *active* while a majority lends
the lease, else *suspended* (R25); the difference is one word of shared memory, so an engine can ask before
every event. Suspended is not over: nothing must be emitted, but what is submitted commits when the lease
is back.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from time import CLOCK_BOOTTIME, clock_gettime
from typing import TYPE_CHECKING, Any

from replicator.engine.checkpoint import Restored
from replicator.engine.parcel import check_chunks, node_name, pack, stream_name
from replicator.engine.ticket import Latch, Ticket, deadline_of
from replicator.link.lease import LeaseSlot
from replicator.model import Epoch, Position

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from replicator.engine.session import Session

RESUME_POLL_S = 0.005  # a resumed lease is a write to shared memory: nobody rings a bell

_NEVER = memoryview(bytes(8)).cast("d")


class BaseTenure:
    """What both front doors' tenures share: all that never waits. Safe to use from any thread.

    `epoch` is the fencing token: sinks store it with what they write and refuse a lower one. `restored` is
    what to start from; when `unchanged` it is what this engine had itself (R11). `instants` are moments of
    the takeover, in seconds of CLOCK_BOOTTIME, for display: ``detected`` (stood for election), ``granted``,
    ``claimed`` (a majority has promised), ``fetched``, ``adopted``, ``restored``; without peers, some.
    """

    def __init__(
        self,
        session: Session[Any],
        epoch: Epoch,
        slot: LeaseSlot,
        restored: Restored,
        unchanged: bool = False,
        instants: Mapping[str, float] | None = None,
    ) -> None:
        self.epoch = epoch
        self.restored = restored
        self.unchanged = unchanged
        self.instants = dict(instants or {})
        self._ended = Latch()
        self.resign_refused: str | None = None  # why the successor that was named last cannot take over
        self.ended_reason: str | None = None  # None until the tenure has ended
        self._session = session
        self._word = slot.word

    @property
    def active(self) -> bool:
        """Whether this node is primary just now: emit only while it is. One read of memory, ~100 ns."""
        return self._word[0] > clock_gettime(CLOCK_BOOTTIME)

    def submit(
        self, stream: str, payload: Buffer | Mapping[str, Buffer], meta: Buffer = b"", copy: bool = False
    ) -> Ticket:
        """Submit a checkpoint of *stream*; returns at once, whatever the size.

        *payload* is any C-contiguous buffer, or a mapping of part name to such buffers; it is not copied
        and must stay untouched until ``ticket.released`` (*copy* copies it here and now). *meta*, at most
        4096 bytes, comes back with it when it is restored.

        Raises `TenureEnded`, `PayloadTooLarge` or `Backlogged`: it was then not taken and cannot commit.
        TypeError and ValueError are mistakes of the caller, as is `WrongState`: a forked child. What a
        signal's handler raises in the midst (KeyboardInterrupt, SystemExit) leaves it open: the checkpoint
        may yet be read and commit, so leave the payload alone until the replicator is closed.
        """
        session = self._session
        if session.is_forked:
            session.check_process()
        if type(stream) is not str:
            stream = stream_name(stream)
        parcel = pack(payload, meta, copy, session.settings.payload_bytes_max)
        if parcel.is_mapping:
            check_chunks(parcel, session.settings.chunk_bytes_of(stream))
        return session.submit(self.epoch, stream, parcel, copy)

    def delete(self, stream: str) -> Ticket:
        """Delete *stream*: its ticket ends as that of a checkpoint does. A later submit starts it anew.

        Raises as `submit` does, but nothing for a size.
        """
        self._session.check_process()
        return self._session.submit(self.epoch, stream_name(stream), None, True)

    def next_position(self, stream: str) -> Position:
        """What the next submit of *stream* will get, for sinks that name their transactions by it before
        the state is dumped. Holds while no other thread submits to the stream.

        Raises `TenureEnded` when the tenure is over or resigned, or the replicator closed; `WrongState` in a
        forked child.
        """
        self._session.check_process()
        return Position(self.epoch, self._session.next_sequence(self.epoch, stream_name(stream)))

    def resign(self, successor: str | None = None) -> None:
        """Hand over to *successor*, or to whom it comes. Submits are refused from now on; what is with the
        worker commits first. Returns at once, and may be called in a signal's handler: wait for the end, with
        a timeout if you name a successor. If that one cannot take over within `REPLICATOR_CLAIM_TIMEOUT_S`,
        nobody does: `resign_refused` says why, and submits are taken again. Called once more meanwhile, it
        is tried next if the first is refused.

        Does nothing when the tenure is over; raises `WrongState` in a forked child, TypeError and ValueError
        of what cannot be a node's name."""
        self._session.check_process()
        name = None if successor is None else node_name(successor)
        self.resign_refused = None
        self._session.resign(self.epoch, name)

    def end(self, reason: str) -> None:
        """The session's call: over for good. No lease word brings it back."""
        self.deactivate()
        if self.ended_reason is None:
            self.ended_reason = reason
        self._ended.set()

    def deactivate(self) -> None:
        """The session's call: look at the lease word no longer."""
        self._word = _NEVER

    def __repr__(self) -> str:
        state = "ended" if self._ended.is_set() else "active" if self.active else "suspended"
        return f"<{type(self).__name__} epoch={self.epoch} {state}>"


class Tenure(BaseTenure):
    """A tenure for an engine with threads."""

    def wait_active(self, timeout: float | None = None) -> bool:
        """Wait while the tenure is suspended: true when it is active, false when it is over or still
        suspended after *timeout* seconds (``ended_reason`` tells which). Raises `WrongState` in a forked
        child and in a ticket's callback, as `wait_ended` does, and nothing else."""
        self._session.check_process(waits="wait_active()")
        deadline = deadline_of(timeout)
        while not self.active:
            if self._ended.is_set() or (deadline is not None and time.monotonic() >= deadline):
                return False
            self._ended.wait(RESUME_POLL_S)
        return True

    def wait_ended(self, timeout: float | None = None) -> bool:
        """Wait for the end, at most *timeout* seconds; whether it has come."""
        self._session.check_process(waits="wait_ended()")
        return self._ended.wait(timeout)
