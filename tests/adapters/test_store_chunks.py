"""The store's chunks: stored once, kept while they are needed, verified when they are read."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from replicator.adapters import store_writer
from replicator.adapters.store_payload import Payload
from replicator.core.effects import Accept, WritePromise
from replicator.core.events import Accepted, AcceptRefused, PromiseWritten, StoreRoom, Why
from replicator.core.state import head_of
from replicator.model import Digest, Epoch, Promise, Sequence, StreamName
from tests.adapters.store_kit import DEADLINE_S, OWNER, Stores, checkpoint

S = StreamName("s")


def test_a_chunk_is_stored_once_however_many_name_it(stores: Stores) -> None:
    """And stays as long as one retained checkpoint does."""
    opened = stores.open(keep=0)
    opened.promise(1)
    first = opened.accept("a", 1, b"shared", b"a1")
    second = opened.accept("b", 1, b"shared", b"b1", b"b1")
    assert opened.store.usage()["stored_bytes"] == len(b"shared" + b"a1" + b"b1")
    opened.mark(opened.accept("a", 2, b"a2"))
    opened.accept("a", 3, b"a3")
    assert not opened.is_readable(first)
    assert opened.is_readable(second)


@pytest.mark.parametrize("again", [True, False], ids=["brought again", "named again"])
def test_a_chunk_that_is_needed_again_before_it_is_swept_stays(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """Garbage is deleted later, and only if it still is garbage."""
    monkeypatch.setattr(store_writer, "IDLE_S", 60.0)
    opened = stores.open(keep=0)
    opened.promise(1)
    opened.accept("s", 1, b"x")
    opened.mark(opened.accept("s", 2, b"y"))
    opened.accept("s", 3, b"z")
    manifest, chunks = checkpoint("s", 4, b"x")
    assert opened.store.missing([chunks[0][0]]), "it may go at any time"
    if again:
        opened.put(manifest, chunks, 1)
    assert isinstance(opened.ask(manifest, 1), Accepted)
    opened.accept("t", 1)
    assert opened.is_readable(manifest)


def test_r23_a_running_transfer_keeps_its_chunks(stores: Stores) -> None:
    """Also those that a checkpoint which is dropped meanwhile has named."""
    opened = stores.open(keep=0)
    opened.promise(1)
    opened.accept("s", 1, b"x", b"one")
    coming, chunks = checkpoint("s", 4, b"x", b"four")
    opened.put(coming, chunks[:1], 1)
    opened.mark(opened.accept("s", 2))
    opened.accept("s", 3)
    assert opened.store.usage()["checkpoints"] == 2
    assert opened.store.missing([chunk for chunk, _ in chunks]) == [chunks[1][0]]
    opened.put(coming, chunks[1:], 1)
    assert isinstance(opened.ask(coming, 1), Accepted)


def test_i12_chunks_of_a_transfer_that_was_overtaken_are_dropped(stores: Stores) -> None:
    """When a checkpoint of the stream with the same or a later sequence is accepted."""
    opened = stores.open()
    opened.promise(1)
    abandoned, chunks = checkpoint("s", 1, b"never accepted")
    later, later_chunks = checkpoint("s", 3, b"still coming")
    opened.put(abandoned, chunks, 1)
    opened.put(later, later_chunks, 1)
    opened.accept("s", 2)
    assert opened.store.missing([chunks[0][0], later_chunks[0][0]]) == [chunks[0][0]]


def test_loose_chunks_are_gone_after_a_restart(stores: Stores) -> None:
    """What no accepted checkpoint names is swept."""
    opened = stores.open()
    opened.promise(1)
    manifest, chunks = checkpoint("s", 1)
    opened.put(manifest, chunks, 1)
    opened.barrier()
    opened = stores.reopen()
    assert opened.store.missing([chunks[0][0]])
    opened = stores.reopen()
    assert opened.store.read_chunk(Digest(chunks[0][0].stored_digest)) is None


def test_queued_chunks_are_not_missing(stores: Stores) -> None:
    """Nobody fetches what is on its way to the disk."""
    opened = stores.open(start=False)
    manifest, chunks = checkpoint("s", 1, b"one", b"two")
    opened.put(manifest, chunks[:1], 1)
    assert opened.store.missing([chunk for chunk, _ in chunks]) == [chunks[1][0]]
    assert opened.store.usage()["queued_bytes"] == 3
    assert opened.store.read_chunk(Digest(chunks[0][0].stored_digest)) is None


def test_chunks_are_written_although_no_acceptance_follows(stores: Stores) -> None:
    """As when a rotten chunk of a head was fetched again: it soon can be read, however few bytes it has."""
    opened = stores.open()
    opened.promise(1)
    manifest, chunks = checkpoint("s", 1)
    opened.put(manifest, chunks, 1)
    deadline = time.monotonic() + DEADLINE_S
    while opened.store.read_chunk(Digest(chunks[0][0].stored_digest)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_i12_a_queue_smaller_than_a_transaction_is_written_all_the_same(stores: Stores) -> None:
    """No data thread waits for an acceptance that can only come after its chunks."""
    opened = stores.open(writer_queue_bytes_max=1000, transaction_bytes_max=100_000)
    opened.promise(1)
    opened.accept("s", 1, *(bytes([n]) * 600 for n in range(9)))


def test_i12_a_full_queue_blocks_the_data_thread_only(stores: Stores) -> None:
    """Until the writer has made room; effects are queued at once all the while."""
    opened = stores.open(start=False, writer_queue_bytes_max=1000, transaction_bytes_max=500)
    put = [checkpoint("s", sequence, bytes([sequence]) * 600) for sequence in range(1, 9)]
    done = threading.Event()

    def fill() -> None:
        for manifest, chunks in put:
            opened.put(manifest, chunks, 1)
        done.set()

    thread = threading.Thread(target=fill)
    thread.start()
    opened.store.perform(WritePromise(Promise(1, OWNER)))
    assert opened.store.usage()["queued_bytes"] <= 1600
    assert not done.is_set()
    manifest, chunks = checkpoint("t", 1, b"by the control thread")
    opened.store.put_chunks(StreamName("t"), Epoch(1), Sequence(1), chunks, wait=False)
    opened.start()
    assert done.wait(DEADLINE_S)
    thread.join(DEADLINE_S)
    assert isinstance(opened.next(), PromiseWritten)
    assert isinstance(opened.ask(put[-1][0], 1), Accepted)
    assert isinstance(opened.ask(manifest, 1), Accepted)


# ── rot ──


def spoil(path: Path, stored: bytes, by: bytes) -> None:
    """Overwrite bytes in the payload's file, as a rotting disk would."""
    with (path / "payload" / "data.mdb").open("r+b") as file:
        at = file.read().rindex(stored)
        file.seek(at)
        file.write(by)


