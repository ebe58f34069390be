"""The one thread that writes the store: its queue, its batches, and what it does when the disk will not.

First in, first out, but promises and member records overtake payload; everything that waits, up to
a bound of chunks that follows the disk, goes into one transaction with one sync (so a promise waits for one
short transaction at most). Chunks below that size are nothing to wake up for: they wait for the acceptance
that names them. Completions are delivered by this thread in the order of the writes: what was
accepted before a promise is delivered before it (R2).

A full disk refuses what needs room and goes on by itself when there is room again. After any other
failure nothing is written again, and what is queued is dropped (R21).
"""

from __future__ import annotations

import logging
import math
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence as Ordered

from replicator.adapters.ports import Deliver, StoreEffect
from replicator.adapters.store_meta import Meta
from replicator.adapters.store_payload import Payload
from replicator.adapters.store_plan import Discard, Fence, Hints, Item, Put
from replicator.bell import Bell
from replicator.core.effects import (
    Accept,
    AdoptHeads,
    ForgetTombstone,
    MarkCommitted,
    RememberCounters,
    WritePromise,
    WriteRecord,
)
from replicator.core.events import Accepted, AcceptRefused, Event, StoreFailed, StoreRoom, Why
from replicator.errors import ReplicatorError, StoreFull
from replicator.model import Buffer, Digest, Epoch, Sequence, StreamName

BATCH_ITEMS_MAX = 256
TRANSACTION_S = 0.02  # what a promise waits for at most, unless the disk is slow
TRANSACTION_BYTES_MIN = 2**20
IDLE_S = 1.0  # after it what waits is written, garbage swept, and on a full disk it is looked for room
MISJUDGED_S, MISJUDGED_S_MAX = 1.0, 60.0  # the same where room was misjudged, longer each time
CHUNK_NAMED_BYTES = 80  # what a manifest says of one chunk
SWEEP_S = 0.01  # between one sweep and the next, so that other threads get on

logger = logging.getLogger(__name__)


