"""The data directory as it is found: what is not the store's own is never opened, nothing is lost by it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from replicator.adapters.store_lock import DIRECTORIES, FILES, DirectoryLock
from replicator.errors import StoreError, StoreInUse


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
    """Until the first lets go; the lock file itself stays."""
    lock = DirectoryLock(tmp_path)
    with pytest.raises(StoreInUse, match=f"in use by process {os.getpid()}"):
        DirectoryLock(tmp_path)
    lock.release()
    lock.release()
    DirectoryLock(tmp_path).release()