def test_r22_a_rotten_chunk_is_never_given_out(stores: Stores) -> None:
    """It reads as absent, and its checkpoint is found by the scrub."""
    opened = stores.open()
    opened.promise(1)
    sound = opened.accept("a", 1, b"sound" * 2000)
    rotten = opened.accept("b", 1, b"rotten" * 2000, b"second" * 2000)
    opened.settle()
    spoil(stores.path, b"rotten" * 2000, b"R")
    assert opened.is_readable(sound)
    assert not opened.is_readable(rotten)
    assert opened.store.scrub(2**30) == [("b", rotten.digest)]


def test_r22_a_head_is_stale_or_fenced_only_while_it_is_whole(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rotten chunk came back while the disk had no room for it: the head is not mended, and says so."""
    opened = stores.open()
    opened.promise(1)
    pieces = [b"rotten" * 2000, b"second" * 2000]
    head, chunks = checkpoint("s", 1, *pieces)
    opened.accept("s", 1, *pieces)
    opened.settle()
    spoil(stores.path, pieces[0], b"R")
    opened.store.discard_chunk(Digest(chunks[0][0].stored_digest))
    for epoch in (0, 1):
        assert opened.refusal(head, epoch) is Why.INCOMPLETE
    monkeypatch.setattr(store_writer, "IDLE_S", 0.02)
    with monkeypatch.context() as patch:
        patch.setattr(Payload, "has_room", lambda self, needed: False)
        opened.put(head, chunks[:1], 1)
        opened.perform(Accept(head, Epoch(1)))
        assert opened.next() == StoreRoom(True)
        assert opened.next() == AcceptRefused(head, Epoch(1), Why.FULL)
    assert opened.next() == StoreRoom(False)
    opened.put(head, chunks[:1], 1)
    assert [opened.refusal(head, epoch) for epoch in (0, 1)] == [Why.FENCED, Why.STALE]
    assert opened.is_readable(head)


def test_r22_small_checkpoints_are_read_at_once(stores: Stores) -> None:
    """Those within the bound, with None for what is rotten; none that is not here any longer."""
    opened = stores.open()
    opened.promise(1)
    whole = opened.accept("whole", 1, b"one", b"two")
    others = [
        opened.accept("large", 1, bytes(range(99))),
        opened.accept("rotten", 1, b"one", b"rotten" * 12),
        checkpoint("replaced", 1)[0],
    ]
    opened.accept("replaced", 1, b"by another")
    opened.settle()
    spoil(stores.path, b"rotten" * 12, b"R")
    found = opened.store.read_small([head_of(manifest, Epoch(1)) for manifest in (*others, whole)], 80)
    assert {name: (manifest, list(chunks.values())) for name, (manifest, chunks) in found.items()} == {
        "whole": (whole, [b"one", b"two"]),
        "rotten": (others[1], [b"one", None]),
    }


def test_r22_a_discarded_chunk_is_replaced(stores: Stores) -> None:
    """It counts as missing at once; the one that comes instead is written, and the head is whole again."""
    opened = stores.open()
    opened.promise(1)
    manifest, chunks = checkpoint("s", 1, b"rotten" * 2000, b"second" * 2000)
    opened.put(manifest, chunks, 1)
    assert isinstance(opened.ask(manifest, 1), Accepted)
    opened.settle()
    spoil(stores.path, b"rotten" * 2000, b"R")
    chunk = chunks[0][0]
    opened.store.discard_chunk(Digest(chunk.stored_digest))
    assert opened.store.missing([c for c, _ in chunks]) == [chunk]
    opened.barrier()
    assert opened.store.missing([c for c, _ in chunks]) == [chunk]
    opened.promise(2)
    assert opened.refusal(manifest, 2) is Why.INCOMPLETE, "a damaged head is not adopted"
    opened.put(manifest, chunks[:1], 2)
    assert isinstance(opened.ask(manifest, 2), Accepted)
    assert opened.is_readable(manifest)
    assert opened.store.scrub(2**30) == []


def test_r22_a_sound_chunk_is_not_discarded(stores: Stores) -> None:
    """Whoever found rot may have read what has been replaced since."""
    opened = stores.open()
    opened.promise(1)
    manifest = opened.accept("s", 1)
    opened.store.discard_chunk(Digest(manifest.parts[0].chunks[0].stored_digest))
    opened.barrier()
    assert opened.is_readable(manifest)
    assert opened.store.missing(manifest.parts[0].chunks) == []


def test_r6_a_head_without_all_its_chunks_is_reported_unreadable(stores: Stores) -> None:
    """A replica says that its head is damaged; it does not say that it has none."""
    opened = stores.open()
    opened.promise(1)
    manifest = opened.accept("s", 1, b"rotten" * 2000)
    opened.settle()
    spoil(stores.path, b"rotten" * 2000, b"R")
    opened.store.discard_chunk(Digest(manifest.parts[0].chunks[0].stored_digest))
    opened = stores.reopen()
    (head,) = opened.durable.heads
    assert (head.digest, head.readable) == (manifest.digest, False)
    assert opened.store.missing(manifest.parts[0].chunks) == list(manifest.parts[0].chunks)


def test_r22_the_scrub_goes_on_where_it_stopped(stores: Stores) -> None:
    """A budget bounds each step; all steps together see everything, again and again."""
    opened = stores.open()
    opened.promise(1)
    manifests = [opened.accept(stream, 1, stream.encode() * 5000) for stream in "abcdef"]
    opened.settle()
    for manifest in manifests:
        spoil(stores.path, manifest.stream.encode() * 5000, b"R")
    for _ in range(2):
        steps = [opened.store.scrub(10_000) for _ in range(4)]
        assert [len(step) for step in steps] == [2, 2, 2, 0]
        assert {found for step in steps for found in step} == {(m.stream, m.digest) for m in manifests}


def test_r22_what_is_being_written_is_not_rotten(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scrub between the decision to store a checkpoint, or to drop one, and its writing finds nothing."""
    opened = stores.open()
    opened.promise(1)
    opened.accept("s", 1)
    payload, found = opened.store._payload, []
    commit = payload._commit

    def scrubbed(*arguments: Any) -> None:
        found.append(opened.store.scrub(2**30))
        commit(*arguments)
        found.append(opened.store.scrub(2**30))

    monkeypatch.setattr(payload, "_commit", scrubbed)
    for sequence in range(2, 6):
        opened.mark(opened.accept("s", sequence))
    opened.settle()
    assert len(found) >= 8
    assert not any(found)
