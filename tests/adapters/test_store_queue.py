"""What waits in the store's queue, and what becomes of those who wait for a place in it."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from replicator.core.effects import Accept
from replicator.core.events import StoreFailed
from replicator.errors import StoreError
from replicator.model import Epoch, StreamName
from tests.adapters.store_kit import DEADLINE_S, MIB, Stores, checkpoint


def test_what_waits_to_be_written_is_not_missing(stores: Stores) -> None:
    """Nobody has to bring it once more: not before it is written, nor while it waits for its acceptance."""
    opened = stores.open()
    manifest, chunks = checkpoint("s", 1, b"one", b"two")
    assert opened.store.missing([chunk for chunk, _ in chunks]) == [chunk for chunk, _ in chunks]
    opened.put(manifest, chunks, 1)
    assert opened.store.missing([chunk for chunk, _ in chunks]) == []


def test_r15_a_mark_that_comes_at_last_is_written(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that comes during the last batch: the commit point is known to the next process."""
    opened = stores.open()
    opened.promise(1)
    manifest = opened.accept("s", 1)
    begun, goes_on, write = threading.Event(), threading.Event(), opened.store._payload.write

    def write_late(*arguments: Any) -> Any:
        begun.set()
        assert goes_on.wait(DEADLINE_S)
        return write(*arguments)

    monkeypatch.setattr(opened.store._payload, "write", write_late)
    opened.perform(Accept(manifest, Epoch(1)))
    assert begun.wait(DEADLINE_S)
    opened.mark(manifest)
    closer = threading.Thread(target=opened.store.close, daemon=True)
    closer.start()
    while not opened.store._writer._closing:
        time.sleep(0.001)
    goes_on.set()
    closer.join(DEADLINE_S)
    assert stores.open().durable.committed == {StreamName("s"): (0, 1)}


def test_an_idle_store_is_at_no_batch(stores: Stores) -> None:
    """Or its disk would be taken for one that hangs as soon as nothing is written for a while (R21)."""
    opened = stores.open()
    opened.promise(1)
    opened.accept("s", 1)
    opened.settle()
    opened.store.close()
    assert opened.store.writing_s() == 0.0


def test_r21_who_waits_for_a_place_waits_for_no_store_that_has_failed(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data path's threads could not be closed otherwise."""
    opened = stores.open(writer_queue_bytes_max=MIB, transaction_bytes_max=MIB)
    opened.promise(1)
    goes_on = threading.Event()

    def fail(*_: object) -> None:
        assert goes_on.wait(DEADLINE_S)
        raise StoreError("for the test")

    monkeypatch.setattr(opened.store._payload, "write", fail)
    manifest, chunks = checkpoint("s", 1, bytes(MIB), b"x" * MIB)
    opened.put(manifest, chunks, 1)
    assert opened.store.is_crowded()
    waiter = threading.Thread(target=opened.put, args=(manifest, chunks, 1), daemon=True)
    waiter.start()
    changed = opened.store._writer._changed
    while not changed._waiters:  # type: ignore[attr-defined]
        assert waiter.is_alive()
        time.sleep(0.001)
    goes_on.set()
    assert isinstance(opened.next(), StoreFailed)
    waiter.join(DEADLINE_S)
    assert not waiter.is_alive()
    opened.store.close()
    assert not opened.store._meta.session.clean, "what has failed is never taken for closed in order"  # type: ignore[union-attr]
