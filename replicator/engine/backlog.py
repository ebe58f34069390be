"""The backlog: all checkpoints between `submit` and their end, latest wins (R17).

Per stream one checkpoint is with the worker and runs to its commit, and at most one waits here as a
reference; a newer one replaces the waiting one. A replaced one is let go of at once, but its ticket stays
open until a later checkpoint of the stream commits (then it is superseded) or the tenure ends (unknown).

Decides and does nothing: no lock, thread, clock or socket. The session calls it under its lock, sends
what is in `outbox`, tells the settled tickets and opens the released ones outside of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from msgspec import Struct
from msgspec.structs import replace

from replicator.engine.parcel import Parcel, stream_name
from replicator.engine.ticket import Committed, Outcome, Settled, StoredLocally, Superseded, Ticket
from replicator.errors import Backlogged, CommitUnknown
from replicator.link import messages as link
from replicator.model import Epoch, NodeId, Position, StreamName

OPEN_TICKETS_MAX = 65_536
BLANK_TICKETS = 8

Ending = link.Stored | link.Committed | link.HeldByAll | link.Superseded | link.Aborted


class Entry(Struct, eq=False):
    """One checkpoint under way; a deletion has no parcel.

    *held_bytes* counts against the bound until nobody reads the payload any more. *submitted_at* and
    *sent_at* are seconds of the caller's clock.
    """

    handle: int
    ticket: Ticket
    parcel: Parcel | None
    held_bytes: int
    submitted_at: float
    sent_at: float
    position: int = 0  # on the direct line, once it has been written there
    committed: Committed | None = None  # the outcome of a ticket that waits for all members

    @property
    def sequence(self) -> int:
        return self.ticket.position.sequence

    @property
    def place(self) -> tuple[int, str, int, int]:
        """Epoch, stream, sequence and handle: how messages of the link begin that speak of it."""
        position = self.ticket.position
        return position.epoch, self.ticket.stream, position.sequence, self.handle


class Lane:
    """One stream's: the newest sequence given, the one with the worker, the one that waits."""

    __slots__ = ("flying", "last", "open", "waiting")

    def __init__(self) -> None:
        self.last = 0
        self.flying: Entry | None = None
        self.waiting: Entry | None = None
        self.open: dict[int, Entry] = {}  # by sequence, ascending: all whose tickets have not ended


