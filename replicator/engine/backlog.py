"""The backlog: all checkpoints between `submit` and their end, latest wins (R17).

Per stream one checkpoint is with the worker and runs to its commit, and at most one waits here as a
reference; a newer one replaces the waiting one. A replaced one is let go of at once, but its ticket stays
open until a later checkpoint of the stream commits (then it is superseded) or the tenure ends (unknown).
A deletion waits for no checkpoint: it makes the room that the one with the worker may not find, and takes its
place (R21). What becomes of that one is not asked any more; it ends as a replaced one does. Another deletion
it lets run to its commit, so that something ends however fast they come (T20).

Decides and does nothing: no lock, thread, clock or socket. The session calls it under its lock, sends
what is in `outbox`, and tells the settled tickets and lets go of what is `free` outside of it. Under the lock
the tickets that end are only set apart, however many they are: what each ends as is made when it is told.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain
from operator import attrgetter

from msgspec import Struct
from msgspec.structs import replace

from replicator.engine.parcel import Parcel, stream_name
from replicator.engine.ticket import Committed, Outcome, Settled, StoredLocally, Superseded, Ticket
from replicator.errors import Backlogged, CommitUnknown
from replicator.link import messages as link
from replicator.model import Epoch, NodeId, Position, StreamName

OPEN_TICKETS_MAX = 65_536
BLANK_TICKETS = 8

TellsOfCommit = link.Committed | link.HeldByAll | link.Superseded
Ending = link.Stored | TellsOfCommit | link.Aborted


class Entry(Struct, eq=False):
    """One checkpoint under way; a deletion has no parcel, nor has what nobody reads any more.

    *held_bytes* counts against the bound until nobody reads the payload any more. *submitted_at* and
    *sent_at* are seconds of the caller's clock.
    """

    handle: int
    ticket: Ticket
    parcel: Parcel | None
    held_bytes: int
    submitted_at: float
    sent_at: float
    deletes: bool
    position: int = 0  # on the direct line, once it has been written there
    committed: Committed | None = None  # the outcome of a ticket that waits for all members
    has_ended: bool = False  # before its commit: it was stored, and that was enough

    @property
    def place(self) -> tuple[int, str, int, int]:
        """Epoch, stream, sequence and handle: how messages of the link begin that speak of it."""
        position = self.ticket.position
        return position.epoch, self.ticket.stream, position.sequence, self.handle


_handle = attrgetter("handle")

MakeOutcome = Callable[[Entry], Outcome | CommitUnknown]


class Lane:
    """One stream's checkpoints that have not ended, and the newest sequence given."""

    __slots__ = ("awaited", "flying", "last", "older", "replaced", "waiting")

    def __init__(self) -> None:
        # Of very many streams most need no list: each would be one more object for the garbage collector.
        self.last = 0
        self.awaited: list[Entry] | None = None  # committed, their tickets wait for all members
        self.older: list[Entry] | None = None  # were replaced, and end with the one with the worker
        self.flying: Entry | None = None  # with the worker
        self.replaced: list[Entry] | None = None  # since it went, and end with the one that waits
        self.waiting: Entry | None = None

    def __iter__(self) -> Iterator[Entry]:
        """All, by their sequences."""
        flying = () if self.flying is None else (self.flying,)
        waiting = () if self.waiting is None else (self.waiting,)
        replaced = self.replaced or ()
        return chain(self.awaited or (), self.older or (), flying, replaced, waiting)

    def take_older(self) -> list[Entry]:
        """Those that end with the one that has landed; the next one's take their place."""
        older, self.older, self.replaced = self.older, self.replaced, None
        return older or []


class Batch:
    """Tickets that end, some lanes' or some of a lane: what each ends as is made when it is told, and once
    more for whoever wants to know meanwhile which are still to be told."""

    __slots__ = ("_lanes", "_outcome")

    def __init__(self, lanes: Collection[Iterable[Entry]], outcome: MakeOutcome) -> None:
        self._lanes = lanes
        self._outcome = outcome

    def __iter__(self) -> Iterator[Settled]:
        entries = chain.from_iterable(self._lanes)
        return (Settled(entry.ticket, self._outcome(entry)) for entry in entries if not entry.has_ended)


