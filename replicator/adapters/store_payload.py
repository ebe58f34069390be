"""The payload environment: the retained checkpoints' manifests and chunks on the disk.

A batch of store effects is planned in memory (`Plan`), then written in one transaction with one wait for
the disk. Only the writer's thread writes, so nothing comes between the check of the fence and the write
(R4). Memory follows the disk: what cannot be written is undone.

A small batch with something to acknowledge goes to the journal (`store_journal`), which waits for the disk
once, and to the environment later along with others. Any other goes to the environment. Its commits leave
LMDB's own root page unsynced, which can undo the last transaction at a power loss but never damages it:
enough for what the journal still has, and for chunks and hints as long as nothing builds on them. A large
batch with something to acknowledge is synced once more, and so is what the journal's next record builds on.
All before the completions are delivered (R13).
"""

from __future__ import annotations

import logging
import mmap
import os
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from errno import EIO
from pathlib import Path

import lmdb
from msgspec import structs

from replicator.adapters.store_chunks import Change, Chunks
from replicator.adapters.store_journal import (
    BATCH_BYTES_MAX,
    JOURNAL_NAME,
    Journal,
    Newer,
    View,
    bytes_of,
    is_used,
    replay,
)
from replicator.adapters.store_pages import DATA_NAME, can_grow
from replicator.adapters.store_plan import Fence, Hints, Item, Memory, Plan, Put
from replicator.adapters.store_record import (
    BULK_KEY,
    CHUNK_PREFIX,
    STATE_KEY,
    STREAM_PREFIX,
    Bulk,
    State,
    StreamRecord,
    chunks_of,
    fingerprint,
    head_of,
    lmdb_errors,
    load,
    open_environment,
    read_chunk,
    read_manifest,
    scan_keys,
    seal,
    unseal,
)
from replicator.core.effects import Accept
from replicator.core.events import Event
from replicator.errors import StoreDamaged, StoreError, StoreFull
from replicator.model import Buffer, Digest, Head, Incarnation, StreamName

NEWER_BYTES_MAX = 2**20  # what the journal is ahead of the environment; a transaction of any other kind
NEWER_KEYS_MAX = 256  # each batch copies the table of them
_PAGES_IN_DOUBT = 16  # the free list's own pages, which LMDB does not report

logger = logging.getLogger(__name__)


