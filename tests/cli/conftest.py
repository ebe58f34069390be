"""Running commands inside the test's process, on a store made for the test and a node that is faked."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import msgspec
import pytest

from replicator.adapters.store import LmdbStore
from replicator.cli.main import run
from replicator.codec.chunking import digest_of, seal, split
from replicator.codec.compression import compress
from replicator.core.effects import Accept, MarkCommitted, WritePromise
from replicator.core.events import Accepted, Event, PromiseWritten
from replicator.model import (
    Buffer,
    Chunk,
    Epoch,
    Generation,
    NodeId,
    Owner,
    Part,
    Position,
    Promise,
    Sequence,
    StreamName,
)

CHUNK_BYTES = 1024


class Outcome(NamedTuple):
    """What a command left behind."""

    status: int
    out: str
    err: str
    raw: bytes


Command = Callable[..., Outcome]


@pytest.fixture
def command(capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command line with no settings but those given as keywords."""
    for name in [name for name in os.environ if name.startswith("REPLICATOR_")]:
        monkeypatch.delenv(name)

    def call(*words: str | Path, **settings: str | Path) -> Outcome:
        for name, value in settings.items():
            monkeypatch.setenv(f"REPLICATOR_{name.upper()}", str(value))
        status = run([str(word) for word in words])
        raw, err = capsysbinary.readouterr()
        return Outcome(status, raw.decode(errors="replace"), err.decode(), raw)

    return call


class StoreMaker:
    """A node's store, written to as its worker would."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._store = LmdbStore.open(path, cluster="replicator", node=NodeId("edge-1"))
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._store.start(self._events.put)
        incarnation = self._store.durable().incarnation
        self._epoch = Epoch(3)
        self._store.perform(WritePromise(Promise(self._epoch, Owner("edge-1", incarnation, bytes(16)))))
        self._await(PromiseWritten)
        self._sequence = 0

    def add(self, stream: str, parts: Mapping[str, Buffer] | bytes, *, committed: bool = True) -> None:
        """Accept a checkpoint of plain bytes, or of parts."""
        is_mapping = not isinstance(parts, bytes)
        named = parts if isinstance(parts, Mapping) else {"": parts}
        self._sequence += 1
        name, sequence = StreamName(stream), Sequence(self._sequence)
        made = {part: list(_chunks(content)) for part, content in named.items()}
        pieces = tuple(Part(part, tuple(chunk for chunk, _ in chunks)) for part, chunks in made.items())
        manifest = seal(name, Generation(1), self._epoch, sequence, parts=pieces, is_mapping=is_mapping)
        for chunks in made.values():
            self._store.put_chunks(name, self._epoch, sequence, chunks)
        self._store.perform(Accept(manifest, self._epoch))
        self._await(Accepted)
        if committed:
            self._store.perform(MarkCommitted(name, Generation(1), Position(self._epoch, sequence)))

    def close(self) -> None:
        """Stop the node: its store stays."""
        self._store.close()

    def _await(self, kind: type[Event]) -> None:
        while not isinstance(self._events.get(timeout=10), kind):
            pass


def _chunks(content: Buffer) -> Iterator[tuple[Chunk, Buffer]]:
    for raw in split(content, CHUNK_BYTES):
        yield compress(raw, digest_of(raw))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreMaker]:
    """A running node's store."""
    maker = StoreMaker(tmp_path / "data")
    with contextlib.closing(maker):
        yield maker


class FakeNode:
    """Answers at the admin socket of a data directory, and keeps what it was asked."""

    def __init__(self, data_dir: Path, reply: object) -> None:
        self.asked: list[object] = []
        self._reply = msgspec.json.encode(reply) + b"\n"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(data_dir / "admin.sock"))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client, client.makefile("rb") as lines:
                    self.asked.append(msgspec.json.decode(lines.readline()))
                    client.sendall(self._reply)

    def close(self) -> None:
        """Stop answering."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


StartNode = Callable[[object], tuple[FakeNode, Path]]


@pytest.fixture
def fake_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartNode]:
    """Starts nodes that give one reply to everything."""
    with contextlib.ExitStack() as nodes:

        def start(reply: object) -> tuple[FakeNode, Path]:
            directory = tmp_path_factory.mktemp("node")
            return nodes.enter_context(contextlib.closing(FakeNode(directory, reply))), directory

        yield start
