"""The book of chunks after any batch: what it counts is what the manifests and the transfers name (R23)."""

from __future__ import annotations

import random
from collections import Counter
from copy import deepcopy

import pytest
from blake3 import blake3
from msgspec import structs

from replicator.adapters.store_chunks import Chunks
from replicator.adapters.store_plan import Discard, Fence, Hints, Item, Memory, Plan, Put
from replicator.adapters.store_record import CHUNK_PREFIX, State, chunk_key, chunks_of, read_manifest
from replicator.core.effects import Accept, MarkCommitted
from replicator.model import Digest, Epoch, Incarnation, Manifest, Part, Position, Sequence, StreamName
from tests.adapters.store_kit import checkpoint, chunk_of

PIECES = {Digest(blake3(piece).digest()): piece for piece in (bytes([n]) * (1 + n % 5) for n in range(14))}
STREAMS = [StreamName(name) for name in "abc"]
BATCHES = 60


class World:
    """A disk that rots, the book about it, and batches drawn at random."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.disk: dict[bytes, bytes] = {}
        bound = self.draw.choice([6, 20, 10**6])
        self.memory = Memory(State(Incarnation(b"i" * 16)), Chunks(bound), self.draw.choice([0, 1, 3]))
        self.asked: list[Manifest] = []  # the last checkpoints of which something came

    def items(self) -> list[Item]:
        """Chunks that come, some of them twice, checkpoints that are whole or not, chunks that are rotten."""
        return [self._item() for _ in range(self.draw.choice([1, 2, 4, 8]))]

    def _item(self) -> Item:
        draw, stream = self.draw, self.draw.choice(STREAMS)
        record, kind = self.memory.streams.get(stream), self.draw.random()
        if kind < 0.1:
            return Discard(draw.choice([*PIECES]))
        if kind < 0.2 and record is not None:  # the head is asked for again, compressed in another way
            parts = (Part("", tuple(map(chunk_of, draw.sample([*PIECES.values()], 2)))),)
            head = read_manifest(self, stream, record.head)
            return Accept(structs.replace(head, parts=parts), Epoch(1))
        if kind < 0.6 and self.asked:
            return Accept(draw.choice(self.asked[-4:]), Epoch(1))
        manifest, _ = checkpoint(
            stream,
            max(1, (record.head.sequence if record else 0) + draw.randrange(4)),
            *draw.choices([*PIECES.values()], k=draw.randrange(1, 6)),
        )
        self.asked.append(manifest)
        brought = tuple((digest, PIECES[digest]) for digest in chunks_of(manifest) if draw.random() < 0.9)
        return Put(stream, Epoch(1), Sequence(manifest.sequence), 2 * brought, 0)

    def _marks(self) -> dict[StreamName, MarkCommitted]:
        record = self.memory.streams.get(stream := self.draw.choice(STREAMS))
        if record is None or self.draw.random() < 0.5:
            return {}
        head = record.head
        return {stream: MarkCommitted(stream, head.generation, Position(head.epoch, head.sequence))}

    def get(self, key: bytes, /) -> bytes | None:
        return self.disk.get(key)

    def write(self, *, is_full: bool) -> None:
        """One batch, which is undone if the disk is full."""
        before, lost = deepcopy(self.tables), self.draw.choice([*PIECES])
        if (key := chunk_key(lost)) in self.disk and self.draw.random() < 0.3:
            self.disk[key] = b"rotten"
        plan = Plan(self.memory, self, Fence(1, 0, room=self.draw.random() < 0.9))
        plan.run(self.items(), Hints(marks=self._marks()))
        if is_full:
            plan.change.undo()
        else:
            self.memory.state = plan.state
            for key, value in plan.change.writes.items():
                self.disk.pop(key, None)
                if value is not None:
                    self.disk[key] = bytes(value)
        self.memory.chunks.tidy()
        assert not is_full or self.tables == before

    @property
    def tables(self) -> dict[str, object]:
        tables = {name: table for name, table in vars(self.memory.chunks).items() if isinstance(table, dict)}
        return {**tables, "streams": self.memory.streams, "head_bytes": self.memory.head_bytes}


@pytest.mark.parametrize("seed", range(20))
def test_r23_the_book_of_chunks_is_right_after_any_batch(seed: int) -> None:
    """And as it was, where a full disk undid the batch. What is needed and not known to be lost is there,
    what is there and not needed is garbage, and is known as such."""
    world = World(seed)
    chunks = world.memory.chunks
    for _ in range(BATCHES):
        world.write(is_full=world.draw.random() < 0.2)
        records = world.memory.streams.values()
        manifests = [read_manifest(world, r.stream, entry) for r in records for entry in r.entries]
        transfers = {(s, q): held for s, each in chunks._transfers.items() for q, held in each.items()}
        named = Counter(
            digest for each in (*map(chunks_of, manifests), *transfers.values()) for digest in each
        )
        assert {digest: (count, len(PIECES[digest])) for digest, count in named.items()} == chunks.needs
        assert chunks.stored_bytes == sum(len(PIECES[digest]) for digest in named)
        assert chunks._transfer_bytes == {each: sum(held.values()) for each, held in transfers.items()}
        there = {Digest(key.removeprefix(CHUNK_PREFIX)) for key in world.disk if key.startswith(CHUNK_PREFIX)}
        assert chunks.absent.keys() <= named.keys()
        assert not chunks.absent.keys() & there
        assert there == (named.keys() - chunks.absent.keys()) | chunks.garbage.keys()
        assert not named.keys() & chunks.garbage.keys()


@pytest.mark.parametrize("asks", [False, True], ids=["chunks", "checkpoint"])
def test_r21_what_has_come_of_what_finds_no_room_is_let_go(asks: bool) -> None:
    """It is of no use without the rest, and would keep the disk full."""
    world, (first, second) = World(0), list(PIECES)[:2]
    manifest, _ = checkpoint("a", 2, PIECES[first], PIECES[second])
    puts = [Put(STREAMS[0], Epoch(1), Sequence(2), ((each, PIECES[each]),), 0) for each in (first, second)]
    for room, item in [(True, puts[0]), (False, Accept(manifest, Epoch(1)) if asks else puts[1])]:
        plan = Plan(world.memory, world, Fence(1, 0, room=room))
        plan.run([item], Hints())
    assert not world.memory.chunks.needs
    assert first in world.memory.chunks.garbage
