"""The backlog against a dumb twin: any order of submits, commits, aborts, releases and ends."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from replicator.engine.backlog import Backlog, Entry
from replicator.engine.parcel import pack
from replicator.engine.ticket import Committed, Settled, Superseded, Ticket
from replicator.errors import Backlogged, CommitUnknown
from replicator.link import messages as link
from replicator.model import Epoch, Position, StreamName

BYTES_MAX = 30
STREAMS = st.sampled_from(["a", "b"]).map(StreamName)


class Twin(RuleBasedStateMachine):
    """Keeps every checkpoint it ever submitted, with all that it knows of it, and looks them all up."""

    def __init__(self) -> None:
        super().__init__()
        self.backlog = Backlog(BYTES_MAX)
        self.submitted: dict[str, list[Ticket]] = {"a": [], "b": []}
        self.sizes: dict[Ticket, int] = {}
        self.flying: dict[str, Entry] = {}
        self.overtaken: list[Entry] = []  # with the worker, and what becomes of them does not count
        self.reading: dict[int, Ticket] = {}
        self.ended: Counter[Ticket] = Counter()
        self.freed: Counter[Ticket] = Counter()

    @rule(stream=STREAMS, size=st.integers(0, 20))
    def submit(self, stream: StreamName, size: int) -> None:
        expected = self.backlog.next_sequence(stream)
        try:
            ticket = self.backlog.offer(Epoch(1), stream, pack(bytes(size), b"", False, 99), 0.0)
        except Backlogged:
            assert self.held() + size > BYTES_MAX or self.waits(stream)
            assert self.backlog.next_sequence(stream) == expected
            return
        assert ticket.position == Position(1, expected)
        self.submitted[stream].append(ticket)
        self.sizes[ticket] = size
        self.let_go()

    @rule(stream=STREAMS)
    def delete(self, stream: StreamName) -> None:
        """It goes at once, whatever checkpoint is with the worker (R21); not before another ends (T20)."""
        going = [entry for entry in self.backlog.outbox if entry.ticket.stream == stream]
        newest = going[-1] if going else self.flying.get(stream)
        waits = newest is not None and newest.deletes
        ticket = self.backlog.offer(Epoch(1), stream, None, 0.0)
        assert (ticket in [entry.ticket for entry in self.backlog.outbox]) is not waits
        if not waits and (entry := self.flying.pop(stream, None)):
            self.overtaken.append(entry)
        self.submitted[stream].append(ticket)
        self.sizes[ticket] = 0
        self.let_go()

    @rule()
    def hear_of_overtaken(self) -> None:
        """What a deletion has overtaken ends with that, whatever the worker says of it."""
        for entry in self.overtaken:
            assert not self.backlog.committed(link.Committed(entry.handle, Position(1, 9), ()), 2.0)
            assert not self.backlog.superseded(entry.handle, Position(1, 9))
            assert not self.backlog.aborted(entry.handle, "full")

    @rule()
    def send(self) -> None:
        while self.backlog.outbox:
            entry = self.backlog.outbox.popleft()
            stream = entry.ticket.stream
            if stream in self.flying:  # one with the worker, or a deletion after it
                assert entry.parcel is None
                self.overtaken.append(self.flying[stream])
            self.flying[stream] = entry
            if entry.parcel is not None:
                self.reading[entry.handle] = entry.ticket
            self.backlog.sent(entry, 1.0)

    @rule(stream=STREAMS)
    def commit(self, stream: StreamName) -> None:
        if entry := self.flying.pop(stream, None):
            position = entry.ticket.position
            earlier = [t for t in self.open(stream) if t.position.sequence < position.sequence]
            settled = list(self.backlog.committed(link.Committed(entry.handle, position, ()), 2.0))
            *others, last = settled
            assert [(s.ticket, s.outcome) for s in others] == [
                (ticket, Superseded(ticket.position, position)) for ticket in earlier
            ]
            assert isinstance(last.outcome, Committed)
            assert last.ticket is entry.ticket
            self.end(settled)

    @rule(stream=STREAMS)
    def abort(self, stream: StreamName) -> None:
        if entry := self.flying.pop(stream, None):
            replaced = [ticket for ticket in self.open(stream) if ticket is not entry.ticket]
            goes_on = any(t.position > entry.ticket.position and not self.freed[t] for t in replaced)
            settled = list(self.backlog.aborted(entry.handle, "full"))
            assert all(isinstance(item.outcome, CommitUnknown) for item in settled)
            # What it had replaced ends by a later one's commit, or now if there is none.
            assert [item.ticket for item in settled] == [entry.ticket, *([] if goes_on else replaced)]
            self.end(settled)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.reading:
            handle = data.draw(st.sampled_from(sorted(self.reading)))
            ticket = self.reading.pop(handle)
            self.backlog.released(handle)
            assert [entry.ticket for entry in self.backlog.free.values()] == [ticket]
            self.let_go()
            self.backlog.released(handle)
            assert not self.backlog.free

    @rule()
    def unread(self) -> None:
        """The worker says that it cannot read what it has not read."""
        flying = {entry.handle for entry in self.flying.values()}
        ended = [ticket for handle, ticket in self.reading.items() if handle not in flying]
        self.backlog.unsent(self.reading)
        assert [entry.ticket for entry in self.backlog.free.values()] == ended
        self.let_go()
        again = [handle for handle in self.reading if handle in flying]
        assert [entry.handle for entry in self.backlog.outbox][: len(again)] == again  # before what waits
        for handle in again:
            del self.flying[self.reading[handle].stream]
        self.reading.clear()

    @rule()
    def end_tenure(self) -> None:
        open_before = {ticket for stream in self.submitted for ticket in self.open(stream)}
        count, outcomes = self.backlog.end("deposed")
        settled = list(outcomes)
        assert count == len(settled)
        assert {s.ticket for s in settled} == open_before
        assert all(isinstance(s.outcome, CommitUnknown) for s in settled)
        self.end(settled)
        self.let_go()
        self.flying.clear()
        self.submitted = {"a": [], "b": []}

    def let_go(self) -> None:
        for entry in self.backlog.free.values():
            assert entry.held_bytes == 0
            self.freed[entry.ticket] += 1
        self.backlog.free.clear()

    def end(self, settled: list[Settled]) -> None:
        for item in settled:
            item.tell()
            self.ended[item.ticket] += 1

    def open(self, stream: str) -> list[Ticket]:
        return [ticket for ticket in self.submitted[stream] if not ticket.done()]

    def held(self) -> int:
        return sum(size for ticket, size in self.sizes.items() if not self.freed[ticket])

    def waits(self, stream: str) -> bool:
        return sum(not self.freed[ticket] for ticket in self.open(stream)) > 1

    @invariant()
    def counts(self) -> None:
        """Bytes are counted until they are free, tickets end once, payloads are freed once."""
        assert self.backlog.held_bytes == self.held() <= BYTES_MAX
        still_open = [ticket for stream in self.submitted for ticket in self.open(stream)]
        assert {entry.ticket for entry in self.backlog.entries()} == set(still_open)
        assert self.backlog.open_count == len(still_open)
        assert max(self.ended.values(), default=0) <= 1
        assert max(self.freed.values(), default=0) <= 1


TestBacklog = Twin.TestCase
TestBacklog.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_deletions_that_come_faster_than_they_commit_end_all_the_same() -> None:
    """One that overtook another would leave no ticket to be ended by what the worker says (T20)."""
    backlog = Backlog(BYTES_MAX)
    tickets = []
    for _ in range(3):
        tickets.append(backlog.offer(Epoch(1), "a", pack(b"x", b"", False, 99), 0.0))
        tickets.append(backlog.offer(Epoch(1), "a", None, 0.0))
    _, deletion = backlog.outbox
    settled = backlog.committed(link.Committed(deletion.handle, Position(1, 2), ()), 1.0)
    assert [item.ticket for item in settled] == tickets[:2]
    assert backlog.outbox[-1].ticket is tickets[-1]
