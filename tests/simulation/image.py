"""What is on a disk: promise, records, retained checkpoints and chunks, whole or rotten."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct, field, structs

from replicator.core.effects import MarkCommitted
from replicator.core.state import head_of
from replicator.model import (
    Digest,
    Epoch,
    Head,
    Incarnation,
    Manifest,
    MemberRecord,
    Promise,
    Remembered,
    StreamName,
)

DIGESTS_KEPT_MAX = 5000


class Retained(NamedTuple):
    """A checkpoint on disk."""

    manifest: Manifest
    accepted_epoch: Epoch

    def head(self, readable: bool) -> Head:
        """How it is reported when it is the newest of its stream."""
        return structs.replace(head_of(self.manifest, self.accepted_epoch), readable=readable)


class Image(Struct):
    """Everything that survives."""

    incarnation: Incarnation
    promise: Promise | None = None
    record: MemberRecord | None = None
    record_epoch: Epoch = Epoch(0)
    founded: bool = False
    counter: int = 0
    remembered: Remembered = field(default_factory=dict)
    streams: dict[StreamName, tuple[Retained, ...]] = field(default_factory=dict)
    committed: dict[StreamName, MarkCommitted] = field(default_factory=dict)
    chunks: dict[Digest, bytes] = field(default_factory=dict)
    damaged: set[Digest] = field(default_factory=set)
    found: set[Digest] = field(default_factory=set)  # those of them that are known to be
    is_old: bool = False  # an old copy, put back in the place of what was there (T19)

    def copy(self) -> Image:
        """An independent copy, as of a disk image taken now."""
        return structs.replace(
            self,
            remembered=self.remembered.copy(),
            streams=self.streams.copy(),
            committed=self.committed.copy(),
            chunks=self.chunks.copy(),
            damaged=self.damaged.copy(),
            found=self.found.copy(),
        )

    @property
    def promised_epoch(self) -> int:
        return self.promise.epoch if self.promise else 0

    def newest(self, stream: StreamName) -> Retained | None:
        """The stream's head."""
        retained = self.streams.get(stream)
        return retained[-1] if retained else None

    @property
    def is_bad(self) -> bool:
        """Whether a head cannot be read, be its chunk damaged or found out and thrown away."""
        return bool(self.damaged) or not all(
            self.has_all(kept[-1].manifest) for kept in self.streams.values()
        )

    def has_all(self, manifest: Manifest) -> bool:
        """Whether every chunk is there, whole or damaged."""
        return all(map(self.chunks.__contains__, chunk_digests(manifest)))

    def is_whole(self, manifest: Manifest) -> bool:
        """Whether every chunk is there, as far as the store knows."""
        return self.has_all(manifest) and self.found.isdisjoint(chunk_digests(manifest))

    def readable(self, manifest: Manifest) -> bool:
        """Whether every chunk is there and whole."""
        return self.has_all(manifest) and self.damaged.isdisjoint(chunk_digests(manifest))

    def readable_head(self, stream: StreamName) -> bool:
        """Whether the stream's head, if there is one, can be read."""
        newest = self.newest(stream)
        return newest is None or self.readable(newest.manifest)

    def payload(self, manifest: Manifest) -> bytes | None:
        """The bytes of a checkpoint, or None if they cannot be read."""
        if not self.readable(manifest):
            return None
        return b"".join(self.chunks[digest] for digest in chunk_digests(manifest))


def chunk_digests(manifest: Manifest) -> dict[Digest, None]:
    """The stored digests of all chunks, in order (no payload here has the same chunk twice)."""
    found = _digests.get(manifest.digest)
    if found is None:
        if len(_digests) > DIGESTS_KEPT_MAX:
            _digests.clear()
        chunks = [chunk.stored_digest for part in manifest.parts for chunk in part.chunks]
        found = _digests[manifest.digest] = dict.fromkeys(map(Digest, chunks))
    return found


_digests: dict[bytes, dict[Digest, None]] = {}  # by manifest digest; asked for again and again
