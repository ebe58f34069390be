"""The journal: what it acknowledged is there after a crash, whatever the environment has (R13, R21)."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EFBIG, EINVAL
from pathlib import Path
from types import SimpleNamespace

import pytest

from replicator.adapters import store_journal, store_payload, store_writer
from replicator.adapters.store_journal import BLOCK_BYTES, JOURNAL_NAME, Journal, records, replay
from replicator.adapters.store_reader import StoreReader
from replicator.adapters.store_record import file_errors, read_manifest
from replicator.core.events import Accepted, AcceptRefused, StoreRoom, Why
from replicator.errors import StoreDamaged, StoreError, StoreFull
from replicator.model import Digest, Epoch, Incarnation, Manifest, Sequence, StreamName
from tests.adapters.store_kit import Opened, Stores, checkpoint

ME = Incarnation(b"i" * 16)


def crashed(opened: Opened, to: Path) -> Stores:
    """The store's files as they are now, somewhere else: as after the death of the process."""
    shutil.copytree(opened.path, to)
    return Stores(to)


def test_r13_what_was_accepted_is_there_after_a_crash(stores: Stores, tmp_path: Path) -> None:
    """Heads, chunks and the counter come back from the journal; what was replaced does not."""
    opened = stores.open()
    opened.promise(1)
    kept = [opened.accept(stream, 1, os.urandom(1000)) for stream in "ab"]
    for sequence in range(2, 30):
        newest = opened.accept("c", sequence, os.urandom(500))
        opened.mark(newest)
    assert opened.store._payload._newer.writes, "only the journal has it"
    with crashed(opened, tmp_path / "crashed") as found:
        again = found.open()
        assert {head.stream: head.sequence for head in again.durable.heads} == {"a": 1, "b": 1, "c": 29}
        assert all(again.is_readable(manifest) for manifest in (*kept, newest))
        assert again.durable.counter >= 31
        again.accept("a", 2)
        again = found.reopen()
        assert {head.stream: head.sequence for head in again.durable.heads} == {"a": 2, "b": 1, "c": 29}


