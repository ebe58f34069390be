"""What a full disk refuses, what it takes all the same, and what waits for room (R21, R23)."""

from __future__ import annotations

import os

import pytest

from replicator.adapters import store, store_writer
from replicator.adapters.store_payload import Payload
from replicator.core.effects import Accept, ForgetTombstone, WritePromise
from replicator.core.events import Accepted, AcceptRefused, PromiseWritten, StoreRoom, Why
from replicator.errors import StoreError, StoreFull
from replicator.model import Epoch, Generation, Promise, Sequence, StreamName
from tests.adapters.store_kit import MIB, OWNER, Stores, checkpoint


def test_r21_a_small_change_of_a_large_state_needs_little_room(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is what was lacking of the refused one, not how large it is."""
    monkeypatch.setattr(store_writer, "IDLE_S", 0.02)
    free = 100 * MIB
    monkeypatch.setattr(Payload, "has_room", lambda self, needed: needed <= free)
    opened = stores.open(transaction_bytes_max=MIB)
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

        def full(*_: object) -> None:
            raise StoreFull("no room")

        patch.setattr(Payload, "_commit", full)
        patch.setattr(Payload, "has_room", lambda self, needed: False)
        opened.perform(ForgetTombstone(StreamName("s"), Generation(0), Sequence(2)))
        assert opened.next() == StoreRoom(True)
    assert opened.next() == StoreRoom(False)
    opened.accept("s", 1, generation=1)


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
