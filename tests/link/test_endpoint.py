"""Both ends of the link, over both transports."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import zmq

from replicator.errors import MessageError, TransportError
from replicator.link import messages as link
from replicator.link.endpoint import Context, EngineEnd, WorkerEnd
from replicator.model import Position

DEADLINE_S = 10.0
LARGE = 4 << 20
Heard = TypeVar("Heard")


@pytest.fixture(params=["ipc", "inproc"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a link to a process, or to a thread."""
    return f"ipc://{tmp_path}/link.sock" if request.param == "ipc" else "inproc://link"


@pytest.fixture
def ends(address: str) -> Iterator[tuple[EngineEnd, WorkerEnd]]:
    """Both ends, connected: the worker has said that it has started."""
    engine = EngineEnd(address)
    worker = WorkerEnd(address, engine.context)
    worker.send(link.Started("edge-1"))
    assert take(engine.receive) == (link.Started("edge-1"), [])
    yield engine, worker
    worker.close(0)
    engine.close()


def take(receive: Callable[[], Iterator[Heard]]) -> Heard:
    """The next message."""
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        for heard in receive():
            return heard
        time.sleep(0.001)
    raise AssertionError("nothing has come")


def submit(handle: int, *names: str) -> link.Submit:
    return link.Submit(1, "s", handle, handle, b"", names, True)


def test_parts_travel_with_their_message(ends: tuple[EngineEnd, WorkerEnd]) -> None:
    """Both ways, small, large and empty ones, in their order."""
    engine, worker = ends
    parts = [b"small", bytes(LARGE), b""]
    engine.send(submit(1, "a", "b", "c"), parts)
    engine.send(link.Close())
    message, received = take(worker.receive)
    assert message == submit(1, "a", "b", "c")
    assert received == parts
    assert take(worker.receive) == (link.Close(), [])
    restored = link.Restored(1, "s", Position(1, 1), b"", ("",), False)
    worker.send(restored, [parts[1]])
    while (heard := take(engine.receive))[0] != restored:
        assert heard[0] == link.Released(1)
    assert heard[1] == [parts[1]]


@pytest.mark.parametrize("others", [[], [b"small"], [b""]])
def test_a_large_part_is_not_copied(
    ends: tuple[EngineEnd, WorkerEnd], address: str, others: list[bytes]
) -> None:
    """It is sent from where it lies: its tracker is done when ZeroMQ (a thread: the receiver, too) has let
    go of it, whatever comes after it, and then it may be resized."""
    engine, worker = ends
    payload = bytearray(LARGE)
    tracker = engine.send(submit(1, *"ab"[: 1 + len(others)]), [payload, *others])
    assert tracker is not None
    received = take(worker.receive)
    if address.startswith("inproc"):
        payload[7] = 99
        assert received[1][0][7] == 99  # the very same memory
        assert not tracker.done
        with pytest.raises(BufferError):
            payload.clear()
    del received
    until = time.monotonic() + DEADLINE_S
    while not tracker.done:
        assert time.monotonic() < until
    payload.clear()


def test_a_process_releases_what_it_has_received(ends: tuple[EngineEnd, WorkerEnd], address: str) -> None:
    """What has come over a socket is a copy, so the engine's end hears Released at once; what a thread
    reads is the engine's own memory, and only the worker knows when it is done."""
    engine, worker = ends
    engine.send(submit(7, "a"), [b"payload"])
    take(worker.receive)
    worker.send(link.Stored(7))
    expected = [link.Released(7)] if address.startswith("ipc") else []
    for message in [*expected, link.Stored(7)]:
        assert take(engine.receive)[0] == message


@pytest.mark.parametrize(
    "frames", [[b""], [b"\xc1"], [b"\x91\xa5Hello"], [b"\x92\xa5Ready\xc3", b"part"]], ids=repr
)
def test_what_is_no_message_is_an_error(ends: tuple[EngineEnd, WorkerEnd], frames: list[bytes]) -> None:
    """Bytes that are none, a message of neither end, parts where none belong."""
    engine, worker = ends
    engine.socket.send_multipart(frames)
    with pytest.raises(MessageError):
        take(worker.receive)


def test_nothing_is_sent_to_nobody(tmp_path: Path) -> None:
    """A send neither waits nor raises when the other end is not there, or no longer."""
    engine = EngineEnd(f"ipc://{tmp_path}/link.sock")
    assert engine.send(submit(1, "a"), [bytes(LARGE)]) is None
    worker = WorkerEnd(f"ipc://{tmp_path}/link.sock", engine.context)
    worker.send(link.Started("edge-1"))
    take(engine.receive)
    worker.close(0)
    for handle in range(100):
        engine.send(submit(handle, "a"), [bytes(LARGE)])
    engine.close()


def test_a_queue_has_no_mark(ends: tuple[EngineEnd, WorkerEnd]) -> None:
    """Nothing is lost while the other end is busy, however many messages that are: credit bounds payloads."""
    engine, worker = ends
    count = 3000
    worker.send(link.Started("edge-1"))
    assert take(engine.receive)
    for nonce in range(count):
        engine.send(link.AskStatus(nonce))
    for nonce in range(count):
        assert take(worker.receive)[0] == link.AskStatus(nonce)


def test_an_address_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """As a TransportError, whose text has the address."""
    missing = f"ipc://{tmp_path}/missing/link.sock"
    with pytest.raises(TransportError, match="missing"):
        EngineEnd(missing)
    context: Context = zmq.Context()
    with pytest.raises(TransportError, match="nonsense"):
        WorkerEnd("nonsense://x", context)
    context.term()
