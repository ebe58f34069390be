"""The direct line: checkpoints that the worker reads where they lie, and what comes back of them."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import zmq

from replicator.errors import MessageError
from replicator.link import line as line_module, memory, messages as link
from replicator.link.endpoint import EngineEnd, WorkerEnd
from replicator.link.line import (
    DATAGRAM_BYTES_MAX,
    PIECE_BYTES,
    SLICE_BYTES,
    EngineLine,
    WorkerFds,
    WorkerLine,
)
from replicator.link.ring import ADDRESS, CAPACITY_BYTES, NONCE, Ring
from replicator.model import META_BYTES_MAX, Buffer, Position
from tests.link.test_endpoint import take

LARGE = SLICE_BYTES * 2 + 12_345


def inherited(line: EngineLine) -> WorkerFds:
    """The descriptors that a child would have got."""
    memory_fd, bell, sock = map(os.dup, line.worker_fds)
    return memory_fd, bell, sock


class Ends:
    """A link with a direct line; this process plays both the engine and its child."""

    def __init__(self, address: str) -> None:
        self.line = EngineLine()
        self.worker_line = WorkerLine(inherited(self.line), os.getpid())
        self.engine = EngineEnd(address)
        self.worker = WorkerEnd(address, self.engine.context, self.worker_line)
        self.engine.use(self.line)
        self.worker.send(link.Started("edge-1", True))
        assert take(self.hear) == link.Started("edge-1", True)

    def hear(self) -> Iterator[link.ToEngine]:
        """What the engine hears."""
        self.engine.wait(0)
        return (message for message, _ in self.engine.receive())

    def submit(self, handle: int, **parts: bytes | memoryview) -> int:
        """Submit by the direct line; where it is read to when it has been read."""
        return self.send(handle, parts, b"meta", True)

    def send(self, handle: int, parts: Mapping[str, Buffer], meta: bytes, is_mapping: bool) -> int:
        """Write down a checkpoint and tell of it."""
        position = self.line.send((1, "s", handle, handle), parts, meta, is_mapping)
        self.line.tell(position)
        return position

    def close(self) -> None:
        """Close all that is open."""
        self.line.close()
        self.worker_line.close()
        self.worker.close(0)
        self.engine.close()


@pytest.fixture
def ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ends]:
    monkeypatch.setattr(os, "getppid", os.getpid)
    made = Ends(f"ipc://{tmp_path}/link.sock")
    yield made
    made.close()


def test_the_address_is_where_the_bytes_lie() -> None:
    """Of each kind of buffer that a payload may be, also of a part of one."""
    changeable = bytearray(b"0123456789" * 9)
    for part in (b"constant" * 9, memoryview(b"constant" * 9)[3:], memoryview(changeable)[7:]):
        assert ctypes.string_at(memory.address_of(part), len(part)) == part
    del part
    changeable.clear()  # nothing holds it


def test_a_checkpoint_is_read_where_it_lies(ends: Ends) -> None:
    """Its parts arrive as with a Submit, and are then a copy: a word of memory says so, nobody is woken."""
    large = bytearray(os.urandom(LARGE))
    assert ends.worker_line.can_read()
    read_at = ends.submit(7, a=b"small", b=memoryview(large), c=b"")
    assert ends.line.passed[0] < read_at
    message, parts = take(ends.worker.receive)
    assert ends.line.passed[0] == read_at
    assert list(ends.hear()) == []
    assert message == link.Submit(1, "s", 7, 7, b"meta", ("a", "b", "c"), True)
    assert parts == [b"small", large, b""]
    large[0] ^= 1
    assert parts[1] != large


def test_who_waits_for_a_payload_to_be_read_is_told(ends: Ends) -> None:
    """As long as somebody does."""
    ends.line.want_released(True)
    ends.submit(1, a=b"small")
    take(ends.worker.receive)
    assert take(ends.hear) == link.Released(1)
    ends.line.want_released(False)
    ends.submit(2, a=b"small")
    take(ends.worker.receive)
    assert list(ends.hear()) == []


def test_what_came_first_is_read_first(ends: Ends) -> None:
    """Said on the link after a checkpoint: heard after it, however many goes that takes."""
    large = memoryview(bytearray(LARGE))
    assert ends.submit(1, a=large)
    ends.engine.send(link.Resign(1))
    ends.worker.socket.poll(10_000)
    assert list(ends.worker.receive()) == []  # a piece has been read, and nothing else
    assert ends.worker_line.is_reading
    assert ends.submit(2, a=b"small")
    heard = [type(take(ends.worker.receive)[0]) for _ in range(3)]
    assert heard == [link.Submit, link.Submit, link.Resign]


def test_the_engine_too_reads_first_what_came_first(ends: Ends) -> None:
    """A commit before the end of its tenure, though they come by two ways."""
    committed = link.Committed(7, Position(1, 7), ("a", "b"), {"commit": 0.5})
    ends.worker.send(committed)
    ends.worker.send(link.TenureEnded(1, "over"))
    assert ends.engine.wait_for_link(10_000)
    assert [message for message, _ in ends.engine.receive()] == [committed, link.TenureEnded(1, "over")]


def test_what_cannot_be_read_takes_the_link(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """And all that comes after it: a word says what has been read, so nothing may be passed over."""
    first = ends.submit(1, a=b"small")
    assert isinstance(take(ends.worker.receive)[0], link.Submit)
    monkeypatch.setattr(memory, "address_of", lambda part: 8)
    assert ends.submit(2, a=b"small")
    monkeypatch.undo()
    assert ends.submit(3, a=b"small")
    assert list(ends.worker.receive()) == []
    assert isinstance(take(ends.hear), link.Unread)
    assert ends.line.passed[0] == first
    assert list(ends.worker.receive()) == []
    assert list(ends.hear()) == []
    assert not ends.worker_line.is_reading
    assert ends.worker.socket.poll(0, zmq.POLLIN) == 0
    with pytest.raises(BlockingIOError):  # nor is anybody woken by what is left there
        os.eventfd_read(ends.worker_line.fileno())


def test_the_process_must_be_the_one_that_started_it(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not another that has its number now, nor one in which something else lies at that place."""
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert not ends.worker_line.can_read()
    ends.submit(1, a=b"small")
    assert list(ends.worker.receive()) == []
    assert "engine is gone" in take(ends.hear).reason  # type: ignore[union-attr]


