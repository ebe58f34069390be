"""The store's dumb twin, and a machine of Hypothesis that does the same to both, in any order."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import Struct, field

from replicator.core.effects import AdoptHeads, ForgetTombstone, MarkCommitted, RememberCounters
from replicator.core.events import Accepted, AcceptRefused, HeadsAdopted, Why
from replicator.model import (
    Chunk,
    Epoch,
    Generation,
    Incarnation,
    Manifest,
    NodeId,
    Position,
    Remembered,
    Sequence,
    StreamName,
)
from tests.adapters.store_kit import Opened, checkpoint

STREAMS = ("a", "b", "c")
KEEP = 1
MEMORY = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None  # no sync to wait for


class Twin(Struct):
    """A stream as plainly as it can be told."""

    accepted_epoch: int
    retained: list[Manifest]
    mark: tuple[int, Position] | None = None

    def retain(self) -> None:
        """R23, from the newest backwards."""
        kept: list[Manifest] = []
        older = None
        for manifest in reversed(self.retained):
            if older is None:
                kept.append(manifest)
                older = 0 if self.knows_committed(manifest) else None
            elif older < KEEP:
                kept.append(manifest)
                older += 1
        self.retained = kept[::-1]

    def knows_committed(self, manifest: Manifest) -> bool:
        if self.mark is None:
            return False
        _, position = self.mark
        return manifest.epoch == position.epoch and manifest.sequence <= position.sequence


class World(Struct):
    """What the store should hold, and the hints that wait for the next batch."""

    promised: int = -1
    promises: int = 0
    acceptances: int = 0
    streams: dict[str, Twin] = field(default_factory=dict)
    marks: dict[str, MarkCommitted] = field(default_factory=dict)
    remembered: Remembered = field(default_factory=dict)
    heard: Remembered = field(default_factory=dict)

    def copy(self) -> World:
        """As it is now, without the hints that nothing was written with yet."""
        streams = {
            stream: Twin(twin.accepted_epoch, list(twin.retained), twin.mark)
            for stream, twin in self.streams.items()
        }
        return World(
            self.promised, self.promises, self.acceptances, streams, remembered=dict(self.remembered)
        )

    @property
    def counter(self) -> int:
        """How many durable answers there were."""
        return self.promises + self.acceptances

    def flush(self) -> None:
        """The hints are written with the next batch."""
        self.remembered.update(self.heard)
        self.heard.clear()
        for stream, effect in self.marks.items():
            twin = self.streams.get(stream)
            if twin and (twin.mark is None or twin.mark[1] < effect.position):
                twin.mark = (effect.generation, effect.position)
        self.marks.clear()

    def accept(self, manifest: Manifest, epoch: int) -> Why | None:
        self.flush()
        if epoch != self.promised:
            return Why.FENCED
        twin = self.streams.get(manifest.stream)
        if twin and (epoch, manifest.sequence) <= (twin.accepted_epoch, twin.retained[-1].sequence):
            return Why.STALE
        twin = self.streams.setdefault(manifest.stream, Twin(epoch, []))
        twin.accepted_epoch = epoch
        named = [old.position for old in twin.retained]
        twin.retained = [old for old in twin.retained if old.sequence < manifest.sequence]
        twin.retained.append(manifest)
        twin.retain()
        if twin.mark and twin.mark[1] in named and twin.mark[1] not in [m.position for m in twin.retained]:
            twin.mark = None  # what it names has gone
        self.acceptances += 1
        return None


def agree(opened: Opened, world: World, brought: frozenset[Chunk]) -> None:
    """Assert that the same is durable, that the same checkpoints are retained and readable, and that
    nothing else is but the chunks that transfers *brought*."""
    durable = opened.store.durable()
    assert (durable.promise.epoch if durable.promise else -1) == world.promised
    assert durable.counter == world.counter
    assert durable.remembered == world.remembered
    assert durable.committed == {
        stream: (twin.mark[0], twin.mark[1].sequence) for stream, twin in world.streams.items() if twin.mark
    }
    heads = {head.stream: head for head in durable.heads}
    assert heads.keys() == world.streams.keys()
    chunks = set(brought)
    for stream, twin in world.streams.items():
        newest, head = twin.retained[-1], heads[StreamName(stream)]
        assert head.order == (twin.accepted_epoch, newest.sequence)
        assert (head.digest, head.generation) == (newest.digest, newest.generation)
        assert (head.tombstone, head.readable) == (newest.tombstone, True)
        assert opened.store.read_manifest(StreamName(stream)) == newest
        assert opened.store.head_bytes(StreamName(stream)) == newest.stored_bytes
        assert all(map(opened.is_readable, twin.retained))
        chunks |= {chunk for manifest in twin.retained for part in manifest.parts for chunk in part.chunks}
    assert opened.store.missing(chunks) == []
    usage = opened.store.usage()
    assert usage["checkpoints"] == sum(len(twin.retained) for twin in world.streams.values())
    assert usage["chunks"] == len(chunks)
    assert usage["stored_bytes"] == sum(chunk.stored_bytes for chunk in chunks)


class StoreAndTwin(RuleBasedStateMachine):
    """Each rule does the same to both; after each, and after each reopening, they are compared."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix=f"replicator-{os.getpid()}-twin-", dir=MEMORY))
        self.copies = 0
        self.world = World()
        self.open(self.directory / "0")

    def open(self, path: Path) -> None:
        # Unsynced payload survives the process, which is all that dies here; and it is quicker.
        self.transfers: dict[str, dict[int, set[Chunk]]] = {}
        self.opened = Opened(path, keep=KEEP, durability="memory")

    def teardown(self) -> None:
        self.opened.store.close()
        shutil.rmtree(self.directory)

    @initialize()
    def begin(self) -> None:
        self.promise(1)
        for stream in STREAMS[:2]:
            self.advance(stream, 3, marked=True)

    @rule(stream=st.sampled_from(STREAMS), count=st.integers(1, 4), marked=st.booleans())
    def advance(self, stream: str, count: int, marked: bool) -> None:
        """As in ordinary times: one checkpoint after the other, and the first is soon known committed."""
        for number in range(count):
            self.accept(stream, 1, 0, b"x", number > 1, False)
            if marked and not number and stream in self.world.streams:
                newest = self.world.streams[stream].retained[-1]
                self.mark(stream, newest.epoch, newest.sequence)

    @rule(step=st.integers(1, 2), exceptions=st.frozensets(st.sampled_from(STREAMS)))
    def take_over(self, step: int, exceptions: frozenset[str]) -> None:
        self.promise(step)
        self.adopt_all(exceptions, 0)

    @rule(step=st.integers(1, 3))
    def promise(self, step: int) -> None:
        self.world.promised = max(self.world.promised, 0) + step
        self.world.promises += 1
        assert self.opened.promise(self.world.promised).counter == self.world.counter
        self.settled()

    @rule(
        stream=st.sampled_from(STREAMS),
        step=st.sampled_from((1, 1, 1, 1, 2, 0, -1)),
        behind=st.sampled_from((0, 0, 0, 0, 0, 1, -1)),
        content=st.sampled_from((b"x", b"y")),
        shared=st.booleans(),
        tombstone=st.sampled_from((False, False, False, False, True)),
    )
    def accept(
        self, stream: str, step: int, behind: int, content: bytes, shared: bool, tombstone: bool
    ) -> None:
        sequence = max(1, self.sequence(stream) + step)
        pieces = () if tombstone else (content, b"shared" if shared else f"{stream} {sequence}".encode())
        manifest = self.bring(stream, sequence, *pieces, tombstone=tombstone)
        self.ask(manifest, max(self.world.promised - behind, 0))

    def sequence(self, stream: str) -> int:
        """That of the stream's head; 0 for no head."""
        return self.world.streams[stream].retained[-1].sequence if stream in self.world.streams else 0

    def bring(self, stream: str, sequence: int, *pieces: bytes, tombstone: bool = False) -> Manifest:
        """Hand in the chunks of a checkpoint to come."""
        head = self.world.streams[stream].retained[-1] if stream in self.world.streams else None
        generation = head.generation + head.tombstone if head else 0
        epoch = max(self.world.promised, 0)
        manifest, chunks = checkpoint(
            stream, sequence, *pieces, epoch=epoch, generation=generation, tombstone=tombstone
        )
        self.opened.put(manifest, chunks, epoch)
        brought = self.transfers.setdefault(stream, {}).setdefault(sequence, set())
        brought.update(chunk for chunk, _ in chunks)
        return manifest

    @precondition(lambda self: self.world.streams)
    @rule(data=st.data())
    def adopt_one(self, data: st.DataObject) -> None:
        twin = self.world.streams[data.draw(st.sampled_from(sorted(self.world.streams)))]
        self.ask(data.draw(st.sampled_from(twin.retained)), self.world.promised)

    def ask(self, manifest: Manifest, epoch: int) -> None:
        why = self.world.accept(manifest, epoch)
        event = self.opened.ask(manifest, epoch)
        if why is None:
            transfers = self.transfers.get(manifest.stream, {})
            for sequence in [sequence for sequence in transfers if sequence <= manifest.sequence]:
                del transfers[sequence]
            assert event == Accepted(manifest, Epoch(epoch), self.world.counter)
        else:
            assert event == AcceptRefused(manifest, Epoch(epoch), why)
        self.settled()

    @rule(exceptions=st.frozensets(st.sampled_from(STREAMS)), behind=st.sampled_from((0, 0, 0, 1)))
    def adopt_all(self, exceptions: frozenset[str], behind: int) -> None:
        epoch = self.world.promised - behind
        self.world.flush()
        self.opened.perform(AdoptHeads(Epoch(epoch), frozenset(map(StreamName, exceptions))))
        if epoch == self.world.promised:
            self.world.acceptances += 1
            for stream, twin in self.world.streams.items():
                if stream not in exceptions:
                    twin.accepted_epoch = max(twin.accepted_epoch, epoch)
            assert self.opened.next() == HeadsAdopted(Epoch(epoch), self.world.counter)
        self.settled()

    @precondition(lambda self: self.world.streams)
    @rule(data=st.data(), ahead=st.integers(0, 1))
    def mark_any(self, data: st.DataObject, ahead: int) -> None:
        stream = data.draw(st.sampled_from(sorted(self.world.streams)))
        manifest = data.draw(st.sampled_from(self.world.streams[stream].retained))
        self.mark(stream, manifest.epoch, manifest.sequence + ahead)

    def mark(self, stream: str, epoch: int, sequence: int) -> None:
        position = Position(epoch, sequence)
        effect = MarkCommitted(StreamName(stream), Generation(0), position)
        self.opened.perform(effect)
        known = self.world.marks.get(stream)
        if known is None or known.position < position:
            self.world.marks[stream] = effect

    @precondition(lambda self: self.world.streams)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        self.forget_one(data.draw(st.sampled_from(sorted(self.world.streams))))

    def forget_one(self, stream: str) -> None:
        head = self.world.streams[stream].retained[-1]
        self.opened.perform(
            ForgetTombstone(StreamName(stream), Generation(head.generation), Sequence(head.sequence))
        )
        self.world.flush()
        if head.tombstone:
            del self.world.streams[stream]
        self.settled()

    @rule(node=st.sampled_from(("edge-2", "edge-3")), counter=st.integers(0, 9))
    def remember(self, node: str, counter: int) -> None:
        self.opened.perform(RememberCounters({NodeId(node): ((Incarnation(b"2" * 16), counter),)}))
        self.world.heard[NodeId(node)] = ((Incarnation(b"2" * 16), counter),)

    @rule(crash=st.booleans())
    def reopen(self, crash: bool) -> None:
        self.write_hints()
        before = self.opened
        path = before.path
        if crash:
            self.copies += 1
            path = shutil.copytree(path, self.directory / str(self.copies))
        before.store.close()
        self.open(path)

    @invariant()
    def same(self) -> None:
        """Both hold the same, and nothing else."""
        self.write_hints()
        agree(self.opened, self.world, self.brought())

    def write_hints(self) -> None:
        """Bring what waits to the disk of both."""
        self.opened.barrier()
        self.world.flush()

    def brought(self) -> frozenset[Chunk]:
        """The chunks of the running transfers."""
        return frozenset(
            chunk for stream in self.transfers.values() for chunks in stream.values() for chunk in chunks
        )

    def settled(self) -> None:
        """Called when both have done the same."""