class Backlog:
    """All lanes. *acks* says which message of the worker ends a ticket."""

    def __init__(self, bytes_max: int, acks: str = "quorum") -> None:
        self.outbox: deque[Entry] = deque()  # with the worker as far as credit goes, not sent yet
        self.held_bytes = 0
        self.open_count = 0
        self.bytes_max = bytes_max
        self._acks = acks
        self._lanes: dict[StreamName, Lane] = {}
        self._flying: dict[int, Entry] = {}
        self._awaited: dict[int, Entry] = {}  # committed, their tickets wait for all members
        self._held: dict[int, Entry] = {}  # sent, and not said to be released
        self._last_handle = 0
        self._blank: list[Ticket] = []

    # ── what the engine does ──

    def next_sequence(self, stream: StreamName) -> int:
        """What the next submit of the stream will get."""
        lane = self._lanes.get(stream)
        return 1 if lane is None else lane.last + 1

    def go_on(self, stream: StreamName, sequence: int) -> None:
        """The stream's head stands at *sequence*: the next ones are above it."""
        lane = self._lanes.setdefault(stream, Lane())
        lane.last = max(lane.last, sequence)

    def offer(
        self, epoch: Epoch, stream: str, parcel: Parcel | None, now: float
    ) -> tuple[Ticket, Entry | None]:
        """Take a checkpoint (None: a deletion). Returns its ticket, and the one that it replaced: its
        payload the caller drops outside of the lock, which takes time, and may run anybody's finalizer.

        Raises `Backlogged`, TypeError or ValueError (of the stream's name), and has then taken nothing.
        """
        # All in one: a call of another function costs more here than what it does. The engine's caches are
        # its own, and hold nothing of what runs once in a checkpoint.
        lane = self._lanes.get(stream) or self._lanes.setdefault(stream_name(stream), Lane())  # type: ignore[call-overload]
        replaced = lane.waiting
        size_bytes = parcel.size_bytes if parcel is not None else 0
        more_bytes = size_bytes - replaced.held_bytes if replaced is not None else size_bytes
        if self.held_bytes + more_bytes > self.bytes_max or self.open_count >= OPEN_TICKETS_MAX:
            raise self._refusal(more_bytes)
        ticket = self._blank.pop() if self._blank else Ticket()
        handle, sequence = self._last_handle + 1, lane.last + 1
        ticket.stream, ticket.position = StreamName(stream), Position(epoch, sequence)
        entry = lane.open[sequence] = Entry(handle, ticket, parcel, size_bytes, now, now)
        self._last_handle, lane.last = handle, sequence
        self.open_count += 1
        self.held_bytes += size_bytes
        if lane.flying is None:
            lane.flying = self._flying[handle] = entry
            self.outbox.append(entry)
            return ticket, None
        lane.waiting = entry
        if replaced is not None:
            self.held_bytes -= replaced.held_bytes
            replaced.held_bytes = 0
        return ticket, replaced

    def lay_in(self) -> None:
        """Make blank tickets ahead, while nobody waits: a Future and its lock are half of what `offer` does.
        One thread at a time."""
        while len(self._blank) < BLANK_TICKETS:
            self._blank.append(Ticket())

    def tickets(self) -> list[Ticket]:
        """All that are open."""
        return [entry.ticket for lane in self._lanes.values() for entry in lane.open.values()]

    # ── what the worker says ──

    def settle(self, message: Ending, now: float) -> list[Settled]:
        """What has become of a checkpoint, and what tickets end by it."""
        match message:
            case link.Stored():
                return list(self.stored(message.handle))
            case link.Committed():
                return list(self.committed(message, now))
            case link.HeldByAll():
                return list(self.held_by_all(message.handle, message.holders))
            case link.Superseded():
                return list(self.superseded(message.handle, message.by))
            case link.Aborted():
                return list(self.aborted(message.handle, message.reason))

    def sent(self, entry: Entry, now: float) -> None:
        """The entry was taken from `outbox` and has gone to the worker."""
        entry.sent_at = now
        if entry.parcel is not None:
            self._held[entry.handle] = entry

    def stored(self, handle: int) -> Iterator[Settled]:
        """The checkpoint is durable on this node."""
        entry = self._flying.get(handle)
        if entry is not None and self._acks == "local":
            lane = self._lanes[entry.ticket.stream]
            yield from self._end(lane, entry, StoredLocally(entry.ticket.position))

    def committed(self, message: link.Committed, now: float) -> Iterator[Settled]:
        """The checkpoint has committed, and with it all earlier ones of its stream (R14)."""
        if (entry := self._flying.get(message.handle)) is None:
            return
        lane = self._land(entry)
        yield from self._end_before(lane, entry.sequence, message.position)
        spans = {"waiting": entry.sent_at - entry.submitted_at, "total": now - entry.submitted_at}
        entry.committed = Committed(message.position, _nodes(message.holders), message.stages | spans)
        if self._acks == "all":
            self._awaited[message.handle] = entry
        else:
            yield from self._end(lane, entry, entry.committed)

    def held_by_all(self, handle: int, holders: tuple[str, ...]) -> Iterator[Settled]:
        """Every member that is up holds the checkpoint, or the later one that made it needless."""
        if (entry := self._awaited.get(handle)) is None:
            return
        lane = self._lanes[entry.ticket.stream]
        for earlier in tuple(lane.open.values()):
            if earlier.committed is not None and earlier.sequence <= entry.sequence:
                yield from self._end(lane, earlier, replace(earlier.committed, holders=_nodes(holders)))

    def superseded(self, handle: int, by: Position) -> Iterator[Settled]:
        """The checkpoint gave way to a later one that has committed."""
        if (entry := self._flying.get(handle)) is not None:
            yield from self._end_before(self._land(entry), entry.sequence + 1, by)

    def aborted(self, handle: int, reason: str) -> Iterator[Settled]:
        """The checkpoint's outcome will not be known in this tenure."""
        if (entry := self._flying.get(handle)) is None:
            return
        lane = self._land(entry)
        yield from self._end(lane, entry, _unknown(entry.ticket, reason))
        if lane.flying is None:  # nothing is to come whose commit would end those that it had replaced
            for older in tuple(lane.open.values()):
                if older.committed is None:
                    yield from self._end(lane, older, _unknown(older.ticket, reason))

    def released(self, handle: int) -> Ticket | None:
        """The worker reads the payload no longer; returns the ticket to be told so, the first time."""
        if (entry := self._held.pop(handle, None)) is None:
            return None
        self._let_go(entry)
        return entry.ticket

    def unsent(self, handles: Iterable[int]) -> list[Ticket]:
        """The worker could not read those: they go once more, before all others; returns the tickets of those
        that have ended meanwhile, whose payloads are free now."""
        entries = [entry for handle in handles if (entry := self._held.pop(handle, None)) is not None]
        self.outbox.extendleft(entry for entry in reversed(entries) if entry.handle in self._flying)
        return [self._let_go(entry) for entry in entries if entry.handle not in self._flying]

    # ── endings ──

    def end(self, reason: str) -> tuple[list[Settled], list[Ticket]]:
        """The tenure is over: returns what all open tickets end as, and those whose payloads are free."""
        settled: list[Settled] = []
        free: list[Ticket] = []
        for lane in self._lanes.values():
            for entry in tuple(lane.open.values()):
                settled += self._end(lane, entry, entry.committed or _unknown(entry.ticket, reason))
            if lane.waiting is not None:
                free.append(self._let_go(lane.waiting))
        free += map(self._let_go, self.outbox)
        self.outbox.clear()
        self._lanes.clear()
        self._flying.clear()
        return settled, free

    def lost(self) -> list[Ticket]:
        """The worker is gone with all it had; returns the tickets whose payloads are free now."""
        free = [self._let_go(entry) for entry in self._held.values()]
        self._held.clear()
        return free

    # ── one lane ──

    def _refusal(self, more_bytes: int) -> Backlogged:
        if self.held_bytes + more_bytes > self.bytes_max:
            return Backlogged(
                f"{self.held_bytes} bytes of checkpoints wait, REPLICATOR_BACKLOG_BYTES_MAX is"
                f" {self.bytes_max}: this one was not taken; submit a later one"
            )
        return Backlogged(f"{self.open_count} tickets are open: this checkpoint was not taken")

    def _land(self, entry: Entry) -> Lane:
        """The credit is back: the one that waits goes next."""
        del self._flying[entry.handle]
        lane = self._lanes[entry.ticket.stream]
        lane.flying = None
        if lane.waiting is not None:
            lane.flying, lane.waiting = lane.waiting, None
            self._flying[lane.flying.handle] = lane.flying
            self.outbox.append(lane.flying)
        return lane

    def _end_before(self, lane: Lane, sequence: int, by: Position) -> Iterator[Settled]:
        for entry in tuple(lane.open.values()):
            if entry.sequence >= sequence:
                break
            if entry.committed is None:
                yield from self._end(lane, entry, Superseded(entry.ticket.position, by))

    def _end(self, lane: Lane, entry: Entry, outcome: Outcome | CommitUnknown) -> Iterator[Settled]:
        """End the ticket, unless it has ended (it was stored, and that was enough)."""
        if lane.open.pop(entry.sequence, None) is not None:
            self._awaited.pop(entry.handle, None)
            self.open_count -= 1
            yield Settled(entry.ticket, outcome)

    def _let_go(self, entry: Entry) -> Ticket:
        self.held_bytes -= entry.held_bytes
        entry.held_bytes = 0
        entry.parcel = None
        return entry.ticket


def _nodes(names: tuple[str, ...]) -> tuple[NodeId, ...]:
    return tuple(map(NodeId, names))


def _unknown(ticket: Ticket, reason: str) -> CommitUnknown:
    epoch, sequence = ticket.position.epoch, ticket.position.sequence
    return CommitUnknown(
        f"{ticket.stream!r} at ({epoch}, {sequence}): {reason}; it may or may not be what is restored next"
    )
