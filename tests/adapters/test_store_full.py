"""What a full disk refuses, what it takes all the same, and what waits for room (R21, R23)."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from replicator.adapters import store, store_writer
from replicator.adapters.store_pages import DATA_NAME
from replicator.adapters.store_payload import Payload
from replicator.adapters.store_plan import Plan
from replicator.core.effects import Accept, AdoptHeads, ForgetTombstone, WritePromise
from replicator.core.events import Accepted, AcceptRefused, HeadsAdopted, PromiseWritten, StoreRoom, Why
from replicator.errors import StoreError, StoreFull
from replicator.model import Buffer, Epoch, Generation, Promise, Sequence, StreamName
from tests.adapters.store_kit import MIB, OWNER, Opened, Stores, checkpoint
from tests.adapters.test_store_journal import no_file_grows_beyond
from tests.adapters.test_store_open import python
from tests.adapters.test_store_room import offer
from tests.adapters.test_store_rot import spoil


def refuse(*_: object) -> None:
    """In the place of what writes: there is no room for anything."""
    raise StoreFull("no room")


def test_r21_a_small_change_of_a_large_state_needs_little_room(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is what was lacking of the refused one, not how large it is, nor how fast the disk was."""
    monkeypatch.setattr(store_writer, "IDLE_S", 0.02)
    monkeypatch.setattr(store_writer, "TRANSACTION_S", math.inf)
    free = 100 * MIB
    monkeypatch.setattr(Payload, "has_room", lambda self, needed: needed <= free)
    opened = stores.open()
    opened.promise(1)
    pieces = [os.urandom(2**18) for _ in range(20)]
    opened.accept("s", 1, *pieces)
    manifest, chunks = checkpoint("s", 2, *pieces[1:], os.urandom(2**18))
    free = 1000
    opened.put(manifest, chunks[-1:], 1)
    opened.perform(Accept(manifest, Epoch(1)))
    assert [type(opened.next()) for _ in range(2)] == [StoreRoom, AcceptRefused]
    free = 2 * MIB
    assert opened.next() == StoreRoom(False)


