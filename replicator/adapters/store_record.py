"""What the store writes: its records, their keys and checksums, and the opening of an LMDB environment.

Two environments lie in a data directory. ``meta`` holds what is small and always synced: identity,
promise, member record. ``payload`` holds checkpoints, under keys of one leading letter:

    b"bulk"                      the newest adoption of all heads (R10)
    b"c" + stored digest         a chunk as stored; its name is its checksum
    b"h" + stream                the stream's retained checkpoints, newest last: the newest is the head
    b"m" + stream + sequence     a retained manifest
    b"state"                     counter, fingerprint over all heads, counters heard of the peers

A stream's name stands in keys as the first 16 bytes of its BLAKE3, since LMDB's keys end at 511 bytes.
Every record but a chunk is 8 bytes of BLAKE3 over key and value, then the value in MessagePack; a record
that fails it makes the store faulty (R21). The fingerprint is the XOR of these checksums over all ``h``
records and the bulk record, so that one that vanished whole is noticed too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import takewhile
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, TypeVar

import lmdb
import msgspec
from blake3 import blake3
from msgspec import Struct

from replicator.adapters.store_lock import is_locked
from replicator.adapters.store_pages import DATA_NAME, NO_ROOM, lacks_used_pages
from replicator.errors import StoreDamaged, StoreError, StoreFull
from replicator.model import (
    Digest,
    Epoch,
    Generation,
    Head,
    Incarnation,
    Manifest,
    MemberRecord,
    NodeId,
    Position,
    Remembered,
    Sequence,
    StreamName,
)

Durability = Literal["disk", "memory"]
Transaction: TypeAlias = "lmdb.Transaction[bytes]"

FORMAT_VERSION = 2
CHECKSUM_BYTES = 8
STREAMS_CACHED = 1024  # whose names are not hashed again
BULK_KEY = b"bulk"
STATE_KEY = b"state"
STREAM_PREFIX = b"h"
MANIFEST_PREFIX = b"m"
CHUNK_PREFIX = b"c"

_T = TypeVar("_T")
_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class Identity(Struct, frozen=True, gc=False, array_like=True):
    """Whose store this is; the incarnation is made with it (R20)."""

    cluster: str
    node: NodeId
    incarnation: Incarnation


class Membership(Struct, frozen=True, gc=False, array_like=True):
    """The member record, the epoch in which it was accepted, and whether the cluster is founded."""

    record: MemberRecord
    epoch: Epoch
    founded: bool


class Session(Struct, frozen=True, gc=False, array_like=True):
    """Under which boot and durability the store was last opened, and whether it was closed in order."""

    boot_id: str
    durability: Durability
    clean: bool


class Entry(Struct, frozen=True, gc=False, array_like=True):
    """A retained checkpoint of a stream; its manifest is a record of its own."""

    generation: Generation
    epoch: Epoch
    sequence: Sequence
    digest: Digest
    tombstone: bool


class CommitMark(Struct, frozen=True, gc=False, array_like=True):
    """The newest commit point that this replica was told of a stream: a hint (R15)."""

    generation: Generation
    epoch: Epoch
    sequence: Sequence

    def covers(self, entry: Entry) -> bool:
        """Whether *entry* is known committed: an epoch has one line, and a later commit commits the
        earlier ones of it (R14); of another epoch's checkpoints the mark says nothing."""
        return entry.epoch == self.epoch and entry.sequence <= self.sequence

    def names(self, entry: Entry) -> bool:
        """Whether *entry* is the very checkpoint that has committed."""
        return (entry.epoch, entry.sequence) == (self.epoch, self.sequence)

    @property
    def position(self) -> Position:
        """Newer marks have higher ones: a stream that is begun anew after its tombstone was forgotten counts
        from 1 again, in a later epoch."""
        return Position(self.epoch, self.sequence)


