"""What is decided while there is no room, and of a head that is asked for again (R21, R22)."""

from __future__ import annotations

import pytest

from replicator.adapters.store_chunks import Change, Chunks
from replicator.adapters.store_plan import Discard, Fence, Hints, Item, Memory, Plan, Put
from replicator.adapters.store_record import State, manifest_key
from replicator.core.effects import Accept
from replicator.core.events import Accepted, AcceptRefused, Why
from replicator.model import Digest, Epoch, Incarnation, Manifest, Sequence, StreamName
from tests.adapters.store_kit import checkpoint

S = StreamName("s")
MANIFEST, CHUNKS = checkpoint("s", 1, b"one", b"two")
ONE, TWO = (Digest(chunk.stored_digest) for chunk, _ in CHUNKS)


@pytest.fixture
def memory() -> Memory:
    return Memory(State(Incarnation(bytes(16))), Chunks(2**30), keep=1)


def run(memory: Memory, *items: Item, epoch: int = 1, room: bool = True) -> Change:
    """One batch, on a disk that has nothing of it yet."""
    plan = Plan(memory, {}, Fence(epoch, 0, room))
    plan.run(items, Hints())
    memory.state = plan.state
    return plan.change


def put(*digests: Digest) -> Put:
    """Some of the checkpoint's chunks."""
    chunks = tuple(
        (Digest(chunk.stored_digest), stored) for chunk, stored in CHUNKS if chunk.stored_digest in digests
    )
    return Put(S, Epoch(1), Sequence(1), chunks, 3 * len(digests))


def accept(manifest: Manifest = MANIFEST, epoch: int = 1) -> Accept:
    return Accept(manifest, Epoch(epoch))


@pytest.mark.parametrize("by", [put(TWO), accept()], ids=["chunk", "manifest"])
def test_r21_what_cannot_become_whole_does_not_fill_the_disk(memory: Memory, by: Item) -> None:
    """A chunk, or the checkpoint, finds no room: what has come before it is garbage from then on."""
    run(memory, put(ONE))
    assert ONE not in memory.chunks.garbage
    change = run(memory, by, room=False)
    assert ONE in memory.chunks.garbage
    assert change.events == ([AcceptRefused(MANIFEST, Epoch(1), Why.FULL)] if isinstance(by, Accept) else [])


def test_r21_what_needs_no_room_is_accepted_without(memory: Memory) -> None:
    """What is here already is adopted, and a deletion makes room."""
    run(memory, put(ONE, TWO), accept())
    change = run(memory, accept(epoch=2), epoch=2, room=False)
    tombstone, _ = checkpoint("s", 2, epoch=2, tombstone=True)
    change.events += run(memory, accept(tombstone, 2), epoch=2, room=False).events
    assert change.events == [Accepted(MANIFEST, Epoch(2), 2), Accepted(tombstone, Epoch(2), 3)]


def test_r22_a_head_is_mended_when_it_is_whole_again_only(memory: Memory) -> None:
    """Asked for while it still lacks what has rotted, it stays as it is written."""
    run(memory, put(ONE, TWO), accept())
    run(memory, Discard(ONE))
    change = run(memory, accept())
    assert change.events == [AcceptRefused(MANIFEST, Epoch(1), Why.INCOMPLETE)]
    assert manifest_key(S, Sequence(1)) not in change.writes
