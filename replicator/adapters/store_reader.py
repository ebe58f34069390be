"""Reading a store: what the node's threads and the command line share, and the command line's own access.

`Reads` finds manifests and chunks in read transactions that somebody else opens. `StoreReader` opens a
data directory read-only, whether its node runs or not; it takes no lock that would keep the node out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import lmdb

from replicator.adapters.store_journal import JOURNAL_NAME, View, records
from replicator.adapters.store_lock import check_directory
from replicator.adapters.store_meta import Meta
from replicator.adapters.store_record import (
    BULK_KEY,
    STATE_KEY,
    STREAM_PREFIX,
    Bulk,
    State,
    StreamRecord,
    Transaction,
    chunk_key,
    chunks_of,
    file_errors,
    head_of,
    lmdb_errors,
    load,
    open_environment,
    read_chunk,
    read_manifest,
    stream_key,
    unseal,
)
from replicator.codec.assembly import ReadChunk
from replicator.errors import StoreDamaged, StoreError
from replicator.model import Digest, Head, Manifest, StreamName

MAP_BYTES = 2**20
ATTEMPTS_MAX = 10


class Reads:
    """Manifests and chunks by name; every call is one read transaction, and copies what it returns."""

    def __init__(self, reading: Callable[[], AbstractContextManager[View]]) -> None:
        self._reading = reading

    def manifest(self, stream: StreamName, digest: Digest | None = None) -> Manifest | None:
        """A retained manifest by its digest; without one the head's. None if there is none.

        Raises `StoreDamaged` if its record fails its checksum.
        """
        with self._reading() as txn:
            record = load(StreamRecord, txn, stream_key(stream))
            if record is None:
                return None
            for entry in reversed(record.entries):
                if digest is None or entry.digest == digest:
                    return read_manifest(txn, stream, entry)
            return None

    def chunk(self, stored_digest: Digest) -> bytes | None:
        """A chunk as stored, verified (R22); None if absent or rotten."""
        with self._reading() as txn:
            return read_chunk(txn, stored_digest)

    def small(self, heads: Iterable[Head], bytes_max: int) -> Iterator[tuple[Manifest, ReadChunk]]:
        """The manifests of those of *heads* that have at most *bytes_max*, and what reads their chunks, as
        stored and not verified, before the next one comes. All in one transaction."""
        with self._reading() as txn:
            for head in heads:
                try:
                    manifest = read_manifest(txn, StreamName(head.stream), head)
                except StoreDamaged:  # or replaced by a newer one
                    continue
                if manifest.raw_bytes <= bytes_max:
                    yield manifest, lambda digest: txn.get(chunk_key(digest))


class StoreReader:
    """A data directory opened read-only, also while its node runs. For one thread; close it after use.

    A checkpoint that is read chunk by chunk may be replaced meanwhile: a chunk that is gone is None, and
    the caller starts again with the new head.
    """

    def __init__(self, path: Path) -> None:
        """Open; raises `StoreError` with one line if there is no store or it cannot be read."""
        with file_errors(path):
            for name in ("meta/data.mdb", "payload/data.mdb"):
                try:
                    (path / name).stat()
                except (FileNotFoundError, NotADirectoryError) as error:
                    raise StoreError(f"no store in {path}: {name} is missing") from error
            check_directory(path)
        self._path = path
        with closing(Meta(path / "meta", readonly=True)) as meta:
            if meta.identity is None:
                raise StoreError(f"no store in {path}: it has no identity yet")
            self._incarnation = meta.identity.incarnation
        self._environment = open_environment(path / "payload", MAP_BYTES, readonly=True)
        self._applied = -1  # up to where the environment was when the journal was read
        self._newer: dict[bytes, bytes | None] = {}  # what only the journal had then
        reads = Reads(self._reading)
        self.manifest = reads.manifest
        self.chunk = reads.chunk

    @contextmanager
    def _reading(self) -> Iterator[View]:
        with lmdb_errors(self._path):
            for _ in range(ATTEMPTS_MAX):
                with self._begin() as txn:
                    state = load(State, txn, STATE_KEY)
                    applied = state.journaled if state else 0
                    if applied == self._applied:  # what was read of the journal lies over it
                        yield View(txn, self._newer)
                        return
                self._read_journal(applied)
        raise StoreError(f"store {self._path} changes too fast to be read; try again")

    def _begin(self) -> Transaction:
        try:
            return self._environment.begin()
        except lmdb.MapResizedError:  # the node's writer has grown the map
            self._environment.set_mapsize(0)
            return self._environment.begin()

    def _read_journal(self, applied: int) -> None:
        """Take in what only the journal has, if the environment still ends at number *applied*."""
        self._applied, self._newer = applied, {}
        for number, writes in records(self._path / "payload" / JOURNAL_NAME, self._incarnation):
            if number > applied:
                self._newer.update(writes)

    def streams(self) -> list[tuple[Head, Manifest, bool]]:
        """Every stream's head with its manifest, and whether it is known to be committed; by name.

        A head is readable if all its chunks are there; whether they are intact is seen when they are read.
        """
        with self._reading() as txn:
            bulk = load(Bulk, txn, BULK_KEY)
            records = [unseal(StreamRecord, *found) for found in txn.scan(STREAM_PREFIX)]
            found = []
            for record in sorted(records, key=lambda record: record.stream):
                manifest = read_manifest(txn, record.stream, record.head)
                readable = all(txn.has(chunk_key(digest)) for digest in chunks_of(manifest))
                head = head_of(record, bulk, readable=readable)
                found.append((head, manifest, record.is_committed(record.head)))
            return found

    def close(self) -> None:
        self._environment.close()
