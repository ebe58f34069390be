"""The direct line: checkpoints that the worker reads where they lie, and what comes back of them."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from replicator.errors import MessageError
from replicator.link import memory, messages as link
from replicator.link.endpoint import Context, EngineEnd, WorkerEnd
from replicator.link.line import PIECE_BYTES, EngineLine, WorkerLine
from replicator.model import META_BYTES_MAX, Position
from tests.link.test_endpoint import take

PROBE = bytearray(b"probe")
LARGE = PIECE_BYTES * 2 + 12_345


class Ends:
    """A link with a direct line; this process plays both the engine and its child."""

    def __init__(self, address: str) -> None:
        self.context: Context = zmq.Context()
        self.line = EngineLine(PROBE)
        self.worker_line = WorkerLine(os.dup(self.line.worker_fd), os.getpid())
        self.engine, self.worker = (
            EngineEnd(address, self.context),
            WorkerEnd(address, self.context, self.worker_line),
        )
        self.engine.use(self.line)
        self.worker.send(link.Started("edge-1", True))
        assert take(self.hear) == link.Started("edge-1", True)

    def hear(self) -> Iterator[link.ToEngine]:
        """What the engine hears."""
        self.engine.wait(0)
        return (message for message, _ in self.engine.receive())

    def submit(self, handle: int, **parts: bytes | memoryview) -> bool:
        """Submit by the direct line."""
        return self.line.send((1, "s", handle, handle), parts, b"meta", True)

    def close(self) -> None:
        """Close all that is open."""
        self.line.close()
        self.worker_line.close()
        self.engine.close()
        self.worker.close(0)
        self.context.term()


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
    """Its parts arrive as with a Submit, and are then a copy: Released says so."""
    large = bytearray(os.urandom(LARGE))
    assert ends.worker_line.can_read(ends.line.probe_address)
    assert ends.submit(7, a=b"small", b=memoryview(large), c=b"")
    message, parts = take(ends.worker.receive)
    assert message == link.Submit(1, "s", 7, 7, b"meta", ("a", "b", "c"), True)
    assert parts == [b"small", large, b""]
    assert take(ends.hear) == link.Released(7)
    large[0] ^= 1
    assert parts[1] != large


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


def test_what_cannot_be_read_is_aborted(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that is not there, or of a process that has the engine's number but is another."""
    monkeypatch.setattr(memory, "address_of", lambda part: 8)
    assert ends.submit(1, a=b"small")
    monkeypatch.undo()
    assert ends.submit(2, a=b"small")  # os.getppid() is again that of this process
    assert list(ends.worker.receive()) == []
    heard = [take(ends.hear) for _ in range(4)]
    assert [type(message) for message in heard] == [link.Released, link.Aborted] * 2
    assert "engine is gone" in heard[3].reason  # type: ignore[union-attr]
    assert not ends.worker_line.can_read(8)


def test_what_does_not_fit_is_refused(ends: Ends) -> None:
    """Very many parts, a socket that is full, nobody at the other end: the link has to take it."""
    many = {f"part {number}": b"x" for number in range(4000)}
    assert not ends.line.send((1, "s", 1, 1), many, b"", True)
    sent = 0
    while ends.line.send((1, "s", sent, sent), {"": b"x"}, bytes(META_BYTES_MAX), False):
        sent += 1
    assert sent > 10
    for number in range(sent):
        assert take(ends.worker.receive)[0].sequence == number  # type: ignore[union-attr]


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


@pytest.mark.parametrize("datagram", [b"\xc1", b"\x91\xa5Hello"], ids=repr)
def test_what_is_no_message_is_an_error(ends: Ends, datagram: bytes) -> None:
    """At both ends."""
    for fd, receive in (
        (ends.line.fileno(), ends.worker.receive),
        (ends.line.worker_fd, ends.engine.receive),
    ):
        with socket.socket(fileno=os.dup(fd)) as sender:
            sender.send(datagram)
        with pytest.raises(MessageError, match="direct line"):
            list(receive())
