"""The store's chunks: stored once, kept while they are needed, verified when they are read."""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
from collections.abc import Collection
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from replicator.adapters import store, store_plan, store_writer
from replicator.adapters.store_journal import bytes_of
from replicator.adapters.store_payload import Payload
from replicator.adapters.store_plan import Fence, Hints, Item, Put
from replicator.core.effects import Accept, ForgetTombstone, WritePromise
from replicator.core.events import Accepted, Event, PromiseWritten
from replicator.model import Buffer, Digest, Epoch, Generation, Promise, Sequence, StreamName
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


def test_i12_garbage_does_not_pile_up_while_the_store_is_never_idle(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch deletes as many as it brings, however small they are: as pages of a database, or parts."""
    monkeypatch.setattr(store_plan, "SWEEP_CHUNKS_MAX", 4)
    monkeypatch.setattr(store_writer, "IDLE_S", 60.0)
    opened = stores.open(keep=0)
    opened.promise(1)
    for sequence in range(1, 30):
        pieces = [f"{sequence} {number}".encode() for number in range(20)]
        opened.mark(opened.accept("s", sequence, *pieces))
    assert len(opened.store._payload.memory.chunks.garbage) <= 40


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


def test_the_size_of_a_head_is_known_without_a_look_at_the_disk(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Since it was accepted, or the store opened: the control thread asks for that of a thousand at once."""
    opened = stores.open()
    opened.promise(1)
    opened.accept("s", 1, b"one")
    opened.accept("s", 2, b"three", b"three", b"two")
    opened.accept("gone", 1, tombstone=True)
    opened.perform(ForgetTombstone(StreamName("gone"), Generation(0), Sequence(1)))
    opened.barrier()
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(Payload, "reading", None)
            patch.setattr(opened.store, "_reads", None)
            sizes = [opened.store.head_bytes(stream) for stream in (S, StreamName("gone"))]
        assert sizes == [len(b"threethreetwo"), 0]
        opened = stores.reopen()


def test_chunks_come_in_any_kind_of_buffer(stores: Stores) -> None:
    """They are not copied for the queue; what is read of them, also while only the journal has them, is bytes
    and no view that keeps a received frame."""
    opened = stores.open()
    opened.promise(1)
    for sequence, size in ((1, 1_000), (2, 1_000_000)):
        content = bytearray(os.urandom(size))
        manifest, [(chunk, _)] = checkpoint("s", sequence, bytes(content))
        with memoryview(content) as view:
            opened.put(manifest, [(chunk, view)], 1)
            assert isinstance(opened.ask(manifest, 1), Accepted)
        found = opened.store.read_chunk(Digest(chunk.stored_digest))
        assert isinstance(found, bytes)
        assert found == content


def test_i12_a_small_chunk_that_waits_keeps_nothing_but_itself(stores: Stores) -> None:
    """ZeroMQ receives many small frames into one block, or one of 100 bytes alone: the queue's bound counts
    the 100, and a view would keep the block."""
    opened = stores.open(start=False)
    for size, is_kept in ((100, False), (store.VIEW_ABOVE_BYTES, False), (store.VIEW_ABOVE_BYTES + 1, True)):
        content = bytearray(os.urandom(size))
        manifest, [(chunk, _)] = checkpoint("s", 1, bytes(content))
        opened.put(manifest, [(chunk, memoryview(content))], 1)
        with pytest.raises(BufferError) if is_kept else nullcontext():
            content.clear()


@pytest.mark.parametrize(
    ("slow_from", "largest", "last"),
    [(0, 2**20, 2**20), (5, 2**22, 2**20), (math.inf, 2**22, 2**22)],
    ids=["a slow disk", "one that becomes slow", "a fast one"],
)
def test_a_transaction_is_as_large_as_the_disk_writes_in_time(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, slow_from: float, largest: int, last: int
) -> None:
    """A large one costs less, but a promise waits for it."""
    now = 0.0
    sizes: list[int] = []
    write = Payload.write

    def slow(payload: Payload, items: Collection[Item], hints: Hints, fence: Fence) -> list[Event]:
        nonlocal now
        now += 2 * store_writer.TRANSACTION_S if len(sizes) >= slow_from else 0.001
        if size := sum(item.size_bytes for item in items if isinstance(item, Put)):
            sizes.append(size)
        return write(payload, items, hints, fence)

    monkeypatch.setattr(store_writer, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(Payload, "write", slow)
    opened = stores.open(start=False, writer_queue_bytes_max=2**26)
    manifest, stored = checkpoint("s", 1, *(os.urandom(2**18) for _ in range(150)))
    for start in range(0, len(stored), 3):
        opened.put(manifest, stored[start : start + 3], 1)
    opened.store.perform(WritePromise(Promise(1, OWNER)))
    opened.start()
    assert isinstance(opened.next(), PromiseWritten)
    assert isinstance(opened.ask(manifest, 1), Accepted)
    *before, _ = sizes  # the rest, whatever it is
    assert largest / 2 < max(before) <= largest
    assert last / 2 < before[-1] <= last


def test_what_is_not_written_tells_nothing_of_the_disk(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks that are known, or of an epoch that is over, take no time on the slowest disk; a promise would
    wait for the large transaction that comes next."""
    took_s = 1.0
    ticks = itertools.count()
    monkeypatch.setattr(store_writer, "time", SimpleNamespace(monotonic=lambda: took_s * next(ticks)))
    opened = stores.open()
    opened.promise(1)
    pieces = [os.urandom(2**18) for _ in range(16)]
    opened.accept("s", 1, *pieces)
    took_s = 0.0
    opened.put(*checkpoint("known", 1, *pieces), 1)
    opened.barrier()
    opened.promise(2)
    opened.put(*checkpoint("fenced", 1, *reversed(pieces), b"new"), 1)
    opened.barrier()
    assert opened.store._writer._transaction_bytes == store_writer.TRANSACTION_BYTES_MIN


def test_acceptances_of_large_states_that_have_not_changed_are_no_endless_transaction(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are no chunks to write, but manifests of 4,096 each: a promise is not to wait for all of them."""
    sizes: list[int] = []
    apply = Payload._apply

    def spy(payload: Payload, writes: dict[bytes, Buffer | None]) -> None:
        sizes.append(bytes_of(writes))
        apply(payload, writes)

    monkeypatch.setattr(Payload, "_apply", spy)
    opened = stores.open(start=False, transaction_bytes_max=2**20)
    pieces = [number.to_bytes(4, "big") for number in range(4096)]
    opened.store.perform(WritePromise(Promise(1, OWNER)))
    opened.put(*checkpoint("s0", 1, *pieces), 1)
    for number in range(16):
        opened.perform(Accept(checkpoint(f"s{number}", 1, *pieces)[0], Epoch(1)))
    opened.start()
    assert isinstance(opened.next(), PromiseWritten)
    assert all(isinstance(opened.next(), Accepted) for _ in range(16))
    assert max(sizes) < 2 * 2**20