class Writer:
    """Takes effects and chunks from any thread; only its own thread writes to *meta* and *payload*."""

    def __init__(
        self, meta: Meta, payload: Payload, queue_bytes_max: int, transaction_bytes_max: int
    ) -> None:
        self._meta = meta
        self._payload = payload
        self._queue_bytes_max = queue_bytes_max
        self._transaction_bytes_max = min(transaction_bytes_max, queue_bytes_max)
        self._transaction_bytes_min = min(TRANSACTION_BYTES_MIN, self._transaction_bytes_max)
        self._transaction_bytes = self._transaction_bytes_min  # of chunks in one
        self._deliver: Deliver = lambda event: None
        self._thread = threading.Thread(target=self._run, name="replicator-store", daemon=True)
        self._changed = threading.Condition()
        self._urgent: list[WritePromise | WriteRecord] = []
        self._queue: deque[Item] = deque()
        self._hints = Hints()
        self._queued: dict[Digest, int] = {}
        self._suspects: set[Digest] = set()
        self.discarded: Callable[[Digest], None] = lambda digest: None  # called when a Discard is done
        self.queued_bytes = 0
        self._parked: list[Item] = []  # what the core does not ask for again: adoptions, tombstones to forget
        self._is_full = False
        self._refused: dict[StreamName, int] = {}  # for want of room; the bytes that each lacks
        self._too_large: set[StreamName] = set()  # found no room where some was seen
        self._look_at = -math.inf  # for room
        self._pause_s = MISJUDGED_S  # until the next look, if that room is not there
        self._one_by_one = 0  # so many items go each by itself, since together they found no room
        self._is_due = False  # something waits that is worth a transaction
        self._is_idle = False
        self._bell = Bell()
        self._sleeper = select.poll()
        self._sleeper.register(self._bell, select.POLLIN)
        self._writing_since = math.inf
        self._closing = False
        self._failed = False

    # ── from any thread ──

    def start(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self._thread.start()

    def perform(self, effect: StoreEffect | Discard) -> None:
        """Queue an effect; never blocks."""
        with self._changed:
            if self._failed or self._closing:
                return
            match effect:
                case MarkCommitted():
                    known = self._hints.marks.get(effect.stream)
                    if known is None or known.position < effect.position:
                        self._hints.marks[effect.stream] = effect
                    return
                case RememberCounters():
                    self._hints.remembered.update(effect.counters)
                    return
                case WritePromise() | WriteRecord():
                    self._urgent.append(effect)
                case Discard():
                    self._suspects.add(effect.stored_digest)
                    self._queue.append(effect)
                case _:
                    self._queue.append(effect)
            self._is_due = True
        self._wake()

    def _wake(self) -> None:
        """Have what is due written."""
        if self._bell.is_dozing and (self._is_due or self._closing):
            self._bell.ring()

    def put(
        self,
        stream: StreamName,
        epoch: Epoch,
        sequence: Sequence,
        chunks: Ordered[tuple[Digest, Buffer]],
        *,
        wait: bool,
    ) -> None:
        """Queue chunks, if need be (*wait*) when the queue is within its bound again; lost if the store is
        closed or failed."""
        start = size = 0
        for end, (_, stored) in enumerate(chunks):
            if end > start and size + len(stored) > self._transaction_bytes:
                self._put(Put(stream, epoch, sequence, tuple(chunks[start:end]), size), wait)
                start, size = end, 0
            size += len(stored)
        if start < len(chunks):
            self._put(Put(stream, epoch, sequence, tuple(chunks[start:]), size), wait)

    def _put(self, put: Put, wait: bool) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not (wait and self.is_crowded) or self._failed or self._closing)
            if self._failed or self._closing:
                return
            for digest, _ in put.chunks:
                self._queued[digest] = self._queued.get(digest, 0) + 1
            self.queued_bytes += put.size_bytes
            self._queue.append(put)
            if self.queued_bytes > self._transaction_bytes:
                self._is_due = True
        self._wake()

    @property
    def is_crowded(self) -> bool:
        """Whether more chunks would have to wait."""
        return self.queued_bytes > self._queue_bytes_max

    def has(self, stored_digest: Digest) -> bool:
        """Whether the chunk is stored, as far as is known in good order, or waits to be written."""
        if stored_digest in self._queued:
            return True
        return self._payload.memory.chunks.is_kept(stored_digest) and stored_digest not in self._suspects

    @property
    def writing_s(self) -> float:
        """How long the thread has been at one batch; a disk that hangs says nothing by itself."""
        return max(0.0, time.monotonic() - self._writing_since)

    def close(self) -> bool:
        """Write what is queued and end the thread; true if everything is on the disk."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._wake()
        if self._thread.ident is None:
            self._run()
        else:
            self._thread.join()
        self._bell.close()
        return not self._failed

    # ── the writer's own thread ──

    def _run(self) -> None:
        try:
            while not self._closing or self._urgent or self._queue:
                self._step()
            self._write([])
        except Exception as error:
            self._fail(error)

    def _step(self) -> None:
        """Wait for the next batch, and write it."""
        urgent, items = self._take()
        self._writing_since = time.monotonic()
        try:
            if urgent:
                self._deliver_all(self._meta.write(urgent, self._payload.memory.state.counter))
            else:
                self._look_for_room()
                self._write(items)
        finally:
            self._writing_since = math.inf

    def _take(self) -> tuple[list[WritePromise | WriteRecord], list[Item]]:
        """The next batch: what is urgent, or items; nothing when it is time to sweep or to look for room."""
        with self._changed:
            self._is_due = self.queued_bytes > self._transaction_bytes or any(
                not isinstance(item, Put) for item in self._queue
            )
        self._wait()
        with self._changed:
            urgent, self._urgent = self._urgent, []
            items: list[Item] = []
            size = 0
            count_max = BATCH_ITEMS_MAX if not self._one_by_one else 1
            while not urgent and self._queue and len(items) < count_max:
                item = self._queue[0]
                size += _size_bytes(item)
                # An acceptance goes with the chunks before it: by itself it would wait for their root too.
                # But many, of large states that have not changed, are much to write themselves.
                if items and size > self._transaction_bytes * (2 if isinstance(item, Accept) else 1):
                    break
                items.append(self._queue.popleft())
            self._one_by_one = max(0, self._one_by_one - len(items))
            self._is_idle = not urgent and not items
            return urgent, items

    def _wait(self) -> None:
        """Return when something is due, or nothing was for a while."""
        self._bell.doze()  # first, so that whoever has something due after the look below rings
        while not (self._is_due or self._urgent or self._closing):
            if not self._sleeper.poll(self._patience_s() * 1000):
                break
            self._bell.silence()
            self._bell.doze()
        self._bell.wake()

    def _patience_s(self) -> float:
        """How long to wait for something due: then it is time to sweep, to catch up, or to look for room."""
        if self._payload.memory.chunks.garbage and self._is_idle and not self._is_full:
            return SWEEP_S
        return IDLE_S

    def _write(self, items: list[Item]) -> None:
        needed = self._payload.needed_bytes(items)
        has_room = not needed or (self._payload.has_room(needed) and not self._is_misjudged(items))
        with self._changed:
            hints, self._hints = self._hints, Hints()
        events = self._try(items, hints, room=True) if has_room else None
        if events is None and len(items) > 1:  # a large one is not to keep the small ones beside it out
            self._one_by_one = len(items)
            with self._changed:
                self._queue.extendleft(reversed(items))
            self._take_back(hints)
            return
        if events is None:
            if has_room:
                self._misjudge(items)
            self._set_full(items)
            events = self._try(items, hints, room=False)
        if events is None:  # not even small records find room
            asked = [item for item in items if isinstance(item, Accept)]
            events = [AcceptRefused(item.manifest, item.epoch, Why.FULL) for item in asked]
            self._parked += (item for item in items if isinstance(item, AdoptHeads | ForgetTombstone))
            for item in items:
                if isinstance(item, Discard):
                    self._payload.disown(item.stored_digest)
            self._take_back(hints)
        self._deliver_all(events)
        self._finish(items)
        self._payload.catch_up(idle=not items)

    def _take_back(self, hints: Hints) -> None:
        with self._changed:
            self._hints = hints.updated(self._hints)

    def _try(self, items: list[Item], hints: Hints, *, room: bool) -> list[Event] | None:
        fence = Fence(self._meta.promised, self._meta.counter, room)
        began = time.monotonic()
        try:
            events = self._payload.write(items, hints, fence)
        except StoreFull as error:
            logger.debug("no room: %s", error)
            return None
        self._adapt(self._payload.written_bytes, time.monotonic() - began)
        return events

    def _adapt(self, size_bytes: int, took_s: float) -> None:
        """Make transactions as large as the disk writes in time: large ones cost less, a promise waits. What
        was not written, as it was known or of an older epoch, says nothing of the disk."""
        size = self._transaction_bytes
        if took_s > TRANSACTION_S:
            size = max(size // 2, self._transaction_bytes_min)
        elif 2 * size_bytes >= size and took_s < TRANSACTION_S / 2:
            size *= 2
        self._transaction_bytes = min(size, self._transaction_bytes_max)

    def _finish(self, items: list[Item]) -> None:
        with self._changed:
            for item in items:
                if isinstance(item, Put):
                    self.queued_bytes -= item.size_bytes
                    for digest, _ in item.chunks:
                        self._queued[digest] -= 1
                        if not self._queued[digest]:
                            del self._queued[digest]
                elif isinstance(item, Discard):
                    self._suspects.discard(item.stored_digest)
                    self.discarded(item.stored_digest)
            self._changed.notify_all()

    def _deliver_all(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Accepted):  # the stream has moved on
                stream = StreamName(event.manifest.stream)
                self._refused.pop(stream, None)
                if stream in self._too_large:
                    self._too_large.discard(stream)
                    self._pause_s = MISJUDGED_S
            self._deliver(event)

    # ── full and failed ──

    def _set_full(self, items: list[Item]) -> None:
        """The disk is full until there is room for what each checkpoint lacks that was refused."""
        self._refused.update(dict.fromkeys(_streams(items), self._payload.needed_bytes(items)))
        if not self._is_full:
            self._is_full = True
            logger.warning("store is full: new checkpoints are refused until there is room")
            self._deliver(StoreRoom(True))

    def _misjudge(self, items: list[Item]) -> None:
        """There was no room where some was seen: free pages lie scattered, or a quota is near. Each time that
        some is seen the core has all of it sent once more, so the next look is further and further away."""
        self._too_large.update(_streams(items))
        if not self._is_full:
            self._look_at = time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, MISJUDGED_S_MAX)

    def _is_misjudged(self, items: list[Item]) -> bool:
        """Whether something of an attempt that has found no room is among them."""
        return self._is_full and not self._too_large.isdisjoint(_streams(items))

    def _look_for_room(self) -> None:
        now, has_room = time.monotonic(), self._payload.has_room
        if not self._is_full or now < self._look_at or not has_room(self._transaction_bytes_min):
            return
        with self._changed:  # these need little, and wait for no large checkpoint's room
            self._queue.extendleft(reversed(self._parked))
        self._parked.clear()
        self._look_at = now + IDLE_S
        if has_room(max(self._refused.values(), default=0)):
            self._is_full = False
            self._refused.clear()
            logger.info("store has room again")
            self._deliver(StoreRoom(False))

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, ReplicatorError):
            logger.exception("store failed")
        with self._changed:
            self._failed = True
            self._urgent.clear()
            self._queue.clear()
            self._queued.clear()
            self.queued_bytes = 0
            self._changed.notify_all()
        logger.error("store failed, nothing is written until a restart: %s", error)
        self._deliver(StoreFailed(str(error)))


def _size_bytes(item: Item) -> int:
    """About what the item adds to a transaction."""
    match item:
        case Put():
            return item.size_bytes
        case Accept():
            return CHUNK_NAMED_BYTES * sum(len(part.chunks) for part in item.manifest.parts)
        case _:
            return 0


def _streams(items: Iterable[Item]) -> Iterator[StreamName]:
    """The streams that want room."""
    for item in items:
        if isinstance(item, Put):
            yield item.stream
        elif isinstance(item, Accept):
            yield StreamName(item.manifest.stream)