def test_memory_that_looks_different_is_not_the_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number that both share does not stand where the engine says that it does."""
    line = EngineLine()
    elsewhere = Ring.create()
    monkeypatch.setattr(os, "getppid", os.getpid)
    worker_line = WorkerLine(inherited(line), os.getpid())
    assert worker_line.can_read()
    elsewhere.words[NONCE] = line._ring.words[NONCE] ^ 1
    line._ring.words[ADDRESS] = memory.address_of(elsewhere.words)
    assert not worker_line.can_read()
    for each in (line, worker_line, elsewhere):
        each.close()


def test_a_payload_is_dropped_if_another_program_runs_there_by_the_end(ends: Ends) -> None:
    """An exec while it was read: its last pieces would be those of whatever lies there now."""
    large = memoryview(bytearray(LARGE))
    assert ends.submit(1, a=large)
    assert list(ends.worker.receive()) == []
    assert ends.worker_line.is_reading
    other_program = Ring.create()
    ends.line._ring.words[ADDRESS] = memory.address_of(other_program.words)
    while ends.worker_line.is_reading:
        assert list(ends.worker.receive()) == []
    assert "another program" in take(ends.hear).reason
    assert ends.line.passed[0] == 0
    other_program.close()


def test_no_memory_for_a_payload_is_said_of_that_payload(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker goes on with the next one."""
    monkeypatch.setattr("replicator.link.line.MAP_BYTES_MIN", 1)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("mmap.mmap", refuse)
    refused = ends.submit(1, a=b"small")
    assert list(ends.worker.receive()) == []
    monkeypatch.undo()
    monkeypatch.setattr(os, "getppid", os.getpid)
    heard = take(ends.hear)
    assert isinstance(heard, link.Aborted)
    assert "no memory" in heard.reason
    assert ends.line.passed[0] == refused
    assert ends.submit(2, a=b"small")
    assert take(ends.worker.receive)[1] == [b"small"]


def test_what_does_not_fit_is_refused(ends: Ends) -> None:
    """Very many parts, long names of fewer, a ring that is full: the link has to take it."""
    for count, letters in ((4000, 1), (300, 200)):
        many = {f"{number}".rjust(letters, "-"): b"x" for number in range(count)}
        assert not ends.send(1, many, b"", True)
    sent = 0
    while ends.send(sent, {"": b"x"}, bytes(META_BYTES_MAX), False):
        sent += 1
    assert sent == CAPACITY_BYTES // (META_BYTES_MAX + 100)
    for number in range(sent):
        assert take(ends.worker.receive)[0].sequence == number  # type: ignore[union-attr]
    assert ends.submit(sent, a=b"small"), "there is room again"


def test_what_is_too_long_for_a_datagram_takes_the_link(ends: Ends) -> None:
    """The engine would hear a part of it, which is no message."""
    assert not ends.worker_line.send(link.Aborted(1, "x" * DATAGRAM_BYTES_MAX))
    assert ends.worker_line.send(link.Aborted(1, "x"))


def test_a_part_may_be_empty(ends: Ends) -> None:
    """Of whatever kind: it lies nowhere."""
    assert ends.send(1, {"a": bytearray(), "b": b"", "c": memoryview(bytearray())}, b"", True)
    assert take(ends.worker.receive)[1] == [b"", b"", b""]