class Backlog:
    """All lanes. *acks* says which message of the worker ends a ticket."""

    def __init__(self, bytes_max: int, acks: str = "quorum") -> None:
        self.outbox: deque[Entry] = deque()  # with the worker as far as credit goes, not sent yet
        self.free: dict[int, Entry] = {}  # by handle: nobody reads the payload, it is to be let go of
        self.held_bytes = 0
        self.open_count = 0
        self.bytes_max = bytes_max
        self._acks = acks
        self._lanes: dict[StreamName, Lane] = {}
        self._flying: dict[int, Entry] = {}
        self._awaited: dict[int, Lane] = {}  # by handle: where the committed wait for all members
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

    def offer(self, epoch: Epoch, stream: str, parcel: Parcel | None, now: float) -> Ticket:
        """Take a checkpoint (None: a deletion); returns its ticket. One that it replaces is `free`.

        Raises `Backlogged`, TypeError or ValueError (of the stream's name), and has then taken nothing.
        """
        # All in one: a call of another function costs more here than what it does. The engine's caches are
        # its own, and hold nothing of what runs once in a checkpoint. And a signal's handler may raise after
        # every call: none is between the first thing that is noted and the last.
        lane = self._lanes.get(stream) or self._lanes.setdefault(stream_name(stream), Lane())  # type: ignore[call-overload]
        replaced = lane.waiting
        size_bytes = parcel.size_bytes if parcel is not None else 0
        more_bytes = size_bytes - replaced.held_bytes if replaced is not None else size_bytes
        if self.held_bytes + more_bytes > self.bytes_max or self.open_count >= OPEN_TICKETS_MAX:
            raise self._refusal(more_bytes)
        ticket = self._blank.pop() if self._blank else Ticket()
        handle, sequence = self._last_handle + 1, lane.last + 1
        ticket.stream, ticket.position = stream, Position(epoch, sequence)  # type: ignore[assignment]
        entry = Entry(handle, ticket, parcel, size_bytes, now, now, parcel is None)
        self._last_handle, lane.last = handle, sequence
        self.open_count += 1
        self.held_bytes += size_bytes
        if replaced is not None:
            self.held_bytes -= replaced.held_bytes
            replaced.held_bytes = 0
            self.free[replaced.handle] = replaced
            lane.replaced = lane.replaced or []
            lane.replaced += [replaced]
        if parcel is None and lane.flying is not None and not lane.flying.deletes:
            del self._flying[lane.flying.handle]
            lane.older = lane.older or []
            lane.older += [lane.flying, *(lane.replaced or ())]
            lane.flying = lane.waiting = lane.replaced = None
        if lane.flying is None:
            lane.flying = self._flying[handle] = entry
            self.outbox.append(entry)
        else:
            lane.waiting = entry
        return ticket

    def lay_in(self) -> None:
        """Make blank tickets ahead, while nobody waits: a Future and its lock are half of what `offer` does.
        One thread at a time."""
        while len(self._blank) < BLANK_TICKETS:
            self._blank.append(Ticket())

    def entries(self) -> list[Entry]:
        """All that are under way, for a look outside of the lock."""
        return [entry for lane in self._lanes.values() for entry in lane]

    # ── what the worker says ──

    def settle(self, message: Ending, now: float) -> Iterable[Settled]:
        """What has become of a checkpoint, and what tickets end by it."""
        match message:
            case link.Stored():
                return self.stored(message.handle)
            case link.Committed():
                return self.committed(message, now)
            case link.HeldByAll():
                return self.held_by_all(message.handle, message.holders)
            case link.Superseded():
                return self.superseded(message.handle, message.by)
            case link.Aborted():
                return self.aborted(message.handle, message.reason)

    def sent(self, entry: Entry, now: float) -> None:
        """The entry is taken from `outbox` and goes to the worker: nothing else knows of its payload then."""
        entry.sent_at = now
        if entry.parcel is not None:
            self._held[entry.handle] = entry

    def stored(self, handle: int) -> Iterable[Settled]:
        """The checkpoint is durable on this node. It counts until it is known to be so elsewhere."""
        entry = self._flying.get(handle)
        if entry is None or entry.has_ended or self._acks != "local":
            return ()
        entry.has_ended = True
        return (Settled(entry.ticket, StoredLocally(entry.ticket.position)),)

    def committed(self, message: link.Committed, now: float) -> Iterable[Settled]:
        """The checkpoint has committed, and with it all earlier ones of its stream (R14)."""
        if (entry := self._flying.get(message.handle)) is None:
            return ()
        lane = self._land(entry)
        spans = {"waiting": entry.sent_at - entry.submitted_at, "total": now - entry.submitted_at}
        outcome = Committed(message.position, tuple(map(NodeId, message.holders)), message.stages | spans)
        superseded = _superseded(message.position)
        if self._acks == "all":
            entry.committed = outcome
            lane.awaited = lane.awaited or []
            lane.awaited.append(entry)
            self._awaited[message.handle] = lane
            return self._end(lane.take_older(), superseded)
        ended = [*lane.take_older(), entry]
        return self._end(ended, lambda each: outcome if each is entry else superseded(each))

    def held_by_all(self, handle: int, holders: tuple[str, ...]) -> Iterable[Settled]:
        """Every member that is up holds the checkpoint, or the later one that made it needless."""
        lane = self._awaited.get(handle)
        if lane is None or lane.awaited is None:
            return ()
        count = bisect_right(lane.awaited, handle, key=_handle)
        ended, lane.awaited = lane.awaited[:count], lane.awaited[count:]
        for entry in ended:
            del self._awaited[entry.handle]
        return self._end(ended, _held_by(tuple(map(NodeId, holders))))

    def superseded(self, handle: int, by: Position) -> Iterable[Settled]:
        """The checkpoint gave way to a later one that has committed."""
        if (entry := self._flying.get(handle)) is None:
            return ()
        return self._end([*self._land(entry).take_older(), entry], _superseded(by))

    def aborted(self, handle: int, reason: str) -> Iterable[Settled]:
        """The checkpoint's outcome will not be known in this tenure."""
        if (entry := self._flying.get(handle)) is None:
            return ()
        lane = self._land(entry)
        lane.older, lane.replaced = [*(lane.older or ()), *(lane.replaced or ())], None
        # If nothing is to come, there is no commit that would end those that it had replaced.
        replaced = lane.take_older() if lane.flying is None else []
        return self._end([entry, *replaced], _unknown(reason))

    def released(self, handle: int) -> None:
        """The worker reads the payload no longer. A signal's handler may raise in here: what has been done is
        done once more without harm."""
        if (entry := self._held.get(handle)) is not None:
            self._spare(entry)
            self._held.pop(handle, None)

    def unsent(self, handles: Iterable[int]) -> None:
        """The worker could not read those: they go once more, before all others; the payloads of those that
        have ended meanwhile are free."""
        entries = [entry for handle in handles if (entry := self._held.pop(handle, None)) is not None]
        self.outbox.extendleft(entry for entry in reversed(entries) if entry.handle in self._flying)
        for entry in entries:
            if entry.handle not in self._flying:
                self._spare(entry)

    # ── endings ──

    def end(self, reason: str) -> tuple[int, Iterable[Settled]]:
        """The tenure is over: returns how many were open, and what their tickets end as. The payloads that
        the worker has not been told of are free."""
        lanes, count = self._lanes, self.open_count
        self._lanes, self.open_count = {}, 0
        for lane in lanes.values():
            if lane.waiting is not None:
                self._spare(lane.waiting)
        for entry in self.outbox:
            self._spare(entry)
        self.outbox.clear()
        self._flying.clear()
        self._awaited.clear()
        return count, Batch(lanes.values(), _unknown(reason))

    def lost(self) -> None:
        """The worker is gone with all it had: the payloads are free."""
        for entry in self._held.values():
            self._spare(entry)
        self._held.clear()

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
        lane.flying, lane.waiting = lane.waiting, None
        if lane.flying is not None:
            self._flying[lane.flying.handle] = lane.flying
            self.outbox.append(lane.flying)
        return lane

    def _end(self, entries: list[Entry], outcome: MakeOutcome) -> Batch:
        self.open_count -= len(entries)
        return Batch([entries], outcome)

    def _spare(self, entry: Entry) -> None:
        """Nobody reads the payload: its bytes count no longer."""
        self.held_bytes -= entry.held_bytes
        entry.held_bytes = 0
        self.free[entry.handle] = entry


# ── outcomes: made when they are told ──


def _superseded(by: Position) -> MakeOutcome:
    return lambda entry: Superseded(entry.ticket.position, by)


def _held_by(holders: tuple[NodeId, ...]) -> MakeOutcome:
    def outcome(entry: Entry) -> Committed:
        assert entry.committed is not None
        return replace(entry.committed, holders=holders)

    return outcome


def _unknown(reason: str) -> MakeOutcome:
    """What has committed, and only waited for all members, is known."""

    def outcome(entry: Entry) -> Committed | CommitUnknown:
        stream, position = entry.ticket.stream, entry.ticket.position
        return entry.committed or CommitUnknown(
            f"{stream!r} at ({position.epoch}, {position.sequence}): {reason};"
            " it may or may not be what is restored next"
        )

    return outcome
