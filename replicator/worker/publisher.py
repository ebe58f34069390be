"""The publisher: cuts, hashes, compresses, broadcasts and stores checkpoints, one after the other (R12).

Only chunks that the stream's head does not have are compressed, sent and stored. A large checkpoint is a
pipeline: two helpers hash and compress a bounded way ahead (both release the interpreter's lock), while
finished chunks are batched, broadcast and given to the store. The manifest rides on the last message.

A small checkpoint takes less time than waking a thread for it. While nothing else is being published it is
done in the control thread's own call, which reads no disk and waits for nothing: what it compares with is
what it has published lately. One that comes while a large one is being published goes between that one's
messages: it waits for what has left already, not for all that is to follow.

No message leaves before the core has allowed its index: the window follows the fastest majority, not the
slowest subscriber (R16). While one waits for long, the core is told how much has left; or the loss of all
of that, in the midst of a checkpoint, would never be noticed (R18). A publication of an older epoch than the
newest one heard of is abandoned, and so is all when this node is primary no longer: its outcome is unknown as
it is (R17a), and no later word would let it leave.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from msgspec import Struct

from replicator.adapters.ports import Store
from replicator.adapters.zeromq import PublishSocket
from replicator.codec.chunking import digest_of, seal, split
from replicator.codec.compression import compress
from replicator.codec.frames import (
    CHUNKS_PER_PUBLICATION,
    PUBLICATION_BYTES_MAX,
    Publication,
    encode_publication,
)
from replicator.core.events import Published, Sent
from replicator.core.messages import PROTOCOL_VERSION
from replicator.model import (
    Chunk,
    Digest,
    Epoch,
    Generation,
    Incarnation,
    Manifest,
    Part,
    Payload,
    Sequence,
    StreamName,
)
from replicator.settings import Settings
from replicator.worker.config import core_config
from replicator.worker.datathread import DataThread
from replicator.worker.grain import Grain

log = logging.getLogger(__name__)

HELPERS = 2
INLINE_BYTES_MAX = 2**18  # below, handing chunks to helpers costs more than it gains
IN_CALL_BYTES_MAX = 2**16  # of a checkpoint that is published without a change of threads
IN_CALL_PARTS_MAX = 64
RECENT_MAX = 1024
PACKED_BYTES = 2**20  # what a helper takes at a time
LOOK_AHEAD_BYTES_MAX = 8 * 2**20  # what the helpers may hold beyond the payload itself
# How long the window may stand still before that. Backups tell of every quarter of it, and what is still on a
# slow wire should not be given up on: 8 MiB in a second are 64 Mbit/s. Longer would hold up every stream.
STALLED_S = 1.0

Stored = tuple[Chunk, bytes]
Packed = list[tuple[Chunk, bytes | None]]  # the bytes of those that are not known


class Task(Struct, frozen=True):
    """A checkpoint to be published; a tombstone has no payload."""

    handle: int
    stream: StreamName
    generation: Generation
    epoch: Epoch
    sequence: Sequence
    payload: Payload | None

    @property
    def is_small(self) -> bool:
        """Whether it is published in no time."""
        payload = self.payload
        return payload is None or (
            payload.size_bytes <= IN_CALL_BYTES_MAX and len(payload.parts) <= IN_CALL_PARTS_MAX
        )


class _Abandoned(Exception):
    """The epoch is over, or the thread is closed."""


class Publisher(DataThread):
    """Publishes the large tasks in their order, and the small ones in theirs before the next message, on a
    thread of its own; without *socket* it only stores."""

    def __init__(
        self, settings: Settings, incarnation: Incarnation, store: Store, socket: PublishSocket | None
    ) -> None:
        super().__init__("publisher")
        self._settings = settings
        self._incarnation = incarnation
        self._store = store
        self._socket = socket
        self._helpers = ThreadPoolExecutor(HELPERS, "replicator-compress")
        self._grain = Grain(settings)
        self._window = core_config(settings).window_frames_max
        self._changed = threading.Condition()
        # A stream has one task at a time (T20), so that those of one queue may go before those of the other.
        self._large: deque[Task] = deque()
        self._small: deque[Task] = deque()
        self._newest = Epoch(0)  # the newest epoch heard of
        self._allowed: tuple[Epoch, int] = (Epoch(0), 0)
        self._epoch, self._index = Epoch(0), 0  # of the last message sent
        self._is_busy = False  # the thread has a task
        self._recent: dict[StreamName, Manifest] = {}  # small checkpoints, the newest of their streams

    def publish(self, task: Task) -> None:
        """Queue a task; the control thread's call. A small one that need not wait is published in it."""
        with self._changed:
            self._newest = max(self._newest, task.epoch)
            if not self._is_free_for(task):
                (self._small if task.is_small else self._large).append(task)
                self._changed.notify()
                return
        try:
            self._publish(task, self._recent.get(task.stream))
        except Exception as error:  # nothing of this is the caller's fault
            self._fail(error)

    def _is_free_for(self, task: Task) -> bool:
        """Whether the caller may publish the task in no time, and nobody else is at it.

        Then nobody comes meanwhile either: tasks come from the caller's thread alone.
        """
        if self._large or self._small or self._is_busy or not self._thread.is_alive():
            return False
        is_free = task.is_small and not self._store.is_crowded()
        return is_free and self._is_allowed(task.epoch, self._next_index(task.epoch))

    def allow(self, epoch: Epoch, publish_index: int) -> None:
        """Let messages of *epoch* up to that index leave; any thread. Never falls within an epoch."""
        with self._changed:
            self._newest = max(self._newest, epoch)
            self._allowed = max(self._allowed, (epoch, publish_index))
            self._changed.notify()

    def abandon(self) -> None:
        """Let go of what is queued and of what waits to leave: from now on only a newer epoch's is published.
        Any thread."""
        with self._changed:
            self._newest = Epoch(self._newest + 1)
            self._large.clear()
            self._small.clear()
            self._changed.notify()

    def close(self) -> None:
        """End the thread; what is not published yet is abandoned."""
        with self._changed:
            self._closed.set()
            self._changed.notify()
        super().close()

    def _run(self) -> None:
        while self._step():
            pass

    def _end(self) -> None:
        self._helpers.shutdown(wait=True, cancel_futures=True)
        if self._socket:
            self._socket.close()

    def _step(self) -> bool:
        """Publish the next task. Its payload is referred to no longer when this returns."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed.is_set() or self._large or self._small)
            if self._closed.is_set():
                return False
            task = (self._large or self._small).popleft()  # the small ones go before its first message
            self._is_busy = True
        try:
            self._publish(task, self._store.read_manifest(task.stream))
        finally:
            with self._changed:
                self._is_busy = False
        return True

    def _publish(self, task: Task, base: Manifest | None) -> None:
        """Publish a task, and tell so; what *base* has and is stored here is not sent again."""
        try:
            manifest = self._broadcast(task, base)
        except _Abandoned:
            log.debug("publication abandoned stream=%s sequence=%d", task.stream, task.sequence)
            return
        self.counters["published"] += 1
        if manifest.raw_bytes <= IN_CALL_BYTES_MAX:
            self._recent.pop(task.stream, None)
            self._recent[task.stream] = manifest
            if len(self._recent) > RECENT_MAX:
                del self._recent[next(iter(self._recent))]
        self._deliver(Published(task.handle, manifest, task.epoch, self._index))

    def _broadcast(self, task: Task, base: Manifest | None) -> Manifest:
        """Send and store all that is new in the task; the batch kept back goes with the manifest."""
        payload = task.payload
        if payload is None:
            manifest = self._seal(task, ())
            self._send(task, [], manifest)
            return manifest
        size = self._grain.chunk_bytes(task.stream, payload.size_bytes)
        views = [(name, view) for name, part in payload.parts.items() for view in split(part, size)]
        chunks: dict[str, list[Chunk]] = {name: [] for name in payload.parts}
        known = self._known(base)
        batch, room, found_bytes = list[Stored](), PUBLICATION_BYTES_MAX, 0
        packed = self._packed([view for _, view in views], known)
        for (name, view), (chunk, stored) in zip(views, packed, strict=True):
            self.counters["raw_bytes"] += len(view)
            if stored is not None and chunk.raw_digest not in known:
                if batch and (len(stored) > room or len(batch) == CHUNKS_PER_PUBLICATION):
                    self._send(task, batch, None)
                    batch, room = [], PUBLICATION_BYTES_MAX
                batch.append((chunk, stored))
                room -= len(stored)
            else:
                found_bytes += len(view)
            chunks[name].append(known.setdefault(Digest(chunk.raw_digest), chunk))
        manifest = self._seal(task, tuple(Part(name, tuple(found)) for name, found in chunks.items()))
        self._send(task, batch, manifest)
        self._grain.note(task.stream, payload.size_bytes, found_bytes)
        return manifest

    def _seal(self, task: Task, parts: tuple[Part, ...]) -> Manifest:
        payload = task.payload or Payload({})
        return seal(
            task.stream,
            task.generation,
            task.epoch,
            task.sequence,
            parts,
            meta=payload.meta,
            is_mapping=payload.is_mapping,
            tombstone=task.payload is None,
        )

    def _known(self, base: Manifest | None) -> dict[Digest, Chunk]:
        """The chunks of an earlier checkpoint that are stored here, by raw digest."""
        chunks = [chunk for part in base.parts for chunk in part.chunks] if base else []
        missing = {chunk.stored_digest for chunk in self._store.missing(chunks)}
        return {Digest(chunk.raw_digest): chunk for chunk in chunks if chunk.stored_digest not in missing}

    def _packed(
        self, views: list[memoryview], known: dict[Digest, Chunk]
    ) -> Iterable[tuple[Chunk, bytes | None]]:
        """Each view's chunk in order, with its stored bytes unless it was known at that time."""

        def pack(views: list[memoryview]) -> Packed:
            digests = [digest_of(view) for view in views]
            return [
                (known[digest], None) if digest in known else compress(view, digest)
                for view, digest in zip(views, digests, strict=True)
            ]

        if sum(map(len, views)) <= INLINE_BYTES_MAX:
            return pack(views)
        return self._ahead(pack, views)

    def _ahead(
        self, pack: Callable[[list[memoryview]], Packed], views: list[memoryview]
    ) -> Iterator[tuple[Chunk, bytes | None]]:
        """What *pack* gives, but the helpers work a bounded number of chunks ahead, a few at a time each."""
        chunk_bytes = max(map(len, views))
        size = max(1, min(PACKED_BYTES // chunk_bytes, len(views) // (2 * HELPERS)))
        waiting: deque[Future[Packed]] = deque()
        for start in range(0, len(views), size):
            waiting.append(self._later(pack, views[start : start + size]))
            if len(waiting) * size * chunk_bytes >= LOOK_AHEAD_BYTES_MAX and len(waiting) >= HELPERS:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()

    def _later(self, pack: Callable[[list[memoryview]], Packed], views: list[memoryview]) -> Future[Packed]:
        """By a helper; at once when there are none left: Python ends them before an engine's threads."""
        try:
            return self._helpers.submit(pack, views)
        except RuntimeError:
            done: Future[Packed] = Future()
            done.set_result(pack(views))
            return done

    def _send(self, task: Task, batch: list[Stored], manifest: Manifest | None) -> None:
        """Broadcast one message when it is allowed to leave, and give its chunks to the store."""
        chunks, stored = tuple(chunk for chunk, _ in batch), [content for _, content in batch]
        self._wait_until_allowed(task.epoch)
        if not task.is_small and self._small:
            self._publish_small()
            self._wait_until_allowed(task.epoch)
        self._epoch, self._index = task.epoch, self._next_index(task.epoch)
        if self._socket:
            header = Publication(
                PROTOCOL_VERSION,
                self._settings.cluster,
                self._settings.node,
                self._incarnation,
                task.epoch,
                self._index,
                task.stream,
                task.generation,
                task.sequence,
                chunks,
                manifest,
            )
            self._socket.send(encode_publication(header, stored))
            self.counters["sent_bytes"] += sum(map(len, stored))
        if batch:
            self._store.put_chunks(task.stream, task.epoch, task.sequence, batch, wait=self._is_here)

    def _publish_small(self) -> None:
        """What goes before the end of a large one. What comes meanwhile waits for its next message."""
        with self._changed:
            small, self._small = self._small, deque()
        while small:
            task = small.popleft()
            self._publish(task, self._store.read_manifest(task.stream))

    def _next_index(self, epoch: Epoch) -> int:
        return self._index + 1 if epoch == self._epoch else 1

    def _wait_until_allowed(self, epoch: Epoch) -> None:
        """Return when the next message may leave; raises _Abandoned if it never may."""
        index = self._next_index(epoch)

        def over() -> bool:
            return self._closed.is_set() or epoch < self._newest

        with self._changed:
            while not self._changed.wait_for(lambda: over() or self._is_allowed(epoch, index), STALLED_S):
                self._deliver(Sent(epoch, index - 1))
            if over():
                raise _Abandoned

    def _is_allowed(self, epoch: Epoch, index: int) -> bool:
        limit = self._allowed[1] if self._allowed[0] == epoch else self._window
        return self._socket is None or index <= limit
