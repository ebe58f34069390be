"""Payloads that are read where they lie: told of on a line, taken back when a word says that they are."""

from __future__ import annotations

import select
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from replicator.bell import Bell
from replicator.engine.backlog import Backlog
from replicator.engine.lending import Lending
from replicator.engine.parcel import pack
from replicator.engine.ticket import Released, Ticket
from replicator.link import messages as link, ring
from replicator.link.line import EngineLine
from replicator.link.ring import WANTED, Ring
from replicator.model import Epoch, StreamName
from tests.engine.conftest import after, before
from tests.engine.fake_worker import DEADLINE_S


class Lender:
    """A lending with a real line, whose other end is played here."""

    def __init__(self) -> None:
        self.lock, self.bell = threading.Lock(), Bell()
        self.backlog = Backlog(1000)
        self.lending = Lending(self.lock, self.backlog, self.bell)
        self.line = EngineLine()
        self.reader = Ring(self.line.worker_fds[:2])
        self.lending.use(self.line)

    def submit(self, stream: str, payload: bytearray | None) -> Ticket:
        """A checkpoint (None: a deletion), sent if it can be."""
        parcel = None if payload is None else pack(payload, b"", False, 1000)
        ticket = self.backlog.offer(Epoch(1), StreamName(stream), parcel, 1.0)
        with self.lock:
            self.lending.send(2.0)
        return ticket

    def read(self) -> None:
        """The worker reads the next one."""
        assert self.reader.take() is not None
        self.reader.done()

    def end(self) -> None:
        """The worker is gone."""
        with self.lock:
            self.backlog.lost()
            self.lending.lost()
        self.lending.let_go()

    def close(self) -> None:
        """Close all that is open."""
        self.line.close()
        self.bell.close()


class Pooled(bytearray):
    """A buffer of a pool, which wants it back."""


@pytest.fixture
def lender() -> Iterator[Lender]:
    made = Lender()
    yield made
    made.close()


def test_who_looks_takes_back_what_was_read(lender: Lender) -> None:
    """In order, and nothing of what was not; nobody else had to be told."""
    payloads = [bytearray(100) for _ in range(3)]
    tickets = [lender.submit(f"s{number}", payload) for number, payload in enumerate(payloads)]
    assert lender.backlog.held_bytes == 300
    assert not any(ticket.released.is_set() for ticket in tickets)
    lender.read()
    lender.read()
    assert tickets[1].released.is_set()
    assert lender.backlog.held_bytes == 100
    payloads[0].clear()  # it was not asked for, but read before the one that was
    payloads[1].clear()
    assert [ticket.released.is_set() for ticket in tickets] == [True, True, False]


def test_who_waits_asks_to_be_told(lender: Lender) -> None:
    """The worker sees the wish, the link's thread is woken for it; both forget it when all has been read."""
    ticket = lender.submit("s", bytearray(100))
    lender.bell.doze()
    waiter = threading.Thread(target=ticket.released.wait, args=(DEADLINE_S,))
    waiter.start()
    while not lender.lending.is_awaited:
        pass
    assert lender.reader.words[WANTED]
    lender.read()
    assert not ticket.released._open
    lender.lending.take_back()  # as the link's thread does
    waiter.join(DEADLINE_S)
    assert not waiter.is_alive()
    assert not lender.lending.is_awaited
    assert not lender.reader.words[WANTED]


def test_what_was_not_read_goes_by_the_link(lender: Lender) -> None:
    """All of it, in order; what was read is free, and what has ended meanwhile, too."""
    tickets = [lender.submit(f"s{number}", bytearray(100)) for number in range(4)]
    lender.read()
    handle = lender.backlog._lanes[StreamName("s2")].flying.handle  # type: ignore[union-attr]
    assert len(list(lender.backlog.aborted(handle, "over"))) == 1
    lender.lending.go_by_link()
    assert [ticket.released.is_set() for ticket in tickets] == [True, False, True, False]
    assert [entry.ticket for entry in lender.backlog.outbox] == [tickets[1], tickets[3]]
    assert lender.backlog.held_bytes == 200
    for _ in range(3):
        lender.read()
    assert not tickets[1].released.is_set(), "the line's word says nothing any more"
    later = lender.submit("s9", bytearray(100))
    assert lender.backlog.outbox[-1].ticket is later


@pytest.mark.parametrize("how", [Lending.go_by_link, Lending.disown])
def test_who_may_not_use_the_line_says_nothing_there(lender: Lender, how: Callable[[Lending], None]) -> None:
    """The worker could not read it, or it is the parent's worker: what comes waits for the link."""
    lender.lending.await_read()
    lender.submit("s", bytearray(100))
    lender.lending.await_read()
    how(lender.lending)
    lender.backlog.outbox.clear()
    ticket = lender.submit("other", bytearray(100))
    assert lender.backlog.outbox[0].ticket is ticket
    assert not lender.lending.has_read(0)
    if how is Lending.go_by_link:
        assert not lender.lending.is_awaited


