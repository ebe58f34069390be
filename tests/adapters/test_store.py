"""The store's effects: what is accepted, adopted, kept and dropped, and in which order it is told."""

from __future__ import annotations

import pytest

from replicator.core.effects import (
    Accept,
    AdoptHeads,
    ForgetTombstone,
    MarkCommitted,
    RememberCounters,
    WritePromise,
    WriteRecord,
)
from replicator.core.events import Accepted, AcceptRefused, HeadsAdopted, PromiseWritten, RecordWritten, Why
from replicator.model import (
    Digest,
    Epoch,
    Generation,
    Incarnation,
    Member,
    MemberRecord,
    NodeId,
    Position,
    Promise,
    Sequence,
    StreamName,
)
from tests.adapters.store_kit import OWNER, Stores, checkpoint, orders

S = StreamName("s")


# ── the fence ──


def test_r4_nothing_is_accepted_without_a_promise(stores: Stores) -> None:
    """Accepting in an epoch implies having promised it."""
    opened = stores.open()
    manifest, _ = checkpoint("s", 1, tombstone=True, epoch=0)
    assert opened.refusal(manifest, 0) is Why.FENCED


@pytest.mark.parametrize("epoch", [1, 3])
def test_r4_an_acceptance_of_another_epoch_is_fenced(stores: Stores, epoch: int) -> None:
    """Only the promised epoch may write, be the other lower or higher."""
    opened = stores.open()
    opened.promise(2)
    manifest, chunks = checkpoint("s", 1, epoch=2)
    opened.put(manifest, chunks, 2)
    assert opened.refusal(manifest, epoch) is Why.FENCED
    assert isinstance(opened.ask(manifest, 2), Accepted)


def test_r4_a_promise_overtakes_payload_and_fences_it(stores: Stores) -> None:
    """A promise does not wait behind what is queued; what it overtook is checked when it is written."""
    opened = stores.open()
    opened.promise(1)
    opened = stores.reopen(start=False)
    manifest, chunks = checkpoint("s", 1)
    opened.put(manifest, chunks, 1)
    opened.store.perform(Accept(manifest, Epoch(1)))
    opened.store.perform(WritePromise(Promise(2, OWNER)))
    opened.start()
    assert isinstance(opened.next(), PromiseWritten)
    assert opened.next() == AcceptRefused(manifest, Epoch(1), Why.FENCED)
    assert opened.store.usage()["chunks"] == 0, "the chunks of the old epoch were dropped, R3"


def test_r2_what_was_accepted_before_a_promise_is_told_before_it(stores: Stores) -> None:
    """Completions come in the order of the writes."""
    opened = stores.open()
    opened.promise(1)
    written: list[object] = []
    for sequence in range(1, 200):
        manifest, chunks = checkpoint("s", sequence)
        opened.put(manifest, chunks, 1)
        opened.store.perform(Accept(manifest, Epoch(1)))
    opened.store.perform(WritePromise(Promise(2, OWNER)))
    while len(written) < 200:
        written.append(opened.next())
    at = next(i for i, event in enumerate(written) if isinstance(event, PromiseWritten))
    assert all(isinstance(event, Accepted) for event in written[:at])
    assert all(isinstance(event, AcceptRefused) for event in written[at + 1 :])


def test_i1_a_promise_that_would_fall_stops_the_store(stores: Stores) -> None:
    """A lower promise, or the same epoch for another owner, is our bug: nothing is written any more."""
    opened = stores.open()
    opened.promise(2)
    opened.store.perform(WritePromise(Promise(1, OWNER)))
    assert type(opened.next()).__name__ == "StoreFailed"
    opened = stores.reopen()
    assert opened.durable.promise == Promise(2, OWNER)


# ── acceptance ──


def test_r19_what_is_not_newer_than_the_head_is_stale(stores: Stores) -> None:
    """The same again, a lower sequence, and another content at the head's place change nothing."""
    opened = stores.open()
    opened.promise(1)
    opened.accept("s", 4)
    manifest = opened.accept("s", 5)
    assert opened.refusal(manifest, 1) is Why.STALE
    assert opened.refusal(checkpoint("s", 4)[0], 1) is Why.STALE
    other, chunks = checkpoint("s", 5, b"other")
    opened.put(other, chunks, 1)
    assert opened.refusal(other, 1) is Why.STALE
    assert opened.store.read_manifest(S) == manifest