def test_r21_a_large_checkpoint_keeps_no_small_one_out(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even of the batch that it shares; and when its stream has moved on, nobody waits for its room."""
    monkeypatch.setattr(store_writer, "IDLE_S", 0.02)
    free = 4 * MIB
    monkeypatch.setattr(Payload, "has_room", lambda self, needed: needed <= free)
    opened = stores.open(start=False, transaction_bytes_max=MIB)
    large, _ = checkpoint("large", 1, *[os.urandom(2**18) for _ in range(20)])
    small, chunks = checkpoint("small", 1, b"x" * 100)
    opened.perform(WritePromise(Promise(1, OWNER)))
    opened.perform(Accept(large, Epoch(1)))
    opened.put(small, chunks, 1)
    opened.perform(Accept(small, Epoch(1)))
    opened.start()
    assert isinstance(opened.next(), PromiseWritten)
    assert opened.next() == StoreRoom(True)
    assert opened.next() == AcceptRefused(large, Epoch(1), Why.FULL)
    assert isinstance(opened.next(), Accepted)
    opened.accept("small", 2)
    assert opened.events.empty()
    opened.accept("large", 2, b"less")
    assert opened.next() == StoreRoom(False)


READING = """
import sys
from pathlib import Path
from replicator.adapters.store_reader import StoreReader
with StoreReader(Path(sys.argv[1]))._reading():
    print(flush=True)
    sys.stdin.read()
"""


def test_i12_a_reader_that_was_killed_holds_no_pages(stores: Stores) -> None:
    """A command that died while it read: the disk may be full long before the map is."""
    opened = stores.open(keep=0, map_bytes_initial=64 * MIB)
    opened.promise(1)
    reader = python(READING, stores.path)
    assert reader.stdout
    reader.stdout.readline()
    reader.kill()
    reader.communicate()
    for sequence in range(1, 20):
        opened.mark(opened.accept("s", sequence, os.urandom(MIB)))
    assert (stores.path / "payload" / DATA_NAME).stat().st_size < 8 * MIB


def test_r23_a_tombstone_is_forgotten_when_there_is_room(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The core has forgotten it; lifted into a newer epoch it would keep the stream's next life out."""
    monkeypatch.setattr(store_writer, "IDLE_S", 0.02)
    opened = stores.open()
    opened.promise(1)
    opened.accept("s", 1)
    opened.accept("s", 2, tombstone=True)
    with monkeypatch.context() as patch:
        patch.setattr(Payload, "_commit", refuse)
        patch.setattr(Payload, "has_room", lambda self, needed: False)
        opened.perform(ForgetTombstone(StreamName("s"), Generation(0), Sequence(2)))
        assert opened.next() == StoreRoom(True)
    assert opened.next() == StoreRoom(False)
    opened.accept("s", 1, generation=1)


def test_r22_rot_that_no_record_of_can_be_written_is_no_less_rotten(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told at once, and the chunk is lacking: taken for stored, the one that is brought in its place
    would not be written, and the head called mended."""
    monkeypatch.setattr(store_writer, "IDLE_S", 0.02)
    opened = stores.open()
    opened.promise(1)
    head, [(chunk, content)] = checkpoint("s", 1, b"rotten" * 2000)
    opened.accept("s", 1, content)
    opened.settle()
    spoil(stores.path, content, b"R")
    with monkeypatch.context() as patch:
        patch.setattr(Payload, "_commit", refuse)
        patch.setattr(Payload, "has_room", lambda self, needed: False)
        assert not opened.is_readable(head)
        assert opened.next() == StoreRoom(True)
        assert opened.store.wait_for_rot(5, lambda: True) == [("s", head.digest)]
        assert opened.store.missing([chunk]) == [chunk]
        assert opened.refusal(head, 1) is Why.FULL
    opened.put(head, [(chunk, content)], 1)
    opened.perform(Accept(head, Epoch(1)))
    assert {opened.next(), opened.next()} == {StoreRoom(False), AcceptRefused(head, Epoch(1), Why.STALE)}
    assert opened.is_readable(head)


def test_r21_the_size_of_a_head_that_finds_no_room_is_not_the_stream_s(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be written is undone in memory, sizes included."""
    opened = stores.open()
    opened.promise(1)
    opened.accept("s", 1, b"one")
    larger, chunks = checkpoint("s", 2, b"larger")
    commit = Payload._commit

    def full(payload: Payload, plan: Plan, durably: bool) -> None:
        if plan.change.writes:
            raise StoreFull("no room")
        commit(payload, plan, durably)

    monkeypatch.setattr(Payload, "_commit", full)
    opened.put(larger, chunks, 1)
    opened.perform(Accept(larger, Epoch(1)))
    assert opened.next() == StoreRoom(True)
    assert opened.next() == AcceptRefused(larger, Epoch(1), Why.FULL)
    assert (opened.store.head_bytes(StreamName("s")), opened.store.usage()["stored_bytes"]) == (3, 3)


def test_r21_an_adoption_waits_for_room_after_that_is_told(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not refused, since the core does not ask for it again; that the disk is full comes instead."""
    monkeypatch.setattr(store_writer, "IDLE_S", 0.02)
    opened = stores.open()
    opened.promise(1)
    opened.accept("s", 1)
    opened.promise(2)
    with monkeypatch.context() as patch:
        patch.setattr(Payload, "_commit", refuse)
        patch.setattr(Payload, "has_room", lambda self, needed: not needed)
        opened.perform(AdoptHeads(Epoch(2), frozenset()))
        assert opened.next() == StoreRoom(True)
    assert opened.next() == StoreRoom(False)
    assert isinstance(opened.next(), HeadsAdopted)


def test_r21_an_adoption_does_not_wait_for_a_large_checkpoint_s_room(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of that there may never be enough, and nobody asks for the adoption again."""
    monkeypatch.setattr(store_writer, "IDLE_S", 0.02)
    free = 0
    monkeypatch.setattr(Payload, "has_room", lambda self, needed: needed <= free)
    opened = stores.open(transaction_bytes_max=MIB)
    opened.promise(1)
    large, _ = checkpoint("large", 1, *[os.urandom(2**18) for _ in range(40)])
    assert [type(opened.ask(large, 1)), type(opened.next())] == [StoreRoom, AcceptRefused]
    with monkeypatch.context() as patch:
        patch.setattr(Payload, "_commit", refuse)
        opened.perform(AdoptHeads(Epoch(1), frozenset()))
        assert opened.refusal(checkpoint("s", 1, tombstone=True)[0], 1) is Why.FULL
    free = 9 * MIB
    assert isinstance(opened.next(), HeadsAdopted)
    free = 11 * MIB
    assert opened.next() == StoreRoom(False)


def test_r21_a_store_is_not_made_where_there_is_no_room(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is said, where LMDB's lock, a file in memory, would have a signal end the process; one that has
    been made is opened all the same."""
    with monkeypatch.context() as patch:
        patch.setattr(store, "FOUNDING_BYTES", 2**60)
        with pytest.raises(StoreError, match=r"no room in .*: a new store takes"):
            stores.open()
    stores.open().store.close()
    monkeypatch.setattr(store, "FOUNDING_BYTES", 2**60)
    stores.open()


def test_r21_a_limit_that_the_file_system_does_not_show_is_a_full_disk(stores: Stores) -> None:
    """A user's quota, or a limit of the process: LMDB says that a write was cut short, the disk has room."""
    opened = stores.open()
    opened.promise(1)
    kept = opened.accept("s", 1, os.urandom(MIB))
    opened.settle()
    size = (stores.path / "payload" / DATA_NAME).stat().st_size
    with no_file_grows_beyond(size + MIB // 2):
        told, refused = offer(opened, "s", 2, MIB)
        assert (told, type(refused)) == (StoreRoom(True), AcceptRefused)
        assert opened.next() == StoreRoom(False)
    opened.accept("s", 3, os.urandom(MIB))
    assert opened.is_readable(kept)


@pytest.fixture
def scattered(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Whether the free pages lie scattered: there is room, but not for a chunk of 256 KiB in one place."""
    apply, is_so = Payload._apply, False

    def in_one_place(self: Payload, writes: dict[bytes, Buffer | None]) -> None:
        if is_so and any(value is not None and len(value) >= 2**18 for value in writes.values()):
            raise StoreFull("no room for so much in one place")
        apply(self, writes)

    def switch(on: bool) -> None:
        nonlocal is_so
        is_so = on

    monkeypatch.setattr(Payload, "_apply", in_one_place)
    return switch


def test_r21_room_that_was_not_there_is_not_believed_again_at_once(
    stores: Stores, scattered: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time that room is told of, the core has all of it sent again: the pauses grow. What is asked for
    meanwhile, and what came in the same attempt, changes nothing; a stream that fits after all ends them."""
    now = 0.0
    monkeypatch.setattr(store_writer, "time", SimpleNamespace(monotonic=lambda: now))
    opened = stores.open()
    opened.promise(1)
    pauses = []
    for sequence in range(1, 7):
        scattered(sequence != 5)
        told, answer = offer(opened, "s", sequence, 3 * MIB)
        if sequence == 5:
            assert (told, type(answer)) == (None, Accepted)
            continue
        assert (told, type(answer)) == (StoreRoom(True), AcceptRefused)
        assert offer(opened, "s", sequence, 3 * MIB)[0] is None
        since = now
        while not is_told_of_room(opened):
            now += 0.25
        pauses.append(now - since)
    assert pauses == [1, 2, 4, 8, 1]


def test_r21_misjudged_room_keeps_no_small_one_out(stores: Stores, scattered: Callable[[bool], None]) -> None:
    """It is in the same batch as a large one, for which there is no room; that is told so, and not that it is
    incomplete, or it would be fetched again at once."""
    opened = stores.open(start=False)
    scattered(True)
    opened.perform(WritePromise(Promise(1, OWNER)))
    large, small = checkpoint("large", 1, os.urandom(2**18), os.urandom(2**18)), checkpoint("small", 1)
    for manifest, chunks in (large, small):
        opened.put(manifest, chunks, 1)
    for manifest, _ in (large, small):
        opened.perform(Accept(manifest, Epoch(1)))
    opened.start()
    assert [type(opened.next()) for _ in range(2)] == [PromiseWritten, StoreRoom]
    assert opened.next() == AcceptRefused(large[0], Epoch(1), Why.FULL)
    assert isinstance(opened.next(), Accepted)


def is_told_of_room(opened: Opened) -> bool:
    """Whether the store sees room in a turn of its writer, which looks for it in each."""
    manifest, _ = checkpoint("barrier", 1, tombstone=True)
    opened.perform(Accept(manifest, Epoch(2**40)))
    told = opened.next()
    return told == StoreRoom(False) and isinstance(opened.next(), AcceptRefused)