def test_who_began_to_wait_before_it_went_is_told(lender: Lender) -> None:
    """The second of a stream waits in the engine until the first has committed; nobody lends it till then."""
    first, second = lender.submit("s", bytearray(100)), lender.submit("s", bytearray(100))
    waiter = threading.Thread(target=second.released.wait, args=(DEADLINE_S,))
    waiter.start()
    while not second.released.waiters:
        pass
    assert not lender.lending.is_awaited
    handle = lender.backlog._lanes[StreamName("s")].flying.handle  # type: ignore[union-attr]
    assert list(lender.backlog.committed(link.Committed(handle, first.position, ()), 3.0))
    lender.bell.doze()
    with lender.lock:
        assert lender.lending.send(4.0)
    assert select.select([lender.bell], [], [], 0)[0], "the link's thread has to look soon"
    assert lender.lending.is_awaited
    assert lender.reader.words[WANTED]
    lender.read()
    lender.read()
    lender.lending.take_back()
    waiter.join(DEADLINE_S)
    assert not waiter.is_alive()


@pytest.mark.parametrize(("owner", "name"), [(ring.Ring, "put"), (ring, "ring_holding"), (Backlog, "sent")])
def test_a_checkpoint_is_told_of_once_whatever_a_signal_interrupts(
    lender: Lender, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    """The handler raises in the midst: whoever comes next goes on with what was begun."""
    monkeypatch.setattr(owner, name, after(getattr(owner, name)))
    payload = bytearray(100)
    with pytest.raises(KeyboardInterrupt):
        lender.submit("s", payload)
    (entry,) = lender.backlog.outbox
    with lender.lock:
        assert lender.lending.send(3.0)
    lender.read()
    assert lender.reader.take() is None
    assert entry.ticket.released.is_set()
    assert lender.backlog.held_bytes == 0
    payload.clear()


@pytest.mark.parametrize("interrupted", [before, after])
@pytest.mark.parametrize(
    ("owner", "name"),
    [(Backlog, "released"), (Backlog, "_spare"), (Lending, "let_go"), (Released, "set")],
)
def test_a_look_that_a_signal_interrupts_is_made_good_by_the_next(
    lender: Lender,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    interrupted: Callable[..., Callable[..., Any]],
) -> None:
    """What was taken back is released and counts no more, though the handler has raised between the two."""
    ticket = lender.submit("s", bytearray(100))
    lender.read()
    monkeypatch.setattr(owner, name, interrupted(getattr(owner, name)))
    with pytest.raises(KeyboardInterrupt):
        ticket.released.is_set()
    assert ticket.released.is_set()
    assert lender.backlog.held_bytes == 0
    again = lender.submit("t", bytearray(100))
    lender.read()
    monkeypatch.setattr(owner, name, interrupted(getattr(owner, name)))
    with pytest.raises(KeyboardInterrupt):
        again.released.is_set()
    lender.end()
    assert again.released.is_set(), "nor is it forgotten when the worker ends then"
    assert lender.backlog.held_bytes == 0


@pytest.mark.parametrize("how", ["look", "go_by_link", "end"])
def test_a_payloads_finalizer_runs_outside_of_the_lock(lender: Lender, how: str) -> None:
    """Whoever takes it back, it may take locks of its own."""
    could: list[bool] = []

    def give_back() -> None:
        could.append(lender.lock.acquire(timeout=DEADLINE_S / 2))
        lender.lock.release()

    payload = Pooled(100)
    weakref.finalize(payload, give_back)
    released = lender.submit("s", payload).released
    del payload
    if how == "end":
        lender.end()
    else:
        lender.read()
        if how == "go_by_link":
            lender.lending.go_by_link()
    assert released.is_set()
    assert could == [True]


def test_a_deletion_takes_the_link(lender: Lender) -> None:
    """As does what comes after it, until the link's thread has sent it: what came first goes first."""
    lender.submit("s", None)
    assert len(lender.backlog.outbox) == 1
    assert lender.reader.take() is None


def test_the_end_of_the_worker_leaves_no_wish(lender: Lender) -> None:
    """Whoever waits then is told by the session, which opens everything."""
    ticket = lender.submit("s", bytearray(100))
    lender.lending.await_read()
    assert lender.lending.is_awaited
    lender.end()
    assert ticket.released.is_set()
    assert not lender.lending.is_awaited
    lender.lending.await_read()
    assert not lender.lending.is_awaited


def test_several_threads_may_release_one_payload(lender: Lender) -> None:
    """Each finds it free and a waiter that nobody has told: the slower one is not mistaken for a failure,
    which would end the tenure in the link's thread, and lose the caller of `submit` his ticket."""
    ticket = lender.submit("s", bytearray(100))
    door = threading.Lock()
    door.acquire()

    def be_outrun() -> None:
        door.release()
        door.release()

    ticket.released._enter(be_outrun)
    lender.read()
    lender.lending.take_back()
    assert not door.locked()
    assert not ticket.released.waiters
    assert lender.backlog.free == {}
