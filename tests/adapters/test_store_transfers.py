"""The bound on what running transfers hold: newcomers give way, and whoever goes on is accepted."""

from __future__ import annotations

from copy import deepcopy

import pytest

from replicator.adapters.store_chunks import Change, Chunks
from replicator.core.events import Accepted, Why
from replicator.model import Digest, Sequence, StreamName
from tests.adapters.store_kit import Opened, Stores, checkpoint

BOUND = 16_000
PIECE = 1000


def test_i12_all_transfers_but_the_first_are_bounded(stores: Stores) -> None:
    """Newcomers give way: what is refused to them is neither stored nor written."""
    opened = stores.open(loose_bytes_max=250)
    opened.promise(1)
    given = [checkpoint(stream, 1, stream.encode() * 100) for stream in "abcde"]
    for manifest, chunks in given:
        opened.put(manifest, chunks, 1)
        opened.barrier()
    assert [not opened.store.missing([chunks[0][0]]) for _, chunks in given] == [True] * 3 + [False] * 2
    assert opened.store.usage()["stored_bytes"] == 300
    assert opened.store.read_chunk(Digest(given[0][1][0][0].stored_digest)) is not None
    assert opened.store.read_chunk(Digest(given[-1][1][0][0].stored_digest)) is None
    assert opened.refusal(given[-1][0], 1) is Why.INCOMPLETE


def fetch(opened: Opened, *sizes: int) -> float:
    """Bring a checkpoint of each size, a chunk of each in turn and each chunk in a batch of its own, and what
    lacks again until all are accepted; return how many times their bytes that took."""
    given = [
        checkpoint(f"s{n}", 1, *(b"%d %d " % (n, m) + bytes(PIECE) for m in range(size // PIECE)))
        for n, size in enumerate(sizes)
    ]
    total = sum(len(chunks) for _, chunks in given)
    wanted = [(manifest, chunks, list(chunks)) for manifest, chunks in given]
    sent = 0
    while wanted:
        going_on = []
        for manifest, chunks, want in wanted:
            opened.put(manifest, want[:1], 1)
            opened.barrier()
            sent += len(want[:1])
            assert sent <= 20 * total, f"{len(wanted)} of {len(given)} are never accepted"
            if len(want) > 1:
                going_on.append((manifest, chunks, want[1:]))
            elif not isinstance(opened.ask(manifest, 1), Accepted):
                missing = opened.store.missing([chunk for chunk, _ in chunks])
                going_on.append((manifest, chunks, [given for given in chunks if given[0] in missing]))
        wanted = going_on
    return sent / total


def test_i8_transfers_that_exceed_the_bound_together_are_all_accepted(stores: Stores) -> None:
    """With little brought in vain."""
    opened = stores.open(loose_bytes_max=BOUND, durability="memory")
    opened.promise(1)
    assert 1 < fetch(opened, *[BOUND // 2] * 8) <= 3


@pytest.mark.parametrize("others", [0, 2])
def test_i8_a_transfer_that_exceeds_the_bound_alone_is_accepted(stores: Stores, others: int) -> None:
    """As soon as it is the first."""
    opened = stores.open(loose_bytes_max=BOUND, durability="memory")
    opened.promise(1)
    assert fetch(opened, *[2 * BOUND] * (1 + others)) <= 1 + others


def test_i8_abandoned_transfers_block_nobody(stores: Stores) -> None:
    """They give way once they have brought nothing while a bound's worth was refused to others."""
    opened = stores.open(loose_bytes_max=BOUND, durability="memory")
    opened.promise(1)
    abandoned = [checkpoint(name, 1, name.encode() * BOUND, name.encode() * BOUND) for name in "abc"]
    for manifest, chunks in abandoned:
        opened.put(manifest, chunks, 1)
        opened.barrier()
    assert fetch(opened, 2 * BOUND, 2 * BOUND) <= 4
    loose = opened.store.usage()["stored_bytes"] - 4 * (BOUND + BOUND // PIECE * len(b"0 00 "))
    assert loose <= BOUND, "the first of them is bounded too by now"


def test_i8_a_stream_keeps_its_turn_while_it_holds_nothing(stores: Stores) -> None:
    """What was refused to it altogether comes before what began later, when it comes again."""
    opened = stores.open(loose_bytes_max=10, durability="memory")
    opened.promise(1)
    for name, size in [("first", 20), ("early", 20), ("late", 8), ("early", 20)]:
        manifest, chunks = checkpoint(name, 1, name[:1].encode() * size)
        opened.put(manifest, chunks, 1)
        opened.barrier()
        if name == "late":
            opened.accept("first", 1, b"f" * 20)
    early, late = (
        checkpoint(name, 1, name[:1].encode() * size) for name, size in [("early", 20), ("late", 8)]
    )
    assert opened.store.missing([early[1][0][0], late[1][0][0]]) == []
    assert isinstance(opened.ask(early[0], 1), Accepted)


def test_i8_a_stream_that_accepts_queues_again(stores: Stores) -> None:
    """With the transfers that it still has: it cannot be the first for ever."""
    opened = stores.open(loose_bytes_max=10, durability="memory")
    opened.promise(1)
    first, later = checkpoint("a", 1), checkpoint("a", 5, b"later")
    other, chunks = checkpoint("b", 1, b"soon", bytes(20))
    for manifest, brought in (first, later, (other, chunks[:1])):
        opened.put(manifest, brought, 1)
        opened.barrier()
    assert isinstance(opened.ask(first[0], 1), Accepted)
    opened.put(other, chunks[1:], 1)
    opened.barrier()
    assert isinstance(opened.ask(other, 1), Accepted)
    assert isinstance(opened.ask(later[0], 1), Accepted)


def test_r21_what_a_full_disk_undid_is_not_held() -> None:
    """Turns, needs and bytes of the transfers are as before the change."""
    chunks, before = Chunks(250), Change()
    for name in "abcd":
        chunks.bring(before, StreamName(name), Sequence(1), [(Digest(name.encode() * 32), bytes(100))])
        chunks.limit(before)
    chunks.tidy()
    held = deepcopy(_held(chunks))
    change = Change()
    chunks.settle(change, StreamName("a"), Sequence(1))
    for name in "de":
        chunks.bring(change, StreamName(name), Sequence(2), [(Digest(name.encode() * 32), bytes(200))])
    chunks.limit(change)
    assert _held(chunks) != held
    change.undo()
    chunks.tidy()
    assert _held(chunks) == held


def _held(chunks: Chunks) -> dict[str, object]:
    """All its tables."""
    return {name: table for name, table in vars(chunks).items() if isinstance(table, dict)}