def test_memory_that_can_be_read_in_part_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system gives what it can, and says so: the rest would be whatever was there before."""
    monkeypatch.setattr(os, "getppid", os.getpid)
    region = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    address = memory.address_of(memoryview(region))
    engine, into = memory.EngineMemory(os.getpid()), bytearray(2 * mmap.PAGESIZE)
    engine.read(address, into)
    second = ctypes.c_void_p(address + mmap.PAGESIZE), ctypes.c_size_t(mmap.PAGESIZE)
    assert not ctypes.CDLL(None).mprotect(*second, 0)
    with pytest.raises(OSError, match="Bad address"):
        engine.read(address, into)


@pytest.mark.parametrize("bound", ["bytes", "time"])
def test_other_duties_have_their_turn(ends: Ends, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    """A large payload is read in slices, each of so many bytes or for so long."""
    monkeypatch.setattr(line_module, "SLICE_BYTES", 2 * PIECE_BYTES if bound == "bytes" else 2**40)
    monkeypatch.setattr(line_module, "SLICE_S", 1e9 if bound == "bytes" else 2)
    clock = itertools.count()
    monkeypatch.setattr(line_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert ends.submit(1, a=memoryview(bytearray(5 * PIECE_BYTES)))
    goes = 1
    while not (heard := list(ends.worker.receive())):
        goes += 1
    assert isinstance(heard[0][0], link.Submit)
    assert goes == (3 if bound == "bytes" else 6)


def test_each_line_is_known_by_a_number_of_its_own(ends: Ends) -> None:
    """Another engine's ring, at the same address, is another one; and no child of either end gets it."""
    other = EngineLine()
    assert other._ring.words[NONCE] != ends.line._ring.words[NONCE]
    other.close()
    fds = tuple(map(os.dup, ends.line.worker_fds[:2]))
    for fd in fds:
        os.set_inheritable(fd, True)
    ring = Ring.attach(fds)  # type: ignore[arg-type]
    assert not any(map(os.get_inheritable, (*ends.line.worker_fds, *fds)))
    ring.close()


def test_a_ring_goes_round(ends: Ends) -> None:
    """Records of all sizes, across its end, each as it was."""
    written = 0
    for number in range(1, 400):
        meta = bytes([number % 251]) * (number * 37 % META_BYTES_MAX)
        payload = b"x" * number  # whoever sends keeps it
        assert ends.send(number, {"": payload}, meta, False)
        message, parts = take(ends.worker.receive)
        assert (message.handle, message.meta) == (number, meta)  # type: ignore[union-attr]
        assert parts == [payload]
        written += len(meta)
    assert written > 4 * CAPACITY_BYTES


def test_a_ring_holds_no_more_than_its_size() -> None:
    """A record that would lie over one that is not read yet goes another way, however little is lacking."""
    ring = Ring.create()
    header_bytes = ring.put(b"")
    assert ring.put(bytes(CAPACITY_BYTES - header_bytes + 1)) == 0
    assert ring.put(bytes(CAPACITY_BYTES - header_bytes)) == CAPACITY_BYTES
    ring.close()


def test_held_by_all_comes_after_its_commit(ends: Ends) -> None:
    """A commit for which the line had no room takes the link; what makes no sense before it does, too."""
    number = 0
    while ends.worker_line.send(link.Released(number)):
        number += 1
    ends.worker.send(link.Committed(7, Position(1, 7), ("a", "b")))
    for _ in range(number):
        assert isinstance(take(ends.line.receive), link.Released)
    ends.worker.send(link.HeldByAll(7, ("a", "b")))
    assert [type(take(ends.hear)) for _ in range(2)] == [link.Committed, link.HeldByAll]


def test_a_full_line_leaves_the_link(ends: Ends) -> None:
    """What the worker says when the engine does not listen is not lost."""
    count = 2_000
    for number in range(count):
        ends.worker.send(link.Released(number))
    heard = {take(ends.hear).handle for _ in range(count)}  # type: ignore[union-attr]
    assert heard == set(range(count))


@pytest.mark.parametrize("record", [b"\xc1", b"\x91\xa5Hello"], ids=repr)
def test_what_is_no_message_is_an_error(ends: Ends, record: bytes) -> None:
    """At both ends."""
    ends.line.tell(ends.line._ring.put(record))
    with pytest.raises(MessageError, match="direct line"):
        list(ends.worker.receive())
    with socket.socket(fileno=os.dup(ends.line.worker_fds[2])) as sender:
        sender.send(record)
    with pytest.raises(MessageError, match="direct line"):
        list(ends.engine.receive())


def test_a_length_that_cannot_be_one_is_an_error(ends: Ends) -> None:
    """Whatever has written over the ring."""
    ends.submit(1, a=b"small")
    ends.line._ring._bytes[:4] = b"\xff" * 4
    with pytest.raises(MessageError, match="direct line"):
        list(ends.worker.receive())