class StreamRecord(Struct, frozen=True, gc=False, array_like=True):
    """A stream's retained checkpoints by ascending sequence, never empty; the last one is the head.

    *accepted_epoch* is the head's own; a bulk adoption may have raised it since: see `accepted_epoch_of`.
    """

    stream: StreamName
    accepted_epoch: Epoch
    entries: tuple[Entry, ...]
    committed: CommitMark | None = None

    @property
    def head(self) -> Entry:
        return self.entries[-1]

    def is_committed(self, entry: Entry) -> bool:
        """Whether the checkpoint is known to be committed."""
        return self.committed is not None and self.committed.covers(entry)


class Bulk(Struct, frozen=True, gc=False, array_like=True):
    """All heads but those of *exceptions* were accepted again in *epoch* (R10).

    The exceptions lie on the disk as an array in ascending order, and may be as many as the streams.
    """

    epoch: Epoch
    exceptions: frozenset[StreamName]


class State(Struct, frozen=True, gc=False, array_like=True):
    """What every acknowledged payload transaction moves forward.

    *journaled* is the number of the journal's newest batch that this state comes with or after.
    """

    incarnation: Incarnation
    counter: int = 0
    fingerprint: int = 0
    remembered: Remembered = {}
    journaled: int = 0


def accepted_epoch_of(record: StreamRecord, bulk: Bulk | None) -> Epoch:
    """The epoch in which the head was accepted last, by itself or in bulk.

    A head accepted after the bulk adoption has at least its epoch, since promises never fall: so the
    maximum is right without knowing which came first.
    """
    if bulk is None or record.stream in bulk.exceptions:
        return record.accepted_epoch
    return max(record.accepted_epoch, bulk.epoch)


def head_of(record: StreamRecord, bulk: Bulk | None, *, readable: bool = True) -> Head:
    """The stream's head as it is reported in a promise (R6)."""
    entry = record.head
    return Head(
        stream=record.stream,
        generation=entry.generation,
        epoch=entry.epoch,
        sequence=entry.sequence,
        accepted_epoch=accepted_epoch_of(record, bulk),
        digest=entry.digest,
        tombstone=entry.tombstone,
        readable=readable,
    )


def chunks_of(manifest: Manifest) -> dict[Digest, int]:
    """The distinct chunks that a manifest names, with their lengths as stored."""
    return {
        Digest(chunk.stored_digest): chunk.stored_bytes for part in manifest.parts for chunk in part.chunks
    }


# ── keys and checksums ──


@lru_cache(STREAMS_CACHED)
def _name(stream: StreamName) -> bytes:
    return blake3(stream.encode()).digest(16)


def stream_key(stream: StreamName) -> bytes:
    """Where the stream's record lies."""
    return STREAM_PREFIX + _name(stream)


def manifest_key(stream: StreamName, sequence: Sequence) -> bytes:
    """Where a retained manifest lies; a stream has one of each sequence at most."""
    return MANIFEST_PREFIX + _name(stream) + sequence.to_bytes(8, "big")


def chunk_key(stored_digest: Digest) -> bytes:
    """Where a chunk lies."""
    return CHUNK_PREFIX + stored_digest


def _checksum(key: bytes, value: bytes) -> bytes:
    return blake3(key + value).digest(CHECKSUM_BYTES)


def seal(key: bytes, record: object) -> bytes:
    """Encode a record, with its checksum in front; equal records give the same bytes."""
    value = _encode(record)
    return _checksum(key, value) + value


def fingerprint(sealed: bytes | None) -> int:
    """A record's share in the fingerprint over all heads: its checksum as a number; 0 for no record."""
    return 0 if sealed is None else int.from_bytes(sealed[:CHECKSUM_BYTES], "big")


def unseal(kind: type[_T], key: bytes, sealed: bytes) -> _T:
    """Decode a record; raises `StoreDamaged` if it is not what was written under that key."""
    value = sealed[CHECKSUM_BYTES:]
    if _checksum(key, value) != sealed[:CHECKSUM_BYTES]:
        raise StoreDamaged(f"record {key.hex()} of the store fails its checksum")
    try:
        return msgspec.msgpack.decode(value, type=kind)
    except msgspec.MsgspecError as error:
        raise StoreDamaged(f"record {key.hex()} of the store is no {kind.__name__}: {error}") from error


class Readable(Protocol):
    """What records are read from: a transaction, or one under what only the journal has."""

    def get(self, key: bytes, /) -> bytes | None: ...


