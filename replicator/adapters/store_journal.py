"""The journal: small changes made durable by one wait for the disk, before LMDB has them.

LMDB waits for the disk twice in each transaction, data first and its root page next; an acknowledgment
needs one wait. So a small batch is appended to this file, which is made once, full of zeros, and then
written over again and again from the front: no wait changes its length or its place on the disk. Where the
file system can, it is written past the page cache (O_DIRECT), which takes two thirds of the time.
LMDB gets many batches in one transaction later. Until then what was appended lies over the environment as
`newer`, and every reader looks there first.

A record starts at a block: number (one more than the record before), length of the body, 16 bytes of
BLAKE3 over incarnation, number and body; then the body, a MessagePack map of key to value, nil for a key
that is deleted. The environment's state says up to which number it has everything, so a replay begins
after it. It ends at the first record that is not whole: torn by a power loss, never acknowledged. If a
later record is whole all the same, one that was acknowledged has rotted, and the store is damaged (R21). So
it is if the environment has had batches of a journal that is gone or cut short by now: what came after them
may have been acknowledged.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from errno import EINVAL, ENOSPC
from pathlib import Path

import msgspec
from blake3 import blake3

from replicator.adapters.store_record import Transaction, file_errors, scan, scan_keys, sync_directory
from replicator.errors import StoreDamaged, StoreError
from replicator.model import Buffer, Incarnation

JOURNAL_NAME = "journal"
JOURNAL_BYTES = 8 * 2**20
BLOCK_BYTES = 4096
BATCH_BYTES_MAX = 2**18  # a larger one gains nothing here: its bytes would be written twice

Writes = Mapping[bytes, bytes | None]

_HEADER = struct.Struct("<QQ16s")
_encode = msgspec.msgpack.Encoder().encode
_bodies = msgspec.msgpack.Decoder(dict[bytes, bytes | None])


class Journal:
    """The file, appended to by the store's writer alone."""

    def __init__(self, path: Path, incarnation: Incarnation) -> None:
        """Open it, or make it; raises `StoreFull` or `StoreError`.

        What is in it stays until `rewind`: the environment may not have it yet.
        """
        self._path = path
        self._incarnation = incarnation
        self._position = JOURNAL_BYTES  # as if it were full
        self._record = memoryview(mmap.mmap(-1, JOURNAL_BYTES))  # the next one, in pages, as O_DIRECT has it
        with file_errors(path):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                size = os.fstat(self._file).st_size
                lacking = bytes(max(JOURNAL_BYTES - size, 0))
                if lacking and os.pwrite(self._file, lacking, size) < len(lacking):
                    # It would break off where it ends, long after it was made.
                    os.ftruncate(self._file, size)
                    raise OSError(ENOSPC, os.strerror(ENOSPC))
                # Whoever made it may have died before it was on the disk, by its name, for what is
                # appended to be acknowledged.
                os.fsync(self._file)
                sync_directory(path.parent)
                self._set_direct(True)
            except BaseException:
                os.close(self._file)
                raise

    def append(self, number: int, writes: Writes) -> bool:
        """Make a batch durable; False, and nothing done, if it does not fit before the journal's end.

        After a `StoreError` nothing may be written any more (R21); the room was taken when it was made.
        """
        body = _encode(writes)
        header = _HEADER.pack(number, len(body), _checksum(self._incarnation, number, body))
        size = _HEADER.size + len(body)
        end = size + -size % BLOCK_BYTES
        if self._position + end > JOURNAL_BYTES:
            return False
        record = self._record[:end]
        record[: _HEADER.size], record[_HEADER.size : size], record[size:] = header, body, bytes(end - size)
        try:
            written = self._write(record)
        except OSError as error:
            # For want of room or not: what was appended may be lost, so this is never `StoreFull`.
            raise StoreError(f"store {self._path}: sync failed: {error}") from error
        if written != end:
            raise StoreError(f"store {self._path}: {written} of {end} bytes were taken")
        self._position += end
        return True

    def _write(self, record: memoryview) -> int:
        """Write it and wait for the disk."""
        try:
            return os.pwritev(self._file, (record,), self._position, os.RWF_DSYNC)
        except OSError as error:
            if error.errno != EINVAL or not self._set_direct(False):
                raise
        return self._write(record)  # nothing was written: its blocks are larger, or it cannot after all

    def _set_direct(self, wanted: bool) -> bool:
        """Write past the page cache, or through it; whether that was a change. Not every file system can."""
        flags = fcntl.fcntl(self._file, fcntl.F_GETFL)
        with suppress(OSError):
            fcntl.fcntl(self._file, fcntl.F_SETFL, flags | os.O_DIRECT if wanted else flags & ~os.O_DIRECT)
        return fcntl.fcntl(self._file, fcntl.F_GETFL) != flags

    def rewind(self) -> None:
        """Begin at the front again; everything in it is in the environment, synced with its root."""
        self._position = 0

    def close(self) -> None:
        os.close(self._file)


