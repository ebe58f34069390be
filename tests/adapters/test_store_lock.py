"""The data directory as it is found: what is not the store's own is never opened, nothing is lost by it."""

from __future__ import annotations

import fcntl
import os
from errno import EACCES, EINVAL, EIO, EROFS
from pathlib import Path
from typing import Any

import pytest

from replicator.adapters import store as store_module
from replicator.adapters.store import LmdbStore
from replicator.adapters.store_journal import is_used, records
from replicator.adapters.store_lock import DIRECTORIES, FILES, DirectoryLock
from replicator.adapters.store_reader import StoreReader
from replicator.errors import StoreError, StoreInUse
from replicator.model import Incarnation, NodeId
from tests.adapters.store_kit import Stores


@pytest.mark.parametrize("name", FILES + DIRECTORIES)
def test_a_link_is_refused_and_what_it_names_is_untouched(name: str, tmp_path: Path) -> None:
    """A link in the place of a file or directory of ours is not followed: its target belongs to others."""
    target = tmp_path / "precious"
    target.write_text("precious")
    link = tmp_path / "data" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(target)
    with pytest.raises(StoreError, match=r"is no plain (file|directory); remove it"):
        DirectoryLock(tmp_path / "data")
    assert target.read_text() == "precious"


@pytest.mark.parametrize("name", FILES + DIRECTORIES)
def test_a_pipe_is_refused_rather_than_waited_for(name: str, tmp_path: Path) -> None:
    """A pipe would block the start without end."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    with pytest.raises(StoreError, match=r"is no plain (file|directory); remove it"):
        DirectoryLock(tmp_path)


def test_a_directory_that_anybody_can_write_to_is_refused(tmp_path: Path) -> None:
    """Who can write there can replace checkpoints; the message says what to do."""
    tmp_path.chmod(0o777)
    with pytest.raises(StoreError, match="do: chmod o-w "):
        DirectoryLock(tmp_path)
    tmp_path.chmod(0o770)
    DirectoryLock(tmp_path).release()


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    """In one line, and it stays as it is."""
    path = tmp_path / "data"
    path.write_text("precious")
    with pytest.raises(StoreError, match="cannot be used: it is a file"):
        DirectoryLock(path)
    assert path.read_text() == "precious"


def test_a_second_process_is_told_who_has_it(tmp_path: Path) -> None:
    """Until the first lets go; the lock file itself stays, and whoever had it before is not named."""
    (tmp_path / "lock").write_text(f"{2**40}\n")
    lock = DirectoryLock(tmp_path)
    with pytest.raises(StoreInUse, match=f"in use by process {os.getpid()};"):
        DirectoryLock(tmp_path)
    lock.release()
    lock.release()
    DirectoryLock(tmp_path).release()


def test_who_only_looks_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that asks whether the store is in use holds the lock for an instant."""
    DirectoryLock(tmp_path).release()
    with (tmp_path / "lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        monkeypatch.setattr("replicator.adapters.store_lock.time.sleep", lambda _: file.close())
        DirectoryLock(tmp_path).release()


def test_r20_all_directories_that_were_made_for_a_store_have_their_names_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By this process or by one that died: up to where another file system begins."""
    synced: list[Path] = []
    monkeypatch.setattr(store_module, "sync_directory", synced.append)
    path = tmp_path / "one" / "two" / "data"
    LmdbStore.open(path, cluster="test", node=NodeId("edge-1")).close()
    assert {path / "payload", path / "meta", path, path.parent, path.parent.parent, tmp_path} <= set(synced)
    assert not any(each.is_mount() for each in synced[:-2])
    synced.clear()
    LmdbStore.open(path, cluster="test", node=NodeId("edge-1")).close()
    assert tmp_path not in synced, "that was for the first time"


def test_r20_a_data_directory_that_is_a_mount_needs_nothing_of_what_is_above(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name is not the store's; and above it may be a file system that knows no sync of directories."""
    synced: list[Path] = []
    monkeypatch.setattr(store_module, "sync_directory", synced.append)
    monkeypatch.setattr(Path, "is_mount", lambda path: path == stores.path)
    stores.open()
    assert set(synced) == {stores.path / "payload", stores.path / "meta", stores.path}


@pytest.mark.parametrize("number", [EACCES, EINVAL, EROFS, EIO])
def test_r20_a_directory_in_which_nothing_was_made_need_not_be_synced(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """One that may not be read, or of a file system that is read-only or odd; but a failure is one."""

    def fail_above(directory: Path) -> None:
        if not directory.is_relative_to(stores.path):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(store_module, "sync_directory", fail_above)
    if number == EIO:
        with pytest.raises(StoreError, match="Input/output error"):
            stores.open()
    else:
        assert stores.open().durable.heads == ()


def test_a_reader_refuses_a_pipe(stores: Stores) -> None:
    """It would wait for it without end."""
    stores.open().store.close()
    journal = stores.path / "payload" / "journal"
    journal.unlink()
    os.mkfifo(journal)
    with pytest.raises(StoreError, match="no plain file") as error:
        StoreReader(stores.path)
    assert "\n" not in str(error.value)


def test_a_journal_that_cannot_be_read_is_an_error_of_ours(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not an OSError, whoever reads it."""
    stores.open().store.close()
    opened = Path.open

    def fail(path: Path, *arguments: Any, **words: Any) -> Any:
        if path.name == "journal":
            raise OSError(5, "Input/output error")
        return opened(path, *arguments, **words)

    monkeypatch.setattr(Path, "open", fail)
    for read in (
        lambda: list(records(stores.path / "payload" / "journal", Incarnation(bytes(16)))),
        lambda: is_used(stores.path / "payload" / "journal"),
        lambda: stores.open(),
    ):
        with pytest.raises(StoreError, match="Input/output error") as error:
            read()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["meta", "payload"])
def test_a_directory_of_somebody_else_is_left_alone(stores: Stores, part: str) -> None:
    """A new store makes way for itself where an attempt of its own was broken off, never over other files."""
    mine = stores.path / part / "precious.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    for _ in range(2):
        with pytest.raises(StoreError, match="precious"):
            stores.open()
        assert mine.read_text() == "mine"
    mine.unlink()
    assert stores.open().durable.heads == ()