def test_r13_a_checkpoint_that_lacks_a_chunk_is_incomplete(stores: Stores) -> None:
    """No acceptance without every chunk."""
    opened = stores.open()
    opened.promise(1)
    manifest, chunks = checkpoint("s", 1, b"one", b"two")
    opened.put(manifest, chunks[:1], 1)
    assert opened.refusal(manifest, 1) is Why.INCOMPLETE
    assert opened.store.missing([chunk for chunk, _ in chunks]) == [chunks[1][0]]
    opened.put(manifest, chunks[1:], 1)
    assert isinstance(opened.ask(manifest, 1), Accepted)
    assert opened.is_readable(manifest)


def test_r9_the_same_checkpoint_is_adopted_in_a_higher_epoch(stores: Stores) -> None:
    """Adoption raises the accepted epoch and nothing else."""
    opened = stores.open()
    opened.promise(1)
    manifest = opened.accept("s", 7)
    opened.promise(4)
    assert isinstance(opened.ask(manifest, 4), Accepted)
    opened = stores.reopen()
    (head,) = opened.durable.heads
    assert (head.order, head.position, head.digest) == ((4, 7), Position(1, 7), manifest.digest)
    assert opened.is_readable(manifest)


def test_r10_adopting_an_older_checkpoint_drops_what_is_not_older(stores: Stores) -> None:
    """An own head that another epoch did not choose goes, its chunks too."""
    opened = stores.open()
    opened.promise(1)
    base = opened.accept("s", 1, b"base", b"shared")
    lost = [opened.accept("s", 2, b"two", b"shared"), opened.accept("s", 3, b"three")]
    opened.promise(2)
    assert isinstance(opened.ask(base, 2), Accepted)
    for _ in range(2):
        assert opened.store.read_manifest(S) == base
        assert opened.is_readable(base)
        assert not any(opened.store.read_manifest(S, Digest(manifest.digest)) for manifest in lost)
        assert opened.store.usage()["chunks"] == 2
        opened = stores.reopen()


def test_r10_another_content_at_the_same_sequence_replaces_the_head(stores: Stores) -> None:
    """A position's sequence may exist in two epochs; the later epoch's stays."""
    opened = stores.open()
    opened.promise(1)
    opened.accept("s", 1, b"old")
    opened.promise(2)
    manifest = opened.accept("s", 1, b"new", at=2)
    opened = stores.reopen()
    assert opened.store.usage() == {
        "streams": 1, "checkpoints": 1, "chunks": 1, "stored_bytes": 3, "queued_bytes": 0,
    }  # fmt: skip
    assert opened.is_readable(manifest)


# ── adoption in bulk ──


def test_r10_all_heads_are_adopted_but_the_exceptions(stores: Stores) -> None:
    """One record raises every head that is there; later heads stand by themselves."""
    opened = stores.open()
    opened.promise(1)
    for stream in "abc":
        opened.accept(stream, 1)
    opened.promise(2)
    opened.store.perform(AdoptHeads(Epoch(2), frozenset({StreamName("b"), StreamName("unknown")})))
    event = opened.next()
    assert isinstance(event, HeadsAdopted)
    assert event.epoch == 2
    opened.accept("d", 1, at=2)
    opened = stores.reopen()
    assert orders(opened.durable.heads) == {"a": (2, 1), "b": (1, 1), "c": (2, 1), "d": (2, 1)}


def test_r10_a_stream_that_the_next_bulk_adoption_excepts_keeps_what_the_last_gave_it(
    stores: Stores,
) -> None:
    """Replacing the bulk record never lowers a head (I2)."""
    opened = stores.open()
    opened.promise(1)
    for stream in "abc":
        opened.accept(stream, 1)
    for epoch, exceptions in ((2, "c"), (3, "a"), (5, "ab")):
        opened.promise(epoch)
        opened.store.perform(AdoptHeads(Epoch(epoch), frozenset(map(StreamName, exceptions))))
        assert isinstance(opened.next(), HeadsAdopted)
    opened = stores.reopen()
    assert orders(opened.durable.heads) == {"a": (2, 1), "b": (3, 1), "c": (5, 1)}


