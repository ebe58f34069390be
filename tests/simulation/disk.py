"""A disk that does what the store promises and no more: what is not synced is lost in a crash.

The writer takes promises and records before payload, applies a batch at the instant its sync ends, and
then hands in the completions in order. As one batch runs at a time, that instant is also when the fence
is checked (R4). A crash during a sync, or a sync that fails, keeps a random part of the batch, tears the
write after it, and completes none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

from msgspec import Struct

from replicator.adapters.ports import StoreEffect
from replicator.core.effects import (
    Accept,
    AdoptHeads,
    ForgetTombstone,
    MarkCommitted,
    RememberCounters,
    WritePromise,
    WriteRecord,
)
from replicator.core.events import (
    Accepted,
    AcceptRefused,
    Durable,
    Event,
    HeadsAdopted,
    PromiseWritten,
    RecordWritten,
    StoreFailed,
    StoreRoom,
    Why,
)
from replicator.model import (
    Digest,
    Epoch,
    Incarnation,
    Manifest,
    NodeId,
    Sequence,
    StreamName,
)
from tests.simulation.disk_watch import DiskWatch
from tests.simulation.image import Image, Retained, chunk_digests

KEEP = 1
BATCH_MAX = 8


class PutChunks(Struct, frozen=True):
    """Chunks of a checkpoint under way, queued before whatever is asked next."""

    stream: StreamName
    epoch: Epoch
    sequence: Sequence
    chunks: tuple[tuple[Digest, bytes], ...]


Operation = StoreEffect | PutChunks


class Disk:
    """One node's store, across the processes that open it."""

    def __init__(
        self, node: NodeId, incarnation: Incarnation, random: Random, schedule: Callable[..., None]
    ) -> None:
        self.node = node
        self.image = Image(incarnation)
        self.random = random
        self.schedule = schedule
        self.wrote: Callable[[Disk, Operation, Event | None], None] = lambda *_: None
        self.full = False
        self.is_brimful = False  # has not even room for small records
        self.is_freed_by_deletion = False  # full until a stream is deleted
        self.sync_mean_s = 0.002
        self.fails_next = False
        self._deliver: Callable[[Event], None] | None = None
        self._urgent: list[Operation] = []
        self._payload: list[Operation] = []
        self._batch: list[Operation] | None = None
        self._parked: list[Operation] = []  # what waits for room, and nobody asks for again
        self._said_full = False
        self._watch = DiskWatch(schedule, self._is_waited_for, lambda event: self._hand_in(self._life, event))
        self._life = 0  # completions of an earlier process or disk are dropped by it
        self._stopped = False
        self._transfers: dict[StreamName, dict[Digest, Sequence]] = {}

    # ── opened and closed by processes ──

    def open(self, deliver: Callable[[Event], None]) -> None:
        """A process opens the store; completions go to *deliver*."""
        self._deliver = deliver
        self._said_full = self.full and not self.is_brimful
        self._sweep()
        if self._said_full:
            self.schedule(0.0, self._hand_in, self._life, StoreRoom(full=True))

    def durable(self, cluster: str) -> Durable:
        """What a process finds when it opens the store."""
        image = self.image
        newest = [retained[-1] for _, retained in sorted(image.streams.items())]
        return Durable(
            cluster=cluster,
            node=self.node,
            incarnation=image.incarnation,
            promise=image.promise,
            record=image.record,
            record_epoch=image.record_epoch,
            founded=image.founded,
            heads=tuple(one.head(image.readable(one.manifest)) for one in newest),
            committed={s: (m.generation, Sequence(m.position.sequence)) for s, m in image.committed.items()},
            counter=image.counter,
            remembered=dict(image.remembered),
        )

    def crash(self) -> None:
        """The process dies: what is not synced is lost, but for a random part of the running batch."""
        self._tear()
        self._life += 1
        self._stopped = self.fails_next = False
        self._watch.crash()
        self._urgent.clear()
        self._payload.clear()
        self._parked.clear()
        self._transfers.clear()

    def _tear(self) -> None:
        """A part of the running batch is on the disk; of chunks the next write may have left a torn one."""
        self._deliver = None
        batch = self._batch or []
        count = self.random.randint(0, len(batch))
        for operation in batch[:count]:
            self._write(operation)
        torn = batch[count] if count < len(batch) else None
        if isinstance(torn, PutChunks):
            written = self.random.randint(0, len(torn.chunks) - 1)
            new = [one for one in torn.chunks[: written + 1] if one[0] not in self.image.chunks]
            self._write(PutChunks(torn.stream, torn.epoch, torn.sequence, tuple(new)))
            if new and new[-1][0] in self.image.chunks:
                self.image.damaged.add(new[-1][0])  # no manifest names it: whoever opens the store drops it
        self._batch = None

    def replace(self, image: Image) -> None:
        """Another disk is put in while the node is down."""
        self.image = image
        self.full = self.is_brimful = False

    def set_stopped(self, stopped: bool) -> None:
        """The writer thread is paused with its process, or goes on."""
        self._stopped = stopped
        self._start_batch()

    def set_full(self, full: bool, brimful: bool = False) -> None:
        """The disk has no room left, or has room again. *brimful*: not for the smallest record, as the store
        finds out when it has one to write."""
        if (full, brimful) == (self.full, self.is_brimful):
            return
        self.full, self.is_brimful, self.is_freed_by_deletion = full, brimful, False
        if not brimful:
            self._payload[:0], self._parked = self._parked, []
            self._start_batch()
            self._say(full)

    def _say(self, full: bool) -> None:
        if full != self._said_full:
            self._said_full = full
            self._hand_in(self._life, StoreRoom(full=full))

    def damage(self, stream: StreamName) -> bool:
        """Let a chunk of the stream's head rot; False if there is none."""
        newest = self.image.newest(stream)
        digests = chunk_digests(newest.manifest) if newest else {}
        present = [digest for digest in digests if digest in self.image.chunks]
        if present:
            self.image.damaged.add(self.random.choice(present))
        return bool(present)

    # ── what the driver and the data path ask ──

    def perform(self, effect: StoreEffect) -> None:
        """Queue a store effect."""
        urgent = type(effect) is WritePromise or type(effect) is WriteRecord
        (self._urgent if urgent else self._payload).append(effect)
        self._start_batch()

    def put_chunks(
        self, stream: StreamName, epoch: Epoch, sequence: Sequence, chunks: Iterable[tuple[Digest, bytes]]
    ) -> None:
        """Queue chunks of a checkpoint under way."""
        given = tuple(chunks)
        if given:
            self._payload.append(PutChunks(stream, epoch, sequence, given))
            self._start_batch()

    def pin(self, stream: StreamName, sequence: int, digests: Iterable[Digest]) -> None:
        """Keep chunks that are here already for a checkpoint under way."""
        self._transfers.setdefault(stream, {}).update(dict.fromkeys(digests, Sequence(sequence)))

    def discard_chunk(self, digest: Digest) -> None:
        """Forget a chunk found rotten."""
        self.image.chunks.pop(digest, None)
        self.image.damaged.discard(digest)
        self.image.found.discard(digest)

    @property
    def queued_count(self) -> int:
        """Operations that wait."""
        return len(self._urgent) + len(self._payload)

    def _is_waited_for(self) -> bool:
        return self._deliver is not None and bool(self._batch or self.queued_count)

    # ── the writer ──

    def _start_batch(self) -> None:
        self._watch.look_later()
        if self._batch is not None or self._stopped or self._deliver is None:
            return
        queue = self._urgent or self._payload
        if not queue:
            return
        count = min(len(queue), BATCH_MAX if queue is self._payload else len(queue))
        self._batch = queue[:count]
        del queue[:count]
        delay = 0.0002 + self.random.expovariate(1.0) * self.sync_mean_s
        self.schedule(delay, self._synced, self._life)

    def _synced(self, life: int) -> None:
        if life != self._life or self._batch is None:
            return
        if self._stopped:
            self.schedule(0.01, self._synced, life)
            return
        if self.fails_next:
            deliver = self._deliver
            self._tear()
            self._life += 1
            assert deliver is not None
            deliver(StoreFailed("the sync has failed"))
            return
        batch, self._batch = self._batch, None
        self._watch.wrote()
        found = [self._write(operation) for operation in batch]
        if self.is_brimful and _needs_room(batch[0]):
            self._say(True)  # when all is parked: whoever hears it may die
        for event in found:
            if event is not None:
                self._hand_in(life, event)
        self._start_batch()

    def _hand_in(self, life: int, event: Event) -> None:
        if life == self._life and self._deliver is not None:
            self._deliver(event)

    def _write(self, operation: Operation) -> Event | None:
        if self.is_brimful and _needs_room(operation) and not isinstance(operation, Accept | PutChunks):
            self._parked.append(operation)
            return None
        event = self._apply(operation)
        self.wrote(self, operation, event)
        return event

    def _apply(self, operation: Operation) -> Event | None:
        image = self.image
        match operation:
            case WritePromise(promise):
                image.promise = promise
                return PromiseWritten(promise, self._count())
            case WriteRecord(record, epoch, founded):
                image.record, image.record_epoch, image.founded = record, epoch, founded
                return RecordWritten(record, epoch, founded, self._count())
            case Accept():
                return self._accept(operation)
            case AdoptHeads():
                return self._adopt(operation)
            case PutChunks(stream, epoch, sequence, chunks):
                if epoch >= image.promised_epoch and not self.full:
                    image.chunks.update(chunks)
                    for digest, _ in chunks:
                        image.damaged.discard(digest)
                        image.found.discard(digest)
                    self._transfers.setdefault(stream, {}).update(dict.fromkeys(dict(chunks), sequence))
            case MarkCommitted():
                self._mark(operation)
            case ForgetTombstone(stream, generation, sequence):
                newest = image.newest(stream)
                if newest is not None and newest.manifest.tombstone:
                    manifest = newest.manifest
                    if (manifest.generation, manifest.sequence) == (generation, sequence):
                        del image.streams[stream]
                        image.committed.pop(stream, None)
                        self._sweep()
            case RememberCounters(counters):
                image.remembered = {**image.remembered, **counters}
        return None

    def _count(self) -> int:
        self.image.counter += 1
        return self.image.counter

    def _fenced(self, epoch: Epoch) -> bool:
        return epoch != self.image.promised_epoch

    def _accept(self, effect: Accept) -> Event:
        manifest, epoch, image = effect.manifest, effect.epoch, self.image
        stream = StreamName(manifest.stream)
        retained, is_whole = image.streams.get(stream, ()), image.is_whole(manifest)
        is_known = is_whole and any(one.manifest == manifest for one in retained)
        head, why = (retained[-1] if retained else None), None
        is_rotten = head is not None and head.manifest == manifest and not is_whole
        if self._fenced(epoch) and not is_rotten:
            why = Why.FENCED
        elif (
            head is not None
            and (epoch, manifest.sequence) <= (head.accepted_epoch, head.manifest.sequence)
            and not is_rotten
        ):
            why = Why.STALE
        elif self.is_brimful or (self.full and not manifest.tombstone and not is_known):
            why = Why.FULL
        elif not is_whole:
            why = Why.INCOMPLETE
        if why is not None:
            return AcceptRefused(manifest, epoch, why)
        older = tuple(one for one in retained if one.manifest.sequence < manifest.sequence)
        image.streams[stream] = (*older, Retained(manifest, epoch))
        mark = image.committed.get(stream)
        positions = [{one.manifest.position for one in each} for each in (retained, image.streams[stream])]
        if mark is not None and mark.position in positions[0] - positions[1]:
            del image.committed[stream]  # the stream is begun anew, or its newest checkpoint is given up
        transfer = self._transfers.get(stream, {})
        for digest in [one for one, sequence in transfer.items() if sequence <= manifest.sequence]:
            del transfer[digest]
        self._retire(stream)
        self._sweep()
        if manifest.tombstone and self.is_freed_by_deletion:
            self.schedule(0.0, self.set_full, False)
        return Accepted(manifest, epoch, self._count())

    def _adopt(self, effect: AdoptHeads) -> Event | None:
        if self._fenced(effect.epoch):
            return None
        for stream, retained in self.image.streams.items():
            if stream not in effect.exceptions and retained[-1].accepted_epoch < effect.epoch:
                adopted = Retained(retained[-1].manifest, effect.epoch)
                self.image.streams[stream] = (*retained[:-1], adopted)
        return HeadsAdopted(effect.epoch, self._count())

    def _mark(self, mark: MarkCommitted) -> None:
        known = self.image.committed.get(mark.stream)
        if mark.stream in self.image.streams and (known is None or known.position < mark.position):
            self.image.committed[mark.stream] = mark
            self._retire(mark.stream)

    def _retire(self, stream: StreamName) -> None:
        """Drop what is older than the newest known-committed checkpoint and *keep* more (R23)."""
        retained, mark = self.image.streams[stream], self.image.committed.get(stream)
        base = len(retained) - 1 if mark is not None else 0
        while mark is not None and base and not _covers(mark, retained[base].manifest):
            base -= 1
        if base > KEEP:
            self.image.streams[stream] = retained[base - KEEP :]
            self._sweep()

    def _sweep(self) -> None:
        """Remove the chunks that no retained manifest and no running transfer names."""
        named: set[Digest] = set()
        for retained in self.image.streams.values():
            for one in retained:
                named.update(chunk_digests(one.manifest))
        for transfer in self._transfers.values():
            named.update(transfer)
        if len(named) < len(self.image.chunks) or not named.issuperset(self.image.chunks):
            for digest in [one for one in self.image.chunks if one not in named]:
                self.discard_chunk(digest)


def _covers(mark: MarkCommitted, manifest: Manifest) -> bool:
    """Whether a checkpoint is known committed by that mark: it is of the same line, and not newer (R14)."""
    return manifest.epoch == mark.position.epoch and manifest.sequence <= mark.position.sequence


def _needs_room(operation: Operation) -> bool:
    """Whether it is none of those for which room is kept (R21)."""
    return not isinstance(operation, WritePromise | WriteRecord)
