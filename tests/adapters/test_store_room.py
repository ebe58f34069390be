"""A disk that is full, and a disk that fails (R21)."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from replicator.adapters import store_journal, store_payload, store_writer
from replicator.adapters.store_journal import BATCH_BYTES_MAX, BLOCK_BYTES
from replicator.adapters.store_payload import Payload
from replicator.adapters.store_plan import Plan
from replicator.core.effects import Accept, AdoptHeads
from replicator.core.events import (
    Accepted,
    AcceptRefused,
    Event,
    HeadsAdopted,
    StoreFailed,
    StoreRoom,
    Why,
)
from replicator.errors import StoreError, StoreFull
from replicator.model import Epoch
from tests.adapters.store_kit import DEADLINE_S, MIB, Opened, Stores, checkpoint


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 MiB; skipped where none can be mounted."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "replicator-test", path], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("no file system can be mounted here")
    yield path
    subprocess.run(["umount", path], check=True)


class Readers:
    """What stands in for LMDB's environment here: no reader of it died."""

    def reader_check(self) -> int:
        return 0


def fill_up(directory: Path) -> None:
    """Leave no room in the file system."""
    with (directory / "rest").open("wb", buffering=0) as rest, contextlib.suppress(OSError):
        while True:
            rest.write(bytes(4096))


def offer(opened: Opened, stream: str, sequence: int, size: int) -> tuple[Event | None, Event]:
    """Store a checkpoint of random bytes; return what is told of the disk, and what comes of it."""
    pieces = [os.urandom(min(2**18, size - at)) for at in range(0, size, 2**18)]
    manifest, chunks = checkpoint(stream, sequence, *pieces)
    opened.put(manifest, chunks, 1)
    opened.store.perform(Accept(manifest, Epoch(1)))
    event = opened.next()
    return (event, opened.next()) if isinstance(event, StoreRoom) else (None, event)


@pytest.mark.parametrize("reserve", [0, 8 * MIB], ids=["disk ends", "reserve ends"])
def test_r21_a_full_disk_refuses_checkpoints_and_goes_on_when_there_is_room(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, reserve: int
) -> None:
    """What is stored stays readable, promises and adoptions are still written, and room is noticed."""
    monkeypatch.setattr(store_writer, "IDLE_S", 0.02)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(4 * MIB))
    with Stores(small_disk / "store") as stores:
        opened = stores.open(disk_reserve_bytes=reserve)
        opened.promise(1)
        kept = opened.accept("s", 1, os.urandom(2 * MIB))
        for sequence in range(2, 20):
            told, refused = offer(opened, "s", sequence, 3 * MIB)
            if not isinstance(refused, Accepted):
                break
        assert told == StoreRoom(True)
        assert isinstance(refused, AcceptRefused)
        assert refused.why is Why.FULL
        if not reserve:
            fill_up(small_disk)
        assert opened.is_readable(kept)
        for epoch in range(2, 40):
            opened.promise(epoch)
        if reserve:
            opened.store.perform(AdoptHeads(Epoch(39), frozenset()))
            assert isinstance(opened.next(), HeadsAdopted)
        ballast.unlink()
        (small_disk / "rest").unlink(missing_ok=True)
        assert opened.next() == StoreRoom(False)
        opened.accept("t", 1, os.urandom(MIB), at=39)
        opened = stores.reopen()
        assert opened.is_readable(kept)
        assert opened.durable.promise is not None
        assert opened.durable.promise.epoch == 39


def test_r21_a_disk_that_ends_within_a_write_is_full_not_broken(small_disk: Path) -> None:
    """LMDB reports a write that was cut short as an I/O error; it is one only if there is room."""
    rest = small_disk / "rest"
    with Stores(small_disk / "store") as stores:
        opened = stores.open(disk_reserve_bytes=0)
        opened.promise(1)
        kept = opened.accept("s", 1, os.urandom(MIB))
        opened.settle()
        for pages in range(1, 40):
            fill_up(small_disk)
            os.truncate(rest, rest.stat().st_size - pages * 4096)  # somebody else's file
            with pytest.raises(StoreFull):
                opened.store._payload._apply({b"large": bytes(4 * MIB)})
        rest.unlink()
        opened.accept("s", 2, os.urandom(MIB))
        opened = stores.reopen()
        assert opened.is_readable(kept)


