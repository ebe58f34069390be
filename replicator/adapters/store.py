"""A replica's disk on LMDB: the `Store` of `ports`, from the lock on its directory to the last sync.

The directory holds ``lock`` (one process at a time), ``meta`` (identity, promise, members: always
synced), ``payload`` (checkpoints), and ``founding`` until both are made. Reading order: `store_record` what
lies on the disk, `store_plan` what an effect changes, `store_payload` how it gets there, `store_writer` in
which order and what happens when it does not; this file opens and closes, and reads.

Keeps R2, R4, R10, R13, R19 to R23; see the files named.
"""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence as Ordered
from contextlib import ExitStack, contextmanager
from errno import EACCES, EINVAL, EPERM, EROFS
from pathlib import Path

from replicator.adapters.ports import Deliver, StoreEffect
from replicator.adapters.store_lock import NAMES, DirectoryLock
from replicator.adapters.store_meta import Meta, boot_id
from replicator.adapters.store_pages import DATA_NAME
from replicator.adapters.store_payload import Payload, has_streams
from replicator.adapters.store_plan import Discard
from replicator.adapters.store_reader import Reads
from replicator.adapters.store_record import Durability, file_errors, sync_directory
from replicator.adapters.store_scrub import Damage, Scrubber
from replicator.adapters.store_writer import Writer
from replicator.codec.assembly import ReadChunk
from replicator.core.events import Durable
from replicator.errors import StoreDamaged, StoreError
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

FOUNDING_NAME = "founding"
FOUNDING_BYTES = 2**20  # free on the disk before a store is made
VIEW_ABOVE_BYTES = 2**13  # ZeroMQ receives into blocks of that size: what is smaller keeps a whole one
_NOT_OURS = (EACCES, EPERM, EINVAL, EROFS)  # why a directory cannot be synced in which nothing was made

logger = logging.getLogger(__name__)


