"""A store that is as dumb as can be: dictionaries under one lock, for the tests of the data path."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence as Ordered

from replicator.adapters.ports import Deliver, StoreEffect
from replicator.codec.assembly import ReadChunk
from replicator.codec.chunking import digest_of
from replicator.core.effects import Accept
from replicator.core.events import Durable
from replicator.model import (
    Buffer,
    Chunk,
    Digest,
    Epoch,
    Head,
    Incarnation,
    Manifest,
    NodeId,
    Sequence,
    StreamName,
)


class MemoryStore:
    """Keeps what it is given; `gate` closed makes `put_chunks` block, as a full writer's queue would."""

    def __init__(self, node: NodeId, incarnation: Incarnation, promised: int = 0) -> None:
        self.node, self.incarnation, self.promised = node, incarnation, promised
        self.chunks: dict[Digest, bytes] = {}
        self.manifests: dict[tuple[StreamName, Digest], Manifest] = {}
        self.heads: dict[StreamName, Manifest] = {}
        self.puts: list[int] = []  # number of chunks of each call
        self.gate = threading.Event()
        self.gate.set()
        self._lock = threading.Lock()

    def start(self, deliver: Deliver) -> None:
        """Nothing to start."""

    def durable(self) -> Durable:
        """An empty store's."""
        return Durable("test", self.node, self.incarnation, None, None, Epoch(0), True, (), {}, 0, {})

    def perform(self, effect: StoreEffect) -> None:
        """Accept only."""
        assert isinstance(effect, Accept)
        self.accept(effect.manifest)

    def accept(self, manifest: Manifest) -> None:
        """Make it the head; everything must be here."""
        assert not self.missing(chunk for part in manifest.parts for chunk in part.chunks)
        self.manifests[StreamName(manifest.stream), Digest(manifest.digest)] = manifest
        self.heads[StreamName(manifest.stream)] = manifest

    def put_chunks(
        self,
        stream: StreamName,
        epoch: Epoch,
        sequence: Sequence,
        chunks: Ordered[tuple[Chunk, Buffer]],
        *,
        wait: bool = True,
    ) -> None:
        if wait:
            self.gate.wait(10)
        with self._lock:
            self.puts.append(len(chunks))
            for chunk, stored in chunks:
                if epoch >= self.promised:
                    self.chunks.setdefault(Digest(chunk.stored_digest), bytes(stored))

    def is_crowded(self) -> bool:
        return not self.gate.is_set()

    def writing_s(self) -> float:
        return 0.0

    def missing(self, chunks: Iterable[Chunk]) -> list[Chunk]:
        return [chunk for chunk in chunks if chunk.stored_digest not in self.chunks]

    def head_bytes(self, stream: StreamName) -> int:
        return self.heads[stream].stored_bytes if stream in self.heads else 0

    def read_manifest(self, stream: StreamName, digest: Digest | None = None) -> Manifest | None:
        return self.heads.get(stream) if digest is None else self.manifests.get((stream, digest))

    def read_chunk(self, stored_digest: Digest) -> bytes | None:
        with self._lock:
            stored = self.chunks.get(stored_digest)
            if stored is not None and digest_of(stored) != stored_digest:
                del self.chunks[stored_digest]
                return None
            return stored

    def read_small(self, heads: Iterable[Head], bytes_max: int) -> Iterator[tuple[Manifest, ReadChunk]]:
        for head in heads:
            manifest = self.manifests.get((StreamName(head.stream), Digest(head.digest)))
            if manifest is not None and manifest.raw_bytes <= bytes_max:
                yield manifest, self.chunks.get

    def rot(self, stored_digest: Digest) -> None:
        """Flip a bit of a stored chunk."""
        stored = bytearray(self.chunks[stored_digest])
        stored[len(stored) // 2] ^= 1
        self.chunks[stored_digest] = bytes(stored)

    def usage(self) -> dict[str, int]:
        return {"chunks": len(self.chunks)}

    def close(self) -> None:
        """Nothing to close."""