def test_r4_a_fenced_bulk_adoption_changes_and_answers_nothing(stores: Stores) -> None:
    """The fence holds for all heads together as for one."""
    opened = stores.open()
    opened.promise(1)
    opened.accept("s", 1)
    opened.promise(3)
    opened.store.perform(AdoptHeads(Epoch(2), frozenset()))
    opened.barrier()
    opened = stores.reopen()
    assert orders(opened.durable.heads) == {"s": (1, 1)}


def test_r19_a_bulk_adopted_head_makes_its_own_adoption_stale(stores: Stores) -> None:
    """The order that counts is the effective one."""
    opened = stores.open()
    opened.promise(1)
    manifest = opened.accept("s", 1)
    opened.promise(2)
    opened.store.perform(AdoptHeads(Epoch(2), frozenset()))
    assert isinstance(opened.next(), HeadsAdopted)
    assert opened.refusal(manifest, 2) is Why.STALE


# ── retention and tombstones ──


@pytest.mark.parametrize(("keep", "kept"), [(0, [5, 6, 7]), (1, [4, 5, 6, 7]), (9, [1, 2, 3, 4, 5, 6, 7])])
def test_r23_the_newest_committed_and_all_newer_stay(stores: Stores, keep: int, kept: list[int]) -> None:
    """Older ones go but for *keep*, with the chunks that only they name."""
    opened = stores.open(keep=keep)
    opened.promise(1)
    manifests = {sequence: opened.accept("s", sequence) for sequence in range(1, 7)}
    opened.mark(manifests[5])
    manifests[7] = opened.accept("s", 7)
    assert [s for s, manifest in manifests.items() if opened.is_readable(manifest)] == kept
    opened = stores.reopen(keep=keep)
    assert opened.durable.committed == {"s": (0, 5)}
    assert opened.store.usage()["chunks"] == len(kept)
    assert [s for s, manifest in manifests.items() if opened.is_readable(manifest)] == kept


def test_r23_a_mark_of_another_line_frees_nothing(stores: Stores) -> None:
    """Of what was submitted in another epoch a commit point says nothing."""
    opened = stores.open(keep=0)
    opened.promise(1)
    opened.accept("s", 1)
    opened.accept("s", 2)
    opened.promise(2)
    opened.store.perform(MarkCommitted(S, Generation(0), Position(2, 3)))
    opened.accept("s", 4, at=2)
    assert opened.store.usage()["checkpoints"] == 3


@pytest.mark.parametrize(("told", "left"), [(1000, {}), (999, {"s": (0, 999)})])
def test_r23_the_marks_of_a_stream_that_is_begun_anew_are_newer(
    stores: Stores, told: int, left: dict[str, tuple[int, int]]
) -> None:
    """Its tombstone was forgotten elsewhere and is still here: it counts from 1 again, in a later epoch. The
    mark goes with what it names; one of what was never here gives way. No more is kept of it than of any
    other stream (I12)."""
    opened = stores.open(keep=0)
    opened.promise(1)
    opened.accept("s", 1000, tombstone=True)
    opened.store.perform(MarkCommitted(S, Generation(0), Position(1, told)))
    opened.promise(2)
    first = opened.accept("s", 1, at=2)
    assert opened.store.durable().committed == left
    opened.mark(first)
    for sequence in (2, 3):
        newest = opened.accept("s", sequence, at=2)
        assert opened.store.usage()["checkpoints"] == 2
        opened.mark(newest)
    opened.barrier()
    assert opened.store.durable().committed == {"s": (0, 3)}


def test_r23_a_mark_that_waits_gives_way_to_one_of_a_later_epoch(stores: Stores) -> None:
    """Marks wait for the next batch; of those of a stream the one of the latest epoch is written."""
    opened = stores.open()
    opened.promise(2)
    opened.accept("s", 1, at=2)
    for position in (Position(1, 1000), Position(2, 1), Position(1, 1001)):
        opened.store.perform(MarkCommitted(S, Generation(0), position))
    opened.barrier()
    assert opened.store.durable().committed == {"s": (0, 1)}


def test_r15_a_mark_may_come_before_its_checkpoint(stores: Stores) -> None:
    """Heartbeats are faster than payload."""
    opened = stores.open(keep=0)
    opened.promise(1)
    opened.accept("s", 1)
    opened.store.perform(MarkCommitted(S, Generation(0), Position(1, 2)))
    opened.accept("s", 2)
    assert opened.store.usage()["checkpoints"] == 1