class LmdbStore:
    """See `replicator.adapters.ports.Store` for the promises of each call."""

    def __init__(
        self,
        lock: DirectoryLock,
        meta: Meta,
        payload: Payload,
        durability: Durability,
        writer_queue_bytes_max: int,
        transaction_bytes_max: int,
    ) -> None:
        """Use `open`."""
        self._lock = lock
        self._meta = meta
        self._payload = payload
        self._durability = durability
        self._writer = Writer(meta, payload, writer_queue_bytes_max, transaction_bytes_max)
        self._reads = Reads(payload.reading)
        self._scrubber = Scrubber(payload, self.discard_chunk)
        self._writer.discarded = self._scrubber.suspect
        self._closed = False

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        cluster: str,
        node: NodeId,
        durability: Durability = "disk",
        lease_max_s: float = 0.0,
        keep: int = 1,
        map_bytes_initial: int = 64 * 2**20,
        writer_queue_bytes_max: int = 32 * 2**20,
        transaction_bytes_max: int = 4 * 2**20,
        disk_reserve_bytes: int = 16 * 2**20,
        loose_bytes_max: int = 2 * 2**30,
        check: Callable[[], object] = lambda: None,
    ) -> LmdbStore:
        """Open the store in directory *path*, or make it.

        *keep* older committed checkpoints stay per stream; *loose_bytes_max* bounds what all running
        transfers but the first may hold. *check* is called when the directory is locked and nothing is made
        in it yet; what it raises is raised. Raises `StoreInUse` if another process has it, `StoreDamaged` if
        a record is damaged or lost, else `StoreError` (other cluster or node, another format, no permission).
        """
        with ExitStack() as undo, _advice(path):
            lock = DirectoryLock(path)
            undo.callback(lock.release)
            check()
            _begin_founding(path)
            meta = Meta(path / "meta", lease_max_s)
            undo.callback(meta.close)
            meta.check(cluster, node)
            is_new = _is_new(path, meta)
            payload = Payload(
                path / "payload",
                meta.identity.incarnation if meta.identity else Incarnation(uuid.uuid4().bytes),
                new=is_new,
                synced=durability == "disk",
                keep=keep,
                map_bytes=map_bytes_initial,
                disk_reserve_bytes=disk_reserve_bytes,
                loose_bytes_max=loose_bytes_max,
            )
            undo.callback(payload.close)
            if is_new:
                _sync_names(path)
                meta.found(cluster, node, payload.memory.state.incarnation)
                _end_founding(path)
            meta.write_session(boot_id(), durability, clean=False)
            undo.pop_all()
        return cls(lock, meta, payload, durability, writer_queue_bytes_max, transaction_bytes_max)

    def start(self, deliver: Deliver) -> None:
        self._writer.start(deliver)

    def durable(self) -> Durable:
        meta, memory = self._meta, self._payload.memory
        assert meta.identity is not None
        members = meta.membership
        return Durable(
            cluster=meta.identity.cluster,
            node=meta.identity.node,
            incarnation=meta.identity.incarnation,
            promise=meta.promise,
            record=members.record if members else None,
            record_epoch=members.epoch if members else Epoch(0),
            founded=members is not None and members.founded,
            heads=self._payload.heads(),
            committed={
                stream: (record.committed.generation, record.committed.sequence)
                for stream, record in memory.streams.items()
                if record.committed is not None
            },
            counter=meta.counter + memory.state.counter,
            remembered=dict(memory.state.remembered),
            epoch_seen=Epoch(meta.epoch_seen),
            lent_max_s=meta.lent_max_s,
        )

    def perform(self, effect: StoreEffect) -> None:
        self._writer.perform(effect)

    def put_chunks(
        self,
        stream: StreamName,
        epoch: Epoch,
        sequence: Sequence,
        chunks: Ordered[tuple[Chunk, Buffer]],
        *,
        wait: bool = True,
    ) -> None:
        stored = [
            (Digest(chunk.stored_digest), buffer if len(buffer) > VIEW_ABOVE_BYTES else bytes(buffer))
            for chunk, buffer in chunks
        ]
        self._writer.put(stream, epoch, sequence, stored, wait=wait)

    def is_crowded(self) -> bool:
        return self._writer.is_crowded

    def missing(self, chunks: Iterable[Chunk]) -> list[Chunk]:
        return [chunk for chunk in chunks if not self._writer.has(Digest(chunk.stored_digest))]

    def head_bytes(self, stream: StreamName) -> int:
        return self._payload.memory.head_bytes.get(stream, 0)

    def read_manifest(self, stream: StreamName, digest: Digest | None = None) -> Manifest | None:
        try:
            return self._reads.manifest(stream, digest)
        except StoreDamaged as error:
            logger.error("manifest of stream=%s cannot be read: %s", stream, error)
            self._scrubber.suspect(stream)
            return None

    def read_chunk(self, stored_digest: Digest) -> bytes | None:
        try:
            found = self._reads.chunk(stored_digest)
        except StoreDamaged as error:  # a page of LMDB's own, which nobody can write again
            logger.error("chunk %s cannot be read: %s", stored_digest.hex(), error)
            return None
        if found is None:
            self.discard_chunk(stored_digest)
        return found

    def read_small(self, heads: Iterable[Head], bytes_max: int) -> Iterator[tuple[Manifest, ReadChunk]]:
        return self._reads.small(heads, bytes_max)

    def discard_chunk(self, stored_digest: Digest) -> None:
        """Remove a chunk that cannot be read, if the writer finds it rotten too: as long as it counts as
        stored, nobody has to bring it again (R22). It is suspected when that is done: what was to be accepted
        before may name it as well, and can be looked at then."""
        if self._payload.memory.chunks.is_stored(stored_digest):
            self._writer.perform(Discard(stored_digest))

    def wait_for_rot(self, timeout_s: float | None, is_wanted: Callable[[], bool]) -> list[Damage]:
        """Wait, for so long at most, until somebody has come upon what cannot be read, or `end_wait`; return
        stream and manifest digest of the heads that are rotten for it (R22)."""
        return self._scrubber.wait(timeout_s, is_wanted)

    def end_wait(self) -> None:
        """Have `wait_for_rot` return; any thread."""
        self._scrubber.suspect(None)

    def scrub(self, budget_bytes: int, is_wanted: Callable[[], bool] = lambda: True) -> list[Damage]:
        """Read about *budget_bytes* of retained checkpoints, going on where the last call stopped, and
        return stream and manifest digest of those with rotten or absent chunks (R22). It stops when it is
        wanted no longer, which is asked before each chunk."""
        return self._scrubber.scrub(budget_bytes, is_wanted)

    def writing_s(self) -> float:
        return self._writer.writing_s

    def usage(self) -> dict[str, int]:
        memory = self._payload.memory
        return {
            "streams": len(memory.streams),
            "checkpoints": sum([len(record.entries) for record in list(memory.streams.values())]),
            "chunks": len(memory.chunks.needs),
            "stored_bytes": memory.chunks.stored_bytes,
            "queued_bytes": self._writer.queued_bytes,
        }

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            if self._writer.close():
                self._payload.sync()
                self._meta.write_session(boot_id(), self._durability, clean=True)
        except StoreError as error:
            logger.error("store is not closed in order: %s", error)
        finally:
            self._payload.close()
            self._meta.close()
            self._lock.release()


