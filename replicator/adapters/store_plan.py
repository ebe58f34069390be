"""What a batch of store effects changes: the rules of acceptance, adoption and retention.

A plan looks at the memory of the payload environment, decides each effect, and collects writes and
completions; it changes nothing on the disk. The memory moves along while it plans, so that a later
effect of the batch sees the earlier ones, and can be undone.

Keeps R4 (the fence is checked where it is written), R10 (what an acceptance drops, adoption in bulk),
R19 (stale effects change nothing), R23 (retention).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from blake3 import blake3
from msgspec import Struct, field, structs

from replicator.adapters.store_chunks import Change, Chunks
from replicator.adapters.store_record import (
    BULK_KEY,
    Bulk,
    CommitMark,
    Entry,
    Readable,
    State,
    StreamRecord,
    accepted_epoch_of,
    chunk_key,
    chunks_of,
    fingerprint,
    manifest_key,
    read_manifest,
    seal,
    stream_key,
    unseal,
)
from replicator.core.effects import Accept, AdoptHeads, ForgetTombstone, MarkCommitted
from replicator.core.events import Accepted, AcceptRefused, HeadsAdopted, Why
from replicator.errors import StoreDamaged
from replicator.model import Buffer, Digest, Epoch, Generation, Manifest, Remembered, Sequence, StreamName

SWEEP_CHUNKS_MAX = 256  # and as many as are brought: small ones would pile up


class Put(Struct, frozen=True):
    """Chunks that a transfer brought."""

    stream: StreamName
    epoch: Epoch
    sequence: Sequence
    chunks: tuple[tuple[Digest, Buffer], ...]
    size_bytes: int


class Discard(Struct, frozen=True):
    """Delete a chunk if it is rotten."""

    stored_digest: Digest


Item = Put | Discard | Accept | AdoptHeads | ForgetTombstone


class Hints(Struct):
    """What is written along with the next transaction only: commit marks and the peers' counters."""

    marks: dict[StreamName, MarkCommitted] = {}
    remembered: Remembered = {}

    def updated(self, newer: Hints) -> Hints:
        """These and *newer* ones."""
        return Hints({**self.marks, **newer.marks}, {**self.remembered, **newer.remembered})


class Fence(Struct, frozen=True):
    """What a batch is written under: the promised epoch, the meta environment's share in the counter,
    and whether there is room for new chunks."""

    promised: int
    counter_base: int
    room: bool


class Memory(Struct):
    """The payload environment's records in memory."""

    state: State
    chunks: Chunks
    keep: int
    bulk: Bulk | None = None
    streams: dict[StreamName, StreamRecord] = field(default_factory=dict)
    head_bytes: dict[StreamName, int] = field(default_factory=dict)  # as stored, of each stream's head


def retained(entries: tuple[Entry, ...], committed: CommitMark | None, keep: int) -> tuple[Entry, ...]:
    """The entries that stay: the newest known-committed one, all newer, and *keep* older ones (R23)."""
    base = len(entries) - 1 if committed is not None else 0
    while committed is not None and base and not committed.covers(entries[base]):
        base -= 1
    return entries[max(base - keep, 0) :]