def test_r7_a_tombstone_is_a_head_and_a_new_generation_replaces_it(stores: Stores) -> None:
    """It takes the next sequence; so does the re-created stream."""
    opened = stores.open()
    opened.promise(1)
    opened.accept("s", 1)
    opened.accept("s", 2, tombstone=True)
    opened = stores.reopen()
    (head,) = opened.durable.heads
    assert (head.tombstone, head.order) == (True, (1, 2))
    opened.accept("s", 3, generation=1)
    opened = stores.reopen()
    (head,) = opened.durable.heads
    assert (head.tombstone, head.generation, head.order) == (False, 1, (1, 3))


def test_r23_a_tombstone_is_forgotten_with_all_older_records(stores: Stores) -> None:
    """It outlives every older record of its stream (I11)."""
    opened = stores.open(keep=5)
    opened.promise(1)
    old = opened.accept("s", 1)
    opened.accept("s", 2, tombstone=True)
    opened.store.perform(ForgetTombstone(S, Generation(0), Sequence(2)))
    opened.barrier()
    opened = stores.reopen()
    assert opened.durable.heads == ()
    assert opened.store.read_manifest(S, Digest(old.digest)) is None
    assert opened.store.usage()["chunks"] == 0


def test_r23_only_the_head_tombstone_is_forgotten(stores: Stores) -> None:
    """One that was replaced meanwhile, or a live head, stays."""
    opened = stores.open()
    opened.promise(1)
    opened.accept("s", 1, tombstone=True)
    opened.accept("s", 2, generation=1)
    for sequence in (1, 2):
        opened.store.perform(ForgetTombstone(S, Generation(0), Sequence(sequence)))
    opened.barrier()
    assert opened.store.usage()["streams"] == 1
    opened.accept("s", 3, generation=1, tombstone=True)
    for generation, sequence in ((0, 1), (0, 3), (1, 1)):
        opened.store.perform(ForgetTombstone(S, Generation(generation), Sequence(sequence)))
    opened.barrier()
    assert opened.store.usage()["streams"] == 1


# ── what else is durable ──


def test_durable_gives_back_what_was_written(stores: Stores) -> None:
    """A replica's whole memory survives a restart."""
    record = MemberRecord(3, (Member("edge-1", b"1" * 16), Member("edge-2", b"2" * 16)))
    opened = stores.open()
    fresh = opened.durable
    assert (fresh.promise, fresh.record, fresh.founded, fresh.heads, fresh.counter) == (
        None, None, False, (), 0,
    )  # fmt: skip
    opened.promise(9)
    opened.store.perform(WriteRecord(record, Epoch(9), True))
    assert isinstance(opened.next(), RecordWritten)
    opened.store.perform(RememberCounters({NodeId("edge-2"): ((Incarnation(b"2" * 16), 41),)}))
    opened = stores.reopen()
    durable = opened.durable
    assert (durable.cluster, durable.node, durable.incarnation) == ("test", "edge-1", fresh.incarnation)
    assert (durable.promise, durable.record) == (Promise(9, OWNER), record)
    assert (durable.record_epoch, durable.founded, durable.counter) == (9, True, 2)
    assert durable.remembered == {"edge-2": ((b"2" * 16, 41),)}


def test_r21_the_counter_grows_with_every_durable_answer(stores: Stores) -> None:
    """Across both environments, also within one transaction and across a restart."""
    opened = stores.open(start=False)
    manifests = [checkpoint("s", sequence) for sequence in (1, 2, 3)]
    opened.store.perform(WritePromise(Promise(1, OWNER)))
    for manifest, chunks in manifests:
        opened.put(manifest, chunks, 1)
        opened.store.perform(Accept(manifest, Epoch(1)))
    opened.store.perform(AdoptHeads(Epoch(1), frozenset()))
    opened.start()
    events = [opened.next() for _ in range(5)]
    assert [event.counter for event in events] == [1, 2, 3, 4, 5]  # type: ignore[union-attr]
    opened = stores.reopen()
    assert opened.durable.counter == 5
    assert opened.promise(2).counter == 6
    opened.accept("s", 4, at=2)
    assert stores.reopen().durable.counter == 7