def test_r13_the_journal_begins_at_its_front_again(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Round after round, and a crash at any moment of them."""
    monkeypatch.setattr(store_journal, "JOURNAL_BYTES", 8 * BLOCK_BYTES)
    opened = stores.open()
    opened.promise(1)
    for sequence in range(1, 40):
        manifest = opened.accept("s", sequence, os.urandom(100))
        with crashed(opened, tmp_path / str(sequence)) as found:
            again = found.open()
            (head,) = again.durable.heads
            assert head.sequence == sequence
            assert again.is_readable(manifest)


def test_a_reader_sees_what_only_the_journal_has(stores: Stores, tmp_path: Path) -> None:
    """The node's threads, and the command line after a crash."""
    opened = stores.open()
    opened.promise(1)
    opened.accept("a", 1, os.urandom(3000))
    opened.settle()
    newest = opened.accept("a", 2, os.urandom(3000))
    assert opened.is_readable(newest)
    assert opened.store.read_manifest(StreamName("a")) == newest
    assert opened.store.scrub(2**20) == []
    reader = StoreReader(crashed(opened, tmp_path / "crashed").path)
    ((head, manifest, _),) = reader.streams()
    assert (head.sequence, manifest, head.readable) == (2, newest, True)
    assert reader.chunk(Digest(newest.parts[0].chunks[0].stored_digest)) is not None
    reader.close()


def test_a_reader_keeps_what_it_began_with(stores: Stores) -> None:
    """Its view does not move while the journal grows and the environment takes it over."""
    opened = stores.open()
    opened.promise(1)
    first = opened.accept("a", 1)
    with opened.store._payload.reading() as view:
        opened.accept("a", 2)
        opened.settle()
        opened.accept("a", 3)
        entry = opened.store._payload.memory.streams[StreamName("a")].entries[0]
        assert entry.sequence == 1
        assert read_manifest(view, StreamName("a"), entry) == first


def test_a_reader_lays_nothing_older_over_the_environment(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal grows and is taken over after the reader has seen it, and before its transaction begins."""
    opened = stores.open()
    opened.promise(1)
    opened.accept("a", 1)
    opened.settle()
    opened.accept("a", 2)  # only the journal has it
    payload, newest = opened.store._payload, list[Manifest]()
    environment = payload._environment

    class Late:
        def begin(self, write: bool = False) -> object:
            if not newest and threading.current_thread() is threading.main_thread():
                newest.append(opened.accept("a", 3))
                opened.settle()
            return environment.begin(write=write)

        def __getattr__(self, name: str) -> object:
            return getattr(environment, name)

    monkeypatch.setattr(payload, "_environment", Late())
    found = opened.store.read_manifest(StreamName("a"))
    monkeypatch.undo()
    assert [found] == newest


def test_r21_a_torn_record_ends_the_journal(tmp_path: Path) -> None:
    """What a power loss tore was not acknowledged: it is as if it had never been."""
    path = fill(tmp_path, 5)
    tear(path, 4)
    assert list(replay(path, ME, 0)) == [b"1", b"2", b"3", b"4"]
    assert list(replay(path, ME, 3)) == [b"4"]


def test_r21_a_rotten_record_is_noticed(tmp_path: Path) -> None:
    """One that comes before another was acknowledged: the store is damaged, never silently shorter."""
    path = fill(tmp_path, 5)
    tear(path, 2)
    with pytest.raises(StoreDamaged, match="lost what came before number 4"):
        replay(path, ME, 0)
    assert list(replay(path, ME, 5)) == [], "the environment has everything: nothing is lost"


def test_r21_an_environment_older_than_the_journal_is_noticed(tmp_path: Path) -> None:
    """Somebody has put back last week's copy of one of the two."""
    path = fill(tmp_path, 5, first=100)
    with pytest.raises(StoreDamaged, match="begins at 100"):
        replay(path, ME, 50)
    assert list(replay(path, ME, 99)) == [b"100", b"101", b"102", b"103", b"104"]


def test_where_the_disk_can_the_journal_is_written_past_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every record of it, by a wait for the disk."""
    try:
        os.close(os.open(tmp_path / "probe", os.O_CREAT | os.O_WRONLY | os.O_DIRECT))
    except OSError:
        pytest.skip("this file system cannot")
    write, written = os.pwritev, []

    def note(file: int, pieces: list[memoryview], offset: int, flags: int) -> int:
        written.append(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT and flags & os.RWF_DSYNC)
        return write(file, pieces, offset, flags)

    monkeypatch.setattr(os, "pwritev", note)
    fill(tmp_path, 3)
    assert [bool(each) for each in written] == [True, True, True]


@pytest.mark.parametrize("can", ["be set", "write", "neither"])
def test_a_disk_that_cannot_be_written_past_the_page_cache_is_written_through_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can: str
) -> None:
    """The file system says so when it is asked, or only when it is to write; both are no failure."""
    set_flags, write = fcntl.fcntl, os.pwritev

    def is_direct(file: int) -> bool:
        return bool(set_flags(file, fcntl.F_GETFL) & os.O_DIRECT)

    def refuse_to_be_set(file: int, command: int, flags: int = 0) -> int:
        if command == fcntl.F_SETFL and flags & os.O_DIRECT and can != "be set":
            raise OSError(EINVAL, os.strerror(EINVAL))
        return set_flags(file, command, flags)

    def refuse_to_write(file: int, pieces: list[memoryview], offset: int, flags: int) -> int:
        if can == "neither" or is_direct(file):
            raise OSError(EINVAL, os.strerror(EINVAL))
        return write(file, pieces, offset, flags)

    monkeypatch.setattr(fcntl, "fcntl", refuse_to_be_set)
    monkeypatch.setattr(os, "pwritev", refuse_to_write)
    if can == "neither":
        with pytest.raises(StoreError, match="Invalid argument"):
            fill(tmp_path, 1)
    else:
        assert list(replay(fill(tmp_path, 5), ME, 0)) == [b"1", b"2", b"3", b"4", b"5"]


def test_what_a_longer_record_left_is_no_part_of_a_shorter_one(tmp_path: Path) -> None:
    """All go through the same memory."""
    journal = Journal(tmp_path / JOURNAL_NAME, ME)
    journal.rewind()
    assert journal.append(1, {b"long": b"x" * 3 * BLOCK_BYTES})
    assert journal.append(2, {b"short": b"y"})
    journal.close()
    content = (tmp_path / JOURNAL_NAME).read_bytes()
    assert b"x" not in content[4 * BLOCK_BYTES :]
    assert [writes for _, writes in records(tmp_path / JOURNAL_NAME, ME)][1] == {b"short": b"y"}


def test_another_stores_journal_is_none(tmp_path: Path) -> None:
    """The checksum covers whose it is."""
    assert list(records(fill(tmp_path, 5), Incarnation(b"j" * 16))) == []


def test_r21_without_room_for_a_journal_the_store_works(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commits take longer, that is all."""

    def no_room(*_: object) -> Journal:
        raise StoreFull("no room")

    monkeypatch.setattr(store_payload, "Journal", no_room)
    opened = stores.open()
    opened.promise(1)
    manifest = opened.accept("s", 1)
    assert not opened.store._payload._newer.writes
    assert stores.reopen().is_readable(manifest)


def test_r21_a_journal_that_finds_room_for_a_part_only_is_none(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operating system takes what fits and says so; a journal cut short would fail in mid-service."""
    take = os.pwrite

    def take_a_part(file: int, data: bytes, offset: int) -> int:
        return take(
            file, data[: BLOCK_BYTES * 3 if len(data) == store_journal.JOURNAL_BYTES else None], offset
        )

    monkeypatch.setattr(os, "pwrite", take_a_part)
    opened = stores.open()
    assert (opened.path / "payload" / JOURNAL_NAME).stat().st_size == 0
    opened.promise(1)
    for sequence in range(1, 6):
        opened.accept("s", sequence)


@contextmanager
def no_file_grows_beyond(size: int) -> Iterator[None]:
    """As on a full disk, for what this process writes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("durability", ["disk", "memory"])
def test_r21_a_full_disk_does_not_keep_a_store_with_a_journal_ahead_from_opening(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    """It is read as the journal has it, refuses what is new, may be killed again, and goes on by itself."""
    monkeypatch.setattr(store_writer, "IDLE_S", 60)
    now = 0.0
    monkeypatch.setattr(store_writer, "time", SimpleNamespace(monotonic=lambda: now))
    opened = stores.open()
    opened.promise(1)
    kept = [opened.accept("a", 1, *(os.urandom(2**17) for _ in range(4)))]
    kept += [opened.accept("a", 2), *(opened.accept(f"b{n}", 1, os.urandom(50_000)) for n in range(6))]
    counter = opened.store.durable().counter
    expected = {"a": 2, **{f"b{n}": 1 for n in range(6)}}
    with crashed(opened, tmp_path / "crashed") as found:
        with no_file_grows_beyond((found.path / "payload" / "data.mdb").stat().st_size):
            again = found.open(durability=durability)
            assert {head.stream: head.sequence for head in again.durable.heads} == expected
            assert all(head.readable for head in again.durable.heads)
            assert again.durable.counter == counter
            assert all(map(again.is_readable, kept))
            assert again.store._payload._newer.writes
            manifest, chunks = checkpoint("c", 1, os.urandom(1000))
            again.put(manifest, chunks, 1)
            assert again.ask(manifest, 1) == StoreRoom(True)
            assert again.next() == AcceptRefused(manifest, Epoch(1), Why.FULL)
        with crashed(again, tmp_path / "again") as other:
            assert {head.stream: head.sequence for head in other.open().durable.heads} == expected
        now = store_writer.MISJUDGED_S
        again.put(manifest, chunks, 1)
        assert again.ask(manifest, 1) == StoreRoom(False)
        assert isinstance(again.next(), Accepted)
        kept += [manifest, again.accept("c", 2)]
        with crashed(again, tmp_path / "at last") as other:
            last = other.open()
            assert {head.stream: head.sequence for head in last.durable.heads} == {**expected, "c": 2}
            assert all(map(last.is_readable, kept))


def test_r21_a_journal_keeps_what_is_in_it_until_the_environment_has_it(tmp_path: Path) -> None:
    """Nothing is appended before; an old one that is too short grows, or stays as it is for want of room."""
    path = fill(tmp_path, 5)
    os.truncate(path, 5 * BLOCK_BYTES)
    before = path.read_bytes()
    with no_file_grows_beyond(8 * BLOCK_BYTES), pytest.raises(StoreFull):
        Journal(path, ME)
    assert path.read_bytes() == before
    journal = Journal(path, ME)
    assert not journal.append(6, {b"6": b"value"})
    assert list(replay(path, ME, 0)) == [b"1", b"2", b"3", b"4", b"5"]
    assert path.stat().st_size == store_journal.JOURNAL_BYTES
    journal.rewind()
    assert journal.append(6, {b"6": b"value"})
    journal.close()
    assert list(replay(path, ME, 5)) == [b"6"]


def test_r21_a_file_that_may_not_grow_is_full(tmp_path: Path) -> None:
    """A limit on the length of files is a want of room, as it is for LMDB."""
    with pytest.raises(StoreFull), file_errors(tmp_path):
        raise OSError(EFBIG, os.strerror(EFBIG))


def test_r20_checkpoints_that_only_the_journal_has_are_checkpoints(stores: Stores) -> None:
    """A store whose identity is lost is not made anew over them."""
    opened = stores.open()
    opened.promise(1)
    opened.accept("s", 1)
    assert store_payload.has_streams(opened.path / "payload")


def test_memory_durability_needs_no_journal(stores: Stores) -> None:
    """Nothing waits for the disk anyhow."""
    opened = stores.open(durability="memory")
    opened.promise(1)
    opened.accept("s", 1)
    assert not (opened.path / "payload" / JOURNAL_NAME).exists()


def test_r4_large_and_small_keep_their_order(stores: Stores, tmp_path: Path) -> None:
    """What goes past the journal takes along what waits in it."""
    opened = stores.open()
    opened.promise(1)
    newest: list[Manifest] = []
    for sequence in range(1, 5):
        opened.accept("s", sequence, os.urandom(100))
        _, chunks = checkpoint("s", sequence + 10, os.urandom(2**19))
        opened.store.put_chunks(StreamName("s"), Epoch(1), Sequence(sequence + 10), chunks)
        newest.append(opened.accept("t", sequence, os.urandom(2**19), os.urandom(300)))
    with crashed(opened, tmp_path / "crashed") as found:
        assert found.open().is_readable(newest[-1])


def fill(directory: Path, count: int, first: int = 1) -> Path:
    """A journal with so many records, each of one block and one key: its number."""
    path = directory / JOURNAL_NAME
    journal = Journal(path, ME)
    journal.rewind()
    for number in range(first, first + count):
        assert journal.append(number, {str(number).encode(): b"value"})
    journal.close()
    return path


def tear(path: Path, index: int) -> None:
    """Spoil the record at that block."""
    with path.open("r+b") as file:
        file.seek(index * BLOCK_BYTES + 40)
        file.write(b"\xff\xff")


def test_r13_a_journal_made_later_has_its_name_synced(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that found no room for it at first makes it at a later start: without its name on the disk a
    power loss would take all that it acknowledged."""
    opened = stores.open()
    opened.promise(1)
    opened.store.close()
    (stores.path / "payload" / JOURNAL_NAME).unlink()
    synced: list[Path] = []
    monkeypatch.setattr(store_journal, "sync_directory", synced.append)
    stores.open()
    assert synced == [stores.path / "payload"]