@contextmanager
def _advice(path: Path) -> Iterator[None]:
    """Have whoever finds the store damaged told what to do about it."""
    try:
        yield
    except StoreDamaged as error:
        raise StoreDamaged(
            f"{error}; move {path} away: among peers this node then joins anew, alone it needs an older copy"
        ) from error


def _begin_founding(path: Path) -> None:
    """Note that a store is being made, where nothing is or what a crash left of the last attempt.

    LMDB does not wait for the first pages of a new environment, so what is left may not even open; nothing
    was ever answered from it. Whoever made or removed the mark may have died before the disk had that, so it
    is waited for at each start: a store that answers must never be taken for half made.
    """
    mark = path / FOUNDING_NAME
    parts = (path / "meta", path / "payload")
    with file_errors(path):
        if mark.exists() or not any((part / DATA_NAME).exists() for part in parts):
            for part in parts:
                _remove(part)
            mark.touch(mode=0o600)
        sync_directory(path)
        disk = os.statvfs(path)
        if mark.exists() and disk.f_bavail * disk.f_frsize < FOUNDING_BYTES:
            # LMDB's lock is a file in memory: without room for it a signal would end the process.
            raise StoreError(f"no room in {path}: a new store takes {FOUNDING_BYTES // 2**20} MiB at least")


def _end_founding(path: Path) -> None:
    """From here on what cannot be read is damage, never made anew (R21)."""
    with file_errors(path):
        (path / FOUNDING_NAME).unlink(missing_ok=True)
        sync_directory(path)


def _sync_names(path: Path) -> None:
    """Make durable what a new store's files are found by, up to whatever directories were made with it, by
    this process or by one that died: none above the mount that it lies in."""
    with file_errors(path):
        for directory in (path / "payload", path / "meta", path):
            sync_directory(directory)
        directory = path.absolute()
        while not directory.is_mount():
            directory = directory.parent
            try:
                sync_directory(directory)
            except OSError as error:
                if error.errno not in _NOT_OURS:
                    raise


def _is_new(path: Path, meta: Meta) -> bool:
    """Whether a store has to be made; makes way for it, but never over somebody's checkpoints."""
    if meta.is_amnesiac(boot_id()):
        logger.error(
            "store path=%s was not synced (durability=memory) when the machine went down; "
            "all of it is given up, and this replica has to join anew",
            path,
        )
        meta.reset()
    payload = path / "payload"
    if meta.identity is None and payload.exists():
        if not meta.is_resetting and has_streams(payload):
            raise StoreDamaged(f"store {path} has checkpoints, but its identity is lost")
        with file_errors(path):
            _remove(payload)
    return meta.identity is None


def _remove(part: Path) -> None:
    """Remove a part of the store; raises `StoreError` if it holds what the store has not made."""
    if part.exists():
        if foreign := {each.name for each in part.iterdir()} - NAMES:
            raise StoreError(
                f"{part} is not of this store: it holds {min(foreign)}; choose another REPLICATOR_DATA_DIR"
            )
        shutil.rmtree(part)
