"""What the store's tests share: checkpoints to store, and a store whose completions can be awaited."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence as Ordered
from pathlib import Path
from typing import Any

from blake3 import blake3

from replicator.adapters.ports import StoreEffect
from replicator.adapters.store import LmdbStore
from replicator.core.effects import Accept, MarkCommitted, WritePromise
from replicator.core.events import Accepted, AcceptRefused, Event, PromiseWritten, Why
from replicator.model import (
    Buffer,
    Chunk,
    Codec,
    Digest,
    Epoch,
    Generation,
    Head,
    Manifest,
    NodeId,
    Owner,
    Part,
    Promise,
    Sequence,
    StreamName,
)

DEADLINE_S = 20.0
MIB = 2**20
OWNER = Owner("edge-1", b"i" * 16, b"p" * 16)


def chunk_of(stored: bytes) -> Chunk:
    digest = blake3(stored).digest()
    return Chunk(digest, len(stored), digest, len(stored), Codec.NONE)


def checkpoint(
    stream: str,
    sequence: int,
    *pieces: bytes,
    epoch: int = 1,
    generation: int = 0,
    tombstone: bool = False,
) -> tuple[Manifest, list[tuple[Chunk, bytes]]]:
    """A manifest over *pieces*, one chunk each, and its chunks; one made-up piece by default."""
    if not pieces and not tombstone:
        pieces = (f"{stream} {epoch} {sequence}".encode(),)
    chunks = [(chunk_of(piece), piece) for piece in pieces]
    identity = repr((stream, generation, epoch, sequence, tombstone, pieces)).encode()
    parts = () if tombstone else (Part("", tuple(chunk for chunk, _ in chunks)),)
    manifest = Manifest(
        stream=stream,
        generation=generation,
        epoch=epoch,
        sequence=sequence,
        parts=parts,
        meta=b"",
        is_mapping=False,
        tombstone=tombstone,
        digest=blake3(identity).digest(),
    )
    return manifest, chunks


class Opened:
    """A started store and its completions."""

    def __init__(self, path: Path, *, start: bool = True, **settings: Any) -> None:
        settings = {"cluster": "test", "node": NodeId("edge-1"), "map_bytes_initial": 8 * MIB, **settings}
        self.path = path
        self.store = LmdbStore.open(path, **settings)
        self.durable = self.store.durable()
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        if start:
            self.start()

    def start(self) -> None:
        self.store.start(self.events.put)

    def next(self) -> Event:
        """The next completion, awaited."""
        return self.events.get(timeout=DEADLINE_S)

    def perform(self, effect: StoreEffect) -> None:
        self.store.perform(effect)

    def promise(self, epoch: int) -> PromiseWritten:
        self.perform(WritePromise(Promise(epoch, OWNER)))
        event = self.next()
        assert isinstance(event, PromiseWritten)
        return event

    def put(self, manifest: Manifest, chunks: Ordered[tuple[Chunk, Buffer]], epoch: int) -> None:
        stream, sequence = StreamName(manifest.stream), Sequence(manifest.sequence)
        self.store.put_chunks(stream, Epoch(epoch), sequence, chunks)

    def ask(self, manifest: Manifest, epoch: int) -> Event:
        """Ask for acceptance alone; return the completion."""
        self.perform(Accept(manifest, Epoch(epoch)))
        return self.next()

    def accept(self, stream: str, sequence: int, *pieces: bytes, at: int = 1, **rest: Any) -> Manifest:
        """Store a checkpoint of epoch *at* (unless told otherwise) in epoch *at*."""
        manifest, chunks = checkpoint(stream, sequence, *pieces, **{"epoch": at, **rest})
        self.put(manifest, chunks, at)
        event = self.ask(manifest, at)
        assert isinstance(event, Accepted), event
        assert (event.manifest, event.epoch) == (manifest, at)
        return manifest

    def refusal(self, manifest: Manifest, epoch: int) -> Why:
        event = self.ask(manifest, epoch)
        assert isinstance(event, AcceptRefused), event
        assert (event.manifest, event.epoch) == (manifest, epoch)
        return event.why

    def barrier(self) -> None:
        """Return when everything queued so far is written; payload is first in, first out."""
        manifest, _ = checkpoint("barrier", 1, tombstone=True)
        assert self.refusal(manifest, 2**40) is Why.FENCED

    def settle(self) -> None:
        """Return when the environment has what the journal has: the writer does that when it is idle."""
        deadline = time.monotonic() + DEADLINE_S
        while self.store._payload._newer.writes:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def mark(self, manifest: Manifest) -> None:
        """Tell it that the checkpoint is committed."""
        self.store.perform(
            MarkCommitted(StreamName(manifest.stream), Generation(manifest.generation), manifest.position)
        )

    def is_readable(self, manifest: Manifest) -> bool:
        found = self.store.read_manifest(StreamName(manifest.stream), Digest(manifest.digest))
        return found == manifest and all(
            self.store.read_chunk(Digest(chunk.stored_digest)) is not None
            for part in manifest.parts
            for chunk in part.chunks
        )


class Stores:
    """Opens the store of a test, again and again, and closes it at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: list[Opened] = []

    def __enter__(self) -> Stores:
        return self

    def __exit__(self, *_: object) -> None:
        for opened in self._open:
            opened.store.close()

    def open(self, **settings: Any) -> Opened:
        self._open.append(Opened(self.path, **settings))
        return self._open[-1]

    def reopen(self, **settings: Any) -> Opened:
        """Close what is open in order, and open it again."""
        self._open[-1].store.close()
        return self.open(**settings)


def orders(heads: tuple[Head, ...]) -> dict[str, tuple[int, int]]:
    """By stream the order in which its head stands: accepted epoch, sequence."""
    return {head.stream: head.order for head in heads}