def load(kind: type[_T], txn: Readable, key: bytes) -> _T | None:
    """The record under *key*, verified; None if there is none."""
    sealed = txn.get(key)
    return None if sealed is None else unseal(kind, key, sealed)


def read_manifest(txn: Readable, stream: StreamName, entry: Entry | Head) -> Manifest:
    """The manifest of a retained checkpoint; raises `StoreDamaged` if it is gone or not the one."""
    manifest = load(Manifest, txn, manifest_key(stream, Sequence(entry.sequence)))
    if manifest is None or manifest.digest != entry.digest:
        raise StoreDamaged(f"the manifest of stream {stream!r}, sequence {entry.sequence}, is lost")
    return manifest


def read_chunk(txn: Readable, stored_digest: Digest) -> bytes | None:
    """A chunk as stored, verified (R22); None if it is absent or rotten."""
    stored = txn.get(chunk_key(stored_digest))
    return stored if stored is not None and blake3(stored).digest() == stored_digest else None


def scan(txn: Transaction, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values under *prefix* in order."""
    with txn.cursor() as cursor:
        if cursor.set_range(prefix):
            yield from takewhile(lambda found: found[0].startswith(prefix), cursor.iternext())


def scan_keys(txn: Transaction, prefix: bytes) -> Iterator[bytes]:
    """The keys under *prefix*; the values' pages are not touched."""
    with txn.cursor() as cursor:
        if cursor.set_range(prefix):
            yield from takewhile(lambda key: key.startswith(prefix), cursor.iternext(values=False))


# ── environments ──


@contextmanager
def lmdb_errors(path: object) -> Iterator[None]:
    """Turn LMDB's exceptions into ours: `StoreFull`, `StoreDamaged`, else `StoreError`.

    A full map is the business of who writes.
    """
    try:
        yield
    except lmdb.MapFullError:
        raise
    except lmdb.Error as error:
        if error.code in NO_ROOM:
            raise StoreFull(f"no room in {path}: {error}") from error
        damage = (
            lmdb.InvalidError,
            lmdb.CorruptedError,
            lmdb.PageNotFoundError,
            lmdb.VersionMismatchError,
        )
        kind = StoreDamaged if isinstance(error, damage) else StoreError
        raise kind(f"store {path}: {str(error).removeprefix(f'{path}: ')}") from error


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn an operating system's error into `StoreFull` or `StoreError`."""
    try:
        yield
    except OSError as error:
        full = error.errno in NO_ROOM
        kind = StoreFull if full else StoreError
        raise kind(f"store {error.filename or path}: {error.strerror or error}") from error


def open_environment(
    path: Path, map_bytes: int, *, readonly: bool = False, sync: bool = True, metasync: bool = True
) -> lmdb.Environment:
    """Open (or make) the environment in directory *path*; raises `StoreError` or `StoreDamaged`.

    A reader that may not write there cannot keep a running node from reusing what it reads: it is let in
    only while no node runs.
    """
    with lmdb_errors(path):
        make = partial(
            lmdb.open,
            os.fspath(path),
            map_size=map_bytes,
            readonly=readonly,
            create=not readonly,
            mode=0o700,
            sync=sync,
            metasync=metasync,
            readahead=False,
        )
        try:
            environment = make()
        except lmdb.ReadonlyError:
            if not readonly:
                raise
            if is_locked(path.parent):
                raise StoreError(
                    f"store {path.parent}: its node runs, and beside it only who may write there can read"
                ) from None
            environment = make(lock=False)
        # A page past the file's end would be a bus error at the first touch, not an exception.
        pages, page_bytes = environment.info()["last_pgno"] + 1, environment.stat()["psize"]
        file_bytes = (path / DATA_NAME).stat().st_size
        if pages > 2 and pages * page_bytes > file_bytes:
            with (path / DATA_NAME).open("rb") as file:
                is_damaged = lacks_used_pages(file, page_bytes)
            if is_damaged:
                environment.close()
                raise StoreDamaged(f"store {path} is cut short: {pages} pages in {file_bytes} bytes")
        return environment


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