def records(path: Path, incarnation: Incarnation) -> Iterator[tuple[int, Writes]]:
    """The batches with their numbers, oldest first, up to the first that is not whole."""
    content = _content(path)
    position = newest = 0
    while (found := _record(content, position, incarnation)) and newest in (0, found[0] - 1):
        newest, writes, size = found
        yield newest, writes
        position += size + -size % BLOCK_BYTES


def replay(path: Path, incarnation: Incarnation, applied: int) -> dict[bytes, bytes | None]:
    """What the environment lacks that has everything up to number *applied*.

    Raises `StoreDamaged` if a batch is gone that was acknowledged.
    """
    content = _content(path)
    if applied and len(content) < JOURNAL_BYTES:
        raise StoreDamaged(f"store {path} is lost or cut short")
    lacking: dict[bytes, bytes | None] = {}
    newest = applied
    for number, writes in records(path, incarnation):
        if number > newest + 1:
            raise StoreDamaged(f"store {path} begins at {number}, the environment ends at {newest}")
        if number > applied:
            lacking.update(writes)
        newest = max(newest, number)
    for position in range(0, len(content), BLOCK_BYTES):
        if (later := _record(content, position, incarnation)) and later[0] > newest:
            raise StoreDamaged(f"store {path} has lost what came before number {later[0]}")
    return lacking


def is_used(path: Path) -> bool:
    """Whether anything was ever appended to the journal in *path*, if there is one."""
    return any(_content(path, _HEADER.size))


def _content(path: Path, size: int = -1) -> bytes:
    """The first *size* bytes of the journal, or all; nothing if there is none. Raises `StoreError`."""
    with file_errors(path):
        try:
            with path.open("rb") as file:
                return file.read(size)
        except FileNotFoundError:
            return b""


def _record(content: bytes, position: int, incarnation: Incarnation) -> tuple[int, Writes, int] | None:
    """Number, writes and size in bytes of the whole record at *position*, if there is one."""
    if position + _HEADER.size > len(content):
        return None
    number, length, checksum = _HEADER.unpack_from(content, position)
    start = position + _HEADER.size
    if not number or start + length > len(content):
        return None
    body = content[start : start + length]
    if _checksum(incarnation, number, body) != checksum:
        return None
    return number, _bodies.decode(body), _HEADER.size + length


def _checksum(incarnation: Incarnation, number: int, body: bytes) -> bytes:
    return blake3(incarnation + number.to_bytes(8, "little") + body).digest(16)


class View:
    """A read transaction as everybody sees it: under the changes that only the journal has."""

    def __init__(self, txn: Transaction, newer: Writes) -> None:
        self._txn = txn
        self._newer = newer

    def get(self, key: bytes) -> bytes | None:
        """The value of *key*, if there is one."""
        if key in self._newer:
            return self._newer[key]
        return self._txn.get(key)

    def has(self, key: bytes) -> bool:
        """Whether there is a value of *key*; it is not read."""
        if key in self._newer:
            return self._newer[key] is not None
        with self._txn.cursor() as cursor:
            return bool(cursor.set_key(key))

    def keys(self, prefix: bytes) -> Iterator[bytes]:
        """The keys under *prefix*, in no order; the values are not read."""
        yield from (key for key in scan_keys(self._txn, prefix) if key not in self._newer)
        yield from (key for key, newer in self._newer.items() if newer is not None and key.startswith(prefix))

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values under *prefix*, in no order."""
        for key, value in scan(self._txn, prefix):
            if key not in self._newer:
                yield key, value
        for key, newer in self._newer.items():
            if newer is not None and key.startswith(prefix):
                yield key, newer


class _Applied:
    """From which transaction on the environment has what only the journal had."""

    __slots__ = ("by",)

    def __init__(self) -> None:
        self.by = 2**63


class Newer:
    """What only the journal has, never changed once it is here, so that a reader may keep it. *applied* is
    the same for all that grow from one: a reader of an earlier one must not lay it over what came later."""

    __slots__ = ("applied", "size_bytes", "writes")

    def __init__(
        self, writes: dict[bytes, bytes | None], size_bytes: int = 0, applied: _Applied | None = None
    ) -> None:
        self.writes = writes
        self.size_bytes = size_bytes  # of all that was appended, also what has been replaced since
        self.applied = applied or _Applied()

    def plus(self, writes: dict[bytes, bytes | None]) -> Newer:
        """This with another batch over it."""
        return Newer({**self.writes, **writes}, self.size_bytes + bytes_of(writes), self.applied)


def bytes_of(writes: Mapping[bytes, Buffer | None]) -> int:
    """Of all values together."""
    return sum(len(value) for value in writes.values() if value)
