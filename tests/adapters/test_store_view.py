"""What readers see while the journal is ahead of the environment; a journal that fails, or is gone (R21)."""

from __future__ import annotations

import os
from collections.abc import Callable
from errno import EINVAL, EIO
from pathlib import Path
from typing import Any

import lmdb
import pytest

from replicator.adapters import store_journal
from replicator.adapters.store_journal import (
    BLOCK_BYTES,
    JOURNAL_NAME,
    Journal,
    Newer,
    View,
)
from replicator.errors import StoreDamaged, StoreError, StoreFull
from replicator.model import Incarnation
from tests.adapters.store_kit import Stores
from tests.adapters.test_store_journal import crashed

ME = Incarnation(b"i" * 16)


def test_what_the_journal_has_lies_over_the_environment(tmp_path: Path) -> None:
    """Changed, new or deleted there: each key once, in whatever way it is asked for."""
    environment = lmdb.open(os.fspath(tmp_path))
    with environment.begin(write=True) as txn:
        for key in (b"ca", b"cb", b"cc", b"other"):
            txn.put(key, b"old")
    with environment.begin() as txn:
        view = View(txn, {b"cb": None, b"cc": b"new", b"cd": b"new", b"ce": None, b"x": b"new"})
        assert sorted(view.scan(b"c")) == [(b"ca", b"old"), (b"cc", b"new"), (b"cd", b"new")]
        assert sorted(view.keys(b"c")) == [b"ca", b"cc", b"cd"]
        there = [key for key in (b"ca", b"cb", b"cc", b"cd", b"ce", b"cf", b"other", b"x") if view.has(key)]
        assert there == [b"ca", b"cc", b"cd", b"other", b"x"]
        assert [key for key in (b"ca", b"cb", b"cc", b"cd", b"ce") if view.get(key)] == [b"ca", b"cc", b"cd"]
    environment.close()


def test_all_that_was_appended_counts() -> None:
    """Also what has been replaced since: it has its place in the journal all the same."""
    newer = Newer({}).plus({b"a": bytes(100)}).plus({b"a": bytes(50), b"b": None})
    assert (newer.size_bytes, newer.writes) == (150, {b"a": bytes(50), b"b": None})


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    journal = Journal(tmp_path / JOURNAL_NAME, ME)
    journal.rewind()
    yield journal
    journal.close()


def failing(error: int, times: int = 1) -> Callable[..., int]:
    """A write that fails so often, and succeeds then."""
    write, left = os.pwritev, [times]

    def pwritev(*arguments: Any) -> int:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(error, os.strerror(error))
        return write(*arguments)

    return pwritev


def test_r21_a_sync_that_failed_is_not_tried_again(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was lost by then would pass for written. Only what the disk cannot do at all is done otherwise."""
    monkeypatch.setattr(os, "pwritev", failing(EIO))
    with pytest.raises(StoreError, match="sync failed") as found:
        journal.append(1, {b"a": b"x"})
    assert not isinstance(found.value, StoreFull)
    journal._set_direct(False)
    monkeypatch.setattr(os, "pwritev", failing(EINVAL))
    with pytest.raises(StoreError, match="sync failed"):
        journal.append(1, {b"a": b"x"})


def test_r21_what_was_written_in_part_is_not_written(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is told that it is durable."""
    monkeypatch.setattr(os, "pwritev", lambda *arguments: store_journal.BLOCK_BYTES // 2)
    with pytest.raises(StoreError, match="2048 of 4096 bytes"):
        journal.append(1, {b"a": b"x"})


@pytest.mark.parametrize("left", [None, 0, 2 * BLOCK_BYTES])
def test_r21_a_journal_that_is_gone_is_damage(stores: Stores, tmp_path: Path, left: int | None) -> None:
    """Removed to make room, or cut short by who repaired the file system: what only it had was acknowledged,
    and must not be missed silently."""
    opened = stores.open()
    opened.promise(1)
    opened.accept("s", 1)
    opened.settle()
    for sequence in range(2, 5):
        opened.accept("s", sequence)
    with crashed(opened, tmp_path / "crashed") as found:
        path = found.path / "payload" / JOURNAL_NAME
        content = path.read_bytes()
        path.unlink()
        if left is not None:
            path.write_bytes(content[:left])
        with pytest.raises(StoreDamaged, match=r"journal is lost or cut short; move .* away"):
            found.open()
        path.write_bytes(content)
        assert found.open().durable.heads[0].sequence == 4