class Payload:
    """The environment, and its records in memory."""

    def __init__(
        self,
        path: Path,
        incarnation: Incarnation,
        *,
        new: bool,
        synced: bool,
        keep: int,
        map_bytes: int,
        disk_reserve_bytes: int,
        loose_bytes_max: int,
    ) -> None:
        """Open the environment, or make it (*new*), and read all but the chunks' bytes.

        Raises `StoreDamaged` if a record fails its checksum, a head has vanished, or it is not the
        payload of *incarnation* (R21).
        """
        self._path = path
        self._synced = synced
        self._disk_reserve_bytes = disk_reserve_bytes
        self._environment = open_environment(path, map_bytes, sync=synced, metasync=False)
        self._gate = threading.Condition()
        self._readers = 0
        self._is_moving = False
        self._unreadable: set[StreamName] = set()
        self._is_in_doubt = True  # a power loss may undo a transaction that the journal cannot bring back
        self._may_be_lost = synced  # and a sync failed since, perhaps another process's, for its root page
        self._is_root_in_doubt = True  # as after every transaction, until the next one's wait for the disk
        self._newer = Newer({})
        self._journal: Journal | None = None
        self.written_bytes = 0  # of the last batch
        self.memory = Memory(State(incarnation), Chunks(loose_bytes_max), keep)
        try:
            if new:
                self._apply({STATE_KEY: seal(STATE_KEY, self.memory.state)})
            self._replay(incarnation)
            self._load()
            self._flush()  # for what the last process may not have waited for there has to be no room
            try:
                if synced:  # else the journal keeps it, for which the last session's word still stands
                    self._apply({})
                self.sync()
            except StoreFull as error:  # it stays in doubt, and nothing is built on it, until there is room
                logger.warning("what the last process wrote stays in doubt: %s", error)
            self._journal = self._open_journal(incarnation) if synced else None
        except BaseException:
            self._environment.close()
            raise

    def _open_journal(self, incarnation: Incarnation) -> Journal | None:
        try:
            return Journal(self._path / JOURNAL_NAME, incarnation)
        except StoreFull as error:
            logger.warning("no journal, commits take longer: %s", error)
            return None

    def _replay(self, incarnation: Incarnation) -> None:
        """Take over what a process that died had only in its journal: it lies over the environment."""
        with lmdb_errors(self._path), self._environment.begin() as txn:
            state = load(State, txn, STATE_KEY)
        if state is None or state.incarnation != incarnation:
            raise StoreDamaged(f"store {self._path} is lost or not the one that belongs to its meta")
        self._newer = self._newer.plus(replay(self._path / JOURNAL_NAME, incarnation, state.journaled))

    def _load(self) -> None:
        memory = self.memory
        with self.reading() as view:
            state = load(State, view, STATE_KEY)
            assert state is not None
            memory.state = state
            memory.bulk = load(Bulk, view, BULK_KEY)
            total = fingerprint(view.get(BULK_KEY))
            for key, sealed in view.scan(STREAM_PREFIX):
                record = unseal(StreamRecord, key, sealed)
                total ^= fingerprint(sealed)
                memory.streams[record.stream] = record
            if total != state.fingerprint:
                raise StoreDamaged(f"store {self._path} has lost a head, or got one back")
            self._load_chunks(view)

    def _load_chunks(self, view: View) -> None:
        chunks = self.memory.chunks
        stored = {Digest(key[len(CHUNK_PREFIX) :]) for key in view.keys(CHUNK_PREFIX)}
        change = Change()
        for record in self.memory.streams.values():
            for entry in record.entries:
                manifest = read_manifest(view, record.stream, entry)
                named = chunks_of(manifest)
                chunks.need(change, named)
                if entry is record.head:
                    self.memory.head_bytes[record.stream] = manifest.stored_bytes
                    if not stored.issuperset(named):
                        self._unreadable.add(record.stream)
        chunks.absent.update(dict.fromkeys(chunks.needs.keys() - stored, True))
        chunks.garbage.update(dict.fromkeys(stored - chunks.needs.keys(), True))

    def heads(self) -> tuple[Head, ...]:
        """All heads as they are at open; unreadable where a chunk is known to be gone (R6)."""
        return tuple(
            head_of(record, self.memory.bulk, readable=stream not in self._unreadable)
            for stream, record in self.memory.streams.items()
        )

    # ── from any thread ──

    @contextmanager
    def reading(self) -> Iterator[View]:
        """A read transaction; meanwhile the map does not move and the environment stays open.

        What only the journal has lies over it, unless the transaction has it by now.
        """
        with self._gate:
            self._gate.wait_for(lambda: not self._is_moving)
            self._readers += 1
        try:
            newer = self._newer
            with lmdb_errors(self._path), self._environment.begin() as txn:
                yield View(txn, newer.writes if txn.id() < newer.applied.by else {})
        finally:
            with self._gate:
                self._readers -= 1
                self._gate.notify_all()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._gate:
            self._is_moving = True
            try:
                self._gate.wait_for(lambda: not self._readers)
                yield
            finally:
                self._is_moving = False
                self._gate.notify_all()

    # ── from the writer's thread ──

    def write(self, items: Collection[Item], hints: Hints, fence: Fence) -> list[Event]:
        """Write a batch in one transaction, durably if it acknowledges something; return its completions.

        Raises `StoreFull` with nothing changed; after any other error the store must not be written again
        in this process (R21).
        """
        memory = self.memory
        plan = Plan(memory, self, fence)
        plan.run(items, hints)
        acknowledges = plan.state.counter != memory.state.counter
        try:
            self._commit(plan, acknowledges and self._synced)
        except StoreFull:
            plan.change.undo()
            raise
        memory.state, memory.bulk = plan.state, plan.bulk
        memory.chunks.tidy()
        return plan.change.events

    def _commit(self, plan: Plan, durably: bool) -> None:
        """By the journal if the batch has to be durable and is small; else by the environment."""
        writes = plan.change.writes
        self.written_bytes = bytes_of(writes)
        journal = self._journal if durably and self.written_bytes <= BATCH_BYTES_MAX else None
        if journal is not None:
            plan.state = structs.replace(plan.state, journaled=plan.state.journaled + 1)
        if plan.state != self.memory.state:
            writes[STATE_KEY] = seal(STATE_KEY, plan.state)
        if journal is not None:
            # Read from memory for a while, so it is as what is read from the disk, and keeps no frame alive.
            kept = {key: None if value is None else bytes(value) for key, value in writes.items()}
            self._append(journal, plan.state.journaled, kept)
        else:
            self._apply(writes)
            if durably:
                self.sync()

    def _append(self, journal: Journal, number: int, writes: dict[bytes, bytes | None]) -> None:
        """Make a batch durable in the journal; at its end it begins at the front again."""
        if self._is_in_doubt:  # the batch may name chunks, and its fingerprint records, that are only there
            self.sync()
        if not journal.append(number, writes):
            self._apply({})
            self.sync()
            journal.rewind()
            fits = journal.append(number, writes)
            assert fits
        self._newer = self._newer.plus(writes)

    def catch_up(self, *, idle: bool) -> None:
        """Bring into the environment what only the journal has, if it is much or there is time for it; in
        idle time end all doubt too, so that the next batch has one wait for the disk."""
        try:
            self._catch_up(idle)
        except StoreFull as error:  # the journal keeps it until there is room
            logger.debug("no room: %s", error)

    def _catch_up(self, idle: bool) -> None:
        newer = self._newer.writes
        if newer and (idle or len(newer) >= NEWER_KEYS_MAX or self._newer.size_bytes >= NEWER_BYTES_MAX):
            self._apply({})
        if idle and self._is_in_doubt and self._synced and not self.memory.chunks.garbage:
            self.sync()  # while nobody waits for it

    def _apply(self, writes: dict[bytes, Buffer | None]) -> None:
        """Write in one transaction, after all that only the journal had, with a larger map if need be."""
        newer = self._newer
        only_here = bool(writes)
        writes = {**newer.writes, **writes}
        while writes:
            self._may_be_lost |= self._is_root_in_doubt
            with lmdb_errors(self._path):
                try:
                    self._environment.reader_check()  # one that died while it read would hold pages for ever
                    with self._environment.begin(write=True) as txn:
                        newer.applied.by = txn.id()
                        for key, value in writes.items():
                            if value is None:
                                txn.delete(key)
                            else:
                                txn.put(key, value)
                    self._newer = Newer({})
                    self._is_in_doubt = only_here  # this commit's sync has ended the doubt of the one before
                    self._is_root_in_doubt = True
                    self._may_be_lost = False  # it has a root page of its own
                    return
                except lmdb.MapFullError:
                    with self._alone():
                        self._environment.set_mapsize(2 * self._environment.info()["map_size"])
                except lmdb.Error as error:
                    if error.code == EIO and self._was_cut_short(writes):
                        raise StoreFull(f"no room in {self._path}: {error}") from error
                    raise

    def _was_cut_short(self, writes: dict[bytes, Buffer | None]) -> bool:
        """Whether an I/O error is LMDB's word for a write that found room for a part only.

        The transaction's pages were free ones, so nothing is lost (R21). Were it a failed sync after all:
        it had only those pages to wait for, and the root page that the next transaction replaces.
        """
        needed = bytes_of(writes) + _PAGES_IN_DOUBT * mmap.PAGESIZE
        disk = os.statvfs(self._path)
        return disk.f_bavail * disk.f_frsize < needed or not can_grow(self._path / DATA_NAME, needed)

    def sync(self) -> None:
        """Wait until everything committed is on the disk, whatever the durability.

        `StoreFull` means that nothing was tried; any other `StoreError`, that it may be lost (R21).
        """
        if self._may_be_lost:  # the system would not wait again for what it has failed to write
            self._apply({STATE_KEY: seal(STATE_KEY, self.memory.state)})
        self._flush()
        self._is_in_doubt = self._is_root_in_doubt = False

    def _flush(self) -> None:
        try:
            self._environment.sync(True)
        except lmdb.Error as error:
            # For want of room or not: what was committed may be lost, so this is never `StoreFull`.
            raise StoreError(f"store {self._path}: sync failed: {error}") from error

    def get(self, key: bytes, /) -> bytes | None:
        """The value of *key*, if there is one. A plan seldom needs any but what the journal has just got."""
        newer = self._newer.writes
        if key in newer:
            return newer[key]
        with self.reading() as view:
            return view.get(key)

    def has_room(self, needed_bytes: int) -> bool:
        """Whether so much can still be stored: in the disk's free bytes beyond the reserve, and LMDB's free
        pages."""
        disk = os.statvfs(self._path)
        free = max(disk.f_bavail * disk.f_frsize - self._disk_reserve_bytes, 0)
        if needed_bytes <= free:
            return True
        stat = self._environment.stat()
        used = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] + _PAGES_IN_DOUBT
        recyclable = max(self._environment.info()["last_pgno"] - used, 0) * stat["psize"]
        return bool(needed_bytes <= free + recyclable)

    def needed_bytes(self, items: Iterable[Item]) -> int:
        """How many bytes of chunks the items would add."""
        needed = 0
        for item in items:
            if isinstance(item, Put):
                needed += item.size_bytes
            elif isinstance(item, Accept):
                named = chunks_of(item.manifest)
                needed += sum(
                    size for digest, size in named.items() if not self.memory.chunks.is_stored(digest)
                )
        return needed

    def disown(self, stored_digest: Digest) -> None:
        """Count a chunk as absent, if it is rotten, where there is no room even to delete it."""
        with self.reading() as view:
            if read_chunk(view, stored_digest) is None:
                self.memory.chunks.discard(Change(), stored_digest)

    def close(self) -> None:
        with self._alone():
            self._environment.close()
        if self._journal is not None:
            self._journal.close()


def has_streams(path: Path) -> bool:
    """Whether the payload environment in *path* holds any checkpoint, or may get one from its journal."""
    if is_used(path / JOURNAL_NAME):
        return True
    environment = open_environment(path, 2**20)
    try:
        with lmdb_errors(path), environment.begin() as txn:
            return next(scan_keys(txn, STREAM_PREFIX), None) is not None
    finally:
        environment.close()