class Plan:
    """One batch: *change* and the new *state* and *bulk* are what has to be written."""

    def __init__(self, memory: Memory, txn: Readable, fence: Fence) -> None:
        self.change = Change()
        self.state = memory.state
        self.bulk = memory.bulk
        self._memory = memory
        self._streams = memory.streams
        self._chunks = memory.chunks
        self._txn = txn
        self._fence = fence
        self._before: dict[StreamName, StreamRecord | None] = {}  # of the streams that have changed

    def run(self, items: Collection[Item], hints: Hints) -> None:
        """Decide the items in order; the hints come first."""
        brought = sum(len(item.chunks) for item in items if isinstance(item, Put))
        garbage = self._chunks.oldest_garbage(SWEEP_CHUNKS_MAX + brought)
        for mark in hints.marks.values():
            self._mark(mark)
        if hints.remembered:
            self._move(remembered={**self.state.remembered, **hints.remembered})
        for item in items:
            match item:
                case Put():
                    self._put(item)
                case Accept():
                    self._accept(item)
                case AdoptHeads():
                    self._adopt(item)
                case ForgetTombstone():
                    self._forget(item)
                case Discard():
                    self._discard(item)
        for stream, record in self._before.items():
            self._write(stream_key(stream), record, self._streams.get(stream))
        self._chunks.limit(self.change)
        self._chunks.sweep(self.change, garbage)

    def _put(self, put: Put) -> None:
        if put.epoch < self._fence.promised:
            return
        if not self._fence.room:
            # What came before it is of no use without it, and would keep the disk full.
            self._chunks.abandon(self.change, put.stream, put.sequence)
            return
        self._chunks.bring(self.change, put.stream, put.sequence, put.chunks)

    # ── acceptance ──

    def _accept(self, effect: Accept) -> None:
        manifest, epoch = effect.manifest, effect.epoch
        stream, named = StreamName(manifest.stream), chunks_of(manifest)
        record = self._streams.get(stream)
        why = self._refusal(manifest, named, epoch, record)
        if why is not None:
            if why is Why.FULL:
                self._chunks.abandon(self.change, stream, Sequence(manifest.sequence))
            elif why is not Why.INCOMPLETE and record is not None and record.head.digest == manifest.digest:
                self._mend(record, manifest, named)
            self.change.events.append(AcceptRefused(manifest, epoch, why))
            return
        entry = _entry_of(manifest)
        entries = record.entries if record else ()
        committed = record.committed if record else None
        below = (*[older for older in entries if older.sequence < entry.sequence], entry)
        kept = retained(below, committed, self._memory.keep)
        dropped = [old for old in entries if not kept[0].sequence <= old.sequence < entry.sequence]
        no_longer = [self._named(stream, old) for old in dropped]
        for old in dropped:
            self.change.writes[manifest_key(stream, old.sequence)] = None
        key = manifest_key(stream, entry.sequence)
        self.change.writes[key] = seal(key, manifest)
        brought = self._chunks.settle(self.change, stream, entry.sequence)
        self._chunks.exchange(self.change, named, [*brought, *no_longer])
        self._set_record(stream, StreamRecord(stream, epoch, kept, _mark_after(committed, entries, kept)))
        self.change.set(self._memory.head_bytes, stream, manifest.stored_bytes)
        self.change.events.append(Accepted(manifest, epoch, self._count()))

    def _mend(self, record: StreamRecord, manifest: Manifest, named: dict[Digest, int]) -> None:
        """The head is here, whole, and was asked for again: what is written of it may be rotten, or may name
        chunks that are, where others have come that were compressed in another way (R22)."""
        stream, head = record.stream, record.head
        before = self._named(stream, head)
        if before and all(map(self._chunks.is_stored, before)):  # not so, if its manifest is rotten
            return
        key = manifest_key(stream, head.sequence)
        self.change.writes[key] = seal(key, manifest)
        brought = self._chunks.settle(self.change, stream, head.sequence)
        self._chunks.exchange(self.change, named, [*brought, before])
        self.change.set(self._memory.head_bytes, stream, manifest.stored_bytes)

    def _refusal(
        self, manifest: Manifest, named: Iterable[Digest], epoch: Epoch, record: StreamRecord | None
    ) -> Why | None:
        is_whole = all(map(self._chunks.is_stored, named))
        # A head that is asked for again may have rotted: stale and fenced mean that it is here, whole (R22).
        if is_whole or record is None or record.head.digest != manifest.digest:
            if epoch != self._fence.promised:
                return Why.FENCED
            order = (accepted_epoch_of(record, self.bulk), record.head.sequence) if record else (-1, 0)
            if (epoch, manifest.sequence) <= order:
                return Why.STALE
        is_known = record is not None and _entry_of(manifest) in record.entries
        if not (self._fence.room or manifest.tombstone or (is_known and is_whole)):
            return Why.FULL
        return None if is_whole else Why.INCOMPLETE

    def _named(self, stream: StreamName, entry: Entry) -> dict[Digest, int]:
        """The chunks of a retained checkpoint. None, if its manifest is rotten: what that named counts as
        needed until the store is opened again."""
        key = manifest_key(stream, entry.sequence)
        if (sealed := self.change.writes.get(key)) is not None:
            return chunks_of(unseal(Manifest, key, bytes(sealed)))
        try:
            return chunks_of(read_manifest(self._txn, stream, entry))
        except StoreDamaged:
            return {}

    # ── adoption ──

    def _adopt(self, effect: AdoptHeads) -> None:
        if effect.epoch != self._fence.promised:
            return
        exceptions = effect.exceptions & self._streams.keys()
        for stream in exceptions:
            record = self._streams[stream]
            present = accepted_epoch_of(record, self.bulk)
            if present > record.accepted_epoch:
                # It came from the bulk record that this one replaces.
                self._set_record(stream, structs.replace(record, accepted_epoch=present))
        bulk = Bulk(effect.epoch, frozenset(exceptions))
        self._write(BULK_KEY, self.bulk, bulk)
        self.bulk = bulk
        self.change.events.append(HeadsAdopted(effect.epoch, self._count()))

    def _forget(self, effect: ForgetTombstone) -> None:
        """The whole stream goes: a tombstone outlives every older record of it (I11)."""
        record = self._streams.get(effect.stream)
        if record is None:
            return
        head = record.head
        if (head.tombstone, head.generation, head.sequence) != (True, effect.generation, effect.sequence):
            return
        for entry in record.entries:
            self._chunks.drop(self.change, self._named(record.stream, entry))
            self.change.writes[manifest_key(record.stream, entry.sequence)] = None
        self._set_record(record.stream, None)
        self.change.set(self._memory.head_bytes, record.stream, None)

    # ── hints and chunks ──

    def _mark(self, effect: MarkCommitted) -> None:
        record = self._streams.get(effect.stream)
        mark = CommitMark(effect.generation, Epoch(effect.position.epoch), Sequence(effect.position.sequence))
        if record and (record.committed is None or record.committed.position < mark.position):
            self._set_record(effect.stream, structs.replace(record, committed=mark))

    def _discard(self, discard: Discard) -> None:
        key = chunk_key(discard.stored_digest)
        stored = self.change.writes.get(key) or self._txn.get(key)
        if stored is None or blake3(stored).digest() != discard.stored_digest:
            self._chunks.discard(self.change, discard.stored_digest)

    # ── records ──

    def _set_record(self, stream: StreamName, record: StreamRecord | None) -> None:
        self._before.setdefault(stream, self._streams.get(stream))
        self.change.set(self._streams, stream, record)

    def _write(self, key: bytes, old: object, new: object) -> None:
        """Write a record that the fingerprint covers."""
        sealed = None if new is None else seal(key, new)
        self.change.writes[key] = sealed
        before = None if old is None else seal(key, old)
        self._move(fingerprint=self.state.fingerprint ^ fingerprint(before) ^ fingerprint(sealed))

    def _count(self) -> int:
        """One durable answer more; the store's whole counter."""
        self._move(counter=self.state.counter + 1)
        return self._fence.counter_base + self.state.counter

    def _move(self, **changes: object) -> None:
        self.state = structs.replace(self.state, **changes)


def _mark_after(
    mark: CommitMark | None, before: tuple[Entry, ...], after: tuple[Entry, ...]
) -> CommitMark | None:
    """The mark, unless the checkpoint that it names was here and is no longer: the stream was begun anew, or
    the operator has given that checkpoint up."""
    if mark is None or any(map(mark.names, after)):
        return mark
    return None if any(map(mark.names, before)) else mark


def _entry_of(manifest: Manifest) -> Entry:
    return Entry(
        Generation(manifest.generation),
        Epoch(manifest.epoch),
        Sequence(manifest.sequence),
        Digest(manifest.digest),
        manifest.tombstone,
    )