def test_r21_an_io_error_on_a_disk_with_room_is_a_failure(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is never taken for a full disk: the store is not written again before a restart."""
    opened = stores.open()

    class Failure(lmdb.Error):
        code = errno.EIO  # type: ignore[misc]

    class Environment(Readers):
        def begin(self, write: bool) -> None:
            raise Failure("mdb_txn_commit")

    monkeypatch.setattr(opened.store._payload, "_environment", Environment())
    with pytest.raises(StoreError) as error:
        opened.store._payload._apply({b"key": b"value"})
    assert not isinstance(error.value, StoreFull)
    monkeypatch.undo()


def test_r21_room_that_lmdb_can_recycle_counts(small_disk: Path) -> None:
    """A disk filled by others does not stop a store that lives within its own pages."""
    with Stores(small_disk / "store") as stores:
        opened = stores.open(disk_reserve_bytes=0, keep=0)
        opened.promise(1)
        for sequence in range(1, 5):
            opened.mark(opened.accept("s", sequence, os.urandom(MIB // 2), os.urandom(MIB // 2)))
        opened.barrier()
        fill_up(small_disk)
        for sequence in range(5, 12):
            opened.mark(opened.accept("s", sequence, os.urandom(MIB // 2)))


def test_r21_a_full_disk_is_told_once_and_until_the_refused_checkpoint_would_fit(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No flapping: neither for each refusal, nor for room that would not do."""
    monkeypatch.setattr(store_writer, "IDLE_S", 0.02)
    free = 0
    monkeypatch.setattr(store_payload.Payload, "has_room", lambda self, needed: needed <= free)
    opened = stores.open()
    opened.promise(1)
    told, refused = offer(opened, "a", 1, 5 * MIB)
    assert told == StoreRoom(True)
    assert isinstance(refused, AcceptRefused)
    told, refused = offer(opened, "b", 1, 3 * MIB)
    assert told is None
    assert isinstance(refused, AcceptRefused)
    free = 4 * MIB
    assert isinstance(offer(opened, "c", 1, 1000)[1], Accepted), "what fits is taken all the same"
    free = 6 * MIB
    assert opened.next() == StoreRoom(False)
    assert isinstance(offer(opened, "a", 2, 5 * MIB)[1], Accepted)


def test_r21_adoptions_wait_for_room(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that could not be written is not forgotten."""
    monkeypatch.setattr(store_writer, "IDLE_S", 0.02)
    opened = stores.open()
    opened.promise(1)
    opened.accept("s", 1)
    opened.promise(2)
    commit = store_payload.Payload._commit
    room = 0

    def full(self: store_payload.Payload, plan: Plan, durably: bool) -> None:
        if not room:
            raise StoreFull("no room")
        commit(self, plan, durably)

    monkeypatch.setattr(store_payload.Payload, "_commit", full)
    monkeypatch.setattr(store_payload.Payload, "has_room", lambda self, needed: needed <= room)
    opened.store.perform(AdoptHeads(Epoch(2), frozenset()))
    assert opened.next() == StoreRoom(True)
    manifest, _ = checkpoint("s", 1)
    assert opened.refusal(manifest, 2) is Why.FULL
    room = 100 * MIB
    assert opened.next() == StoreRoom(False)
    assert isinstance(opened.next(), HeadsAdopted)


@pytest.mark.parametrize(("where", "size"), [("_append", 1000), ("sync", BATCH_BYTES_MAX + 1)])
def test_r13_an_acceptance_is_told_after_its_sync(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, where: str, size: int
) -> None:
    """Durable before ack, in the journal or in the environment."""
    opened = stores.open(transaction_bytes_max=2 * size)
    opened.promise(1)
    entered, leave = threading.Event(), threading.Event()
    sync = getattr(store_payload.Payload, where)

    def slow(*arguments: object) -> None:
        sync(*arguments)
        entered.set()
        assert leave.wait(DEADLINE_S)

    monkeypatch.setattr(store_payload.Payload, where, slow)
    manifest, chunks = checkpoint("s", 1, os.urandom(size))
    opened.put(manifest, chunks, 1)
    opened.store.perform(Accept(manifest, Epoch(1)))
    assert entered.wait(DEADLINE_S)
    assert opened.events.empty()
    leave.set()
    assert isinstance(opened.next(), Accepted)


@pytest.mark.parametrize("where", ["_commit", "_append", "_apply", "sync"])
def test_r21_after_a_failure_nothing_is_written_or_acknowledged(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """It is told once; what waits is dropped, and nobody is left waiting."""
    size = 10 if where in ("_commit", "_append") else BATCH_BYTES_MAX + 1
    opened = stores.open(writer_queue_bytes_max=2 * size, transaction_bytes_max=2 * size)
    opened.promise(1)
    kept = opened.accept("s", 1)
    calls = []

    def fail(*_: object) -> None:
        calls.append(where)
        raise StoreError("sync failed: Input/output error")

    monkeypatch.setattr(store_payload.Payload, where, fail)
    manifest, chunks = checkpoint("s", 2, os.urandom(size))
    opened.put(manifest, chunks, 1)
    assert opened.ask(manifest, 1) == StoreFailed("sync failed: Input/output error")
    for sequence in range(3, 10):
        manifest, chunks = checkpoint("s", sequence, os.urandom(size))
        opened.put(manifest, chunks, 1)
        opened.store.perform(Accept(manifest, Epoch(1)))
    assert opened.is_readable(kept), "it may still be read"
    assert opened.store.usage()["queued_bytes"] == 0
    opened.store.close()
    assert calls == [where]
    assert opened.events.empty()


def test_r21_a_sync_that_finds_no_room_is_a_failure(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was committed before may be lost, so it does not count as a full disk."""
    opened = stores.open()

    class Environment:
        def sync(self, force: bool) -> None:
            raise lmdb.DiskError("mdb_env_sync", 28)

    monkeypatch.setattr(opened.store._payload, "_environment", Environment())
    with pytest.raises(StoreError) as error:
        opened.store._payload.sync()
    assert not isinstance(error.value, StoreFull)
    monkeypatch.undo()


def test_r21_a_sync_that_failed_is_not_believed_the_second_time(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system forgets what it could not write: the root page that was in doubt is written anew first."""
    opened = stores.open(transaction_bytes_max=2 * MIB)
    opened.promise(1)
    kept = opened.accept("s", 1, os.urandom(MIB + 1))
    payload = opened.store._payload
    payload._is_in_doubt = payload._is_root_in_doubt = True  # as after chunks that nobody waits for
    environment, calls = payload._environment, list[str]()

    class Environment(Readers):
        """Has no room for the next transaction, which it says when it waits for the disk."""

        def begin(self, write: bool = False) -> object:
            calls.append("begin")
            if calls == ["begin"]:
                error = lmdb.DiskError("mdb_txn_commit")
                error.code = errno.ENOSPC  # type: ignore[misc]
                raise error
            return environment.begin(write=write)

        def sync(self, force: bool) -> None:
            calls.append("sync")
            environment.sync(force)

    monkeypatch.setattr(payload, "_environment", Environment())
    with pytest.raises(StoreFull):
        payload._apply({b"x": b"y"})
    payload.sync()
    payload.sync()
    monkeypatch.undo()
    assert calls == ["begin", "begin", "sync", "sync"]
    assert opened.is_readable(kept)
    opened.store.close()
    assert len(stores.open().durable.heads) == 1


def test_r21_the_journal_is_not_begun_anew_over_a_root_page_that_may_be_lost(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment has what the journal had, by a root page that nobody waited for; the next transaction's
    wait for the disk fails for want of room. The root is written anew before the journal is."""
    monkeypatch.setattr(store_writer, "IDLE_S", 0.02)
    monkeypatch.setattr(store_journal, "JOURNAL_BYTES", 4 * BLOCK_BYTES)
    opened = stores.open()
    opened.promise(1)
    for sequence in range(1, 5):
        opened.accept("s", sequence)
    opened.settle()
    payload = opened.store._payload
    payload._is_in_doubt = False
    environment = payload._environment

    class Full(Readers):
        def begin(self, write: bool = False) -> object:
            error = lmdb.DiskError("mdb_txn_commit")
            error.code = errno.ENOSPC  # type: ignore[misc]
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(payload, "_environment", Full())
        with pytest.raises(StoreFull):
            payload._apply({b"x": b"y"})
    written, position = roots_written(opened), payload._journal._position  # type: ignore[union-attr]
    opened.accept("s", 5)
    assert payload._journal._position < position  # type: ignore[union-attr]
    assert payload._environment is environment
    assert roots_written(opened) > written


def test_r21_a_new_process_does_not_believe_the_root_page_that_it_finds(stores: Stores) -> None:
    """A sync may have failed for it before the process that wrote it died: then it is in memory only, and the
    system would not wait for it again. So it is written anew before anything is answered from it."""
    opened = stores.open()
    opened.promise(1)
    opened.accept("s", 1, b"state")
    opened.settle()
    state, written = opened.store._payload.memory.state, roots_written(opened)
    opened = stores.reopen()
    assert roots_written(opened) == written + 1
    assert opened.store._payload.memory.state == state


def test_r21_what_a_full_disk_leaves_in_doubt_is_not_built_on(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store opens and can be read; the root page is written anew before the journal's first record."""
    opened = stores.open()
    opened.promise(1)
    kept = opened.accept("s", 1, b"state")
    opened.settle()

    def fail(payload: Payload, writes: object) -> None:
        if writes:
            raise StoreFull("no room")

    opened.store.close()
    with monkeypatch.context() as patch:
        patch.setattr(Payload, "_apply", fail)
        opened = stores.open(start=False)
    assert opened.is_readable(kept)
    written = roots_written(opened)
    opened.start()
    opened.accept("s", 2, b"newer")
    assert roots_written(opened) > written


def roots_written(opened: Opened) -> int:
    """How many transactions the environment has seen."""
    return int(opened.store._payload._environment.info()["last_txnid"])
