"""A store's file may be shorter than its page count says: damage is only what is not free (R21)."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from replicator.adapters.store_pages import lacks_used_pages
from replicator.errors import StoreDamaged
from tests.adapters.store_kit import MIB, Stores, orders

PAGE_BYTES = 4096


def _churn(path: Path, seed: int) -> tuple[int, int]:
    """Transactions that give back pages which they took; the pages of the file, and those it should have."""
    chance = random.Random(seed)
    environment = lmdb.open(str(path), map_size=2**26)
    for _ in range(chance.randrange(3, 40)):
        with environment.begin(write=True) as transaction:
            keys = [chance.randbytes(8) for _ in range(chance.randrange(1, 40))]
            for key in keys:
                transaction.put(key, chance.randbytes(chance.choice([10, 300, 1500, 5000])))
            for key in keys:
                if chance.random() < 0.6:
                    transaction.delete(key)
    pages = environment.info()["last_pgno"] + 1
    environment.close()
    return os.stat(path / "data.mdb").st_size // PAGE_BYTES, pages


def test_R21_a_file_that_lacks_free_pages_alone_is_whole(tmp_path: Path) -> None:
    """LMDB does not write a page that its transaction gave back: many healthy files end early."""
    short = 0
    for seed in range(60):
        path = tmp_path / str(seed)
        there, counted = _churn(path, seed)
        short += there < counted
        with (path / "data.mdb").open("rb") as file:
            assert not lacks_used_pages(file, PAGE_BYTES)
    assert short > 10


@pytest.mark.parametrize("seed", range(12))
def test_R21_a_file_whose_used_pages_are_gone_is_damaged(tmp_path: Path, seed: int) -> None:
    """Cut by half, a file has lost pages that are in use."""
    there, _ = _churn(tmp_path, seed)
    os.truncate(tmp_path / "data.mdb", max(2, there // 2) * PAGE_BYTES)
    with (tmp_path / "data.mdb").open("rb") as file:
        assert lacks_used_pages(file, PAGE_BYTES)


@pytest.mark.parametrize("environment", ["meta", "payload"])
@pytest.mark.parametrize("length", [5000, 4096, 100])
def test_R21_a_file_without_its_first_pages_is_damaged(tmp_path: Path, environment: str, length: int) -> None:
    """One line says so, and the environment is closed: put back whole, the file opens in this process."""
    with Stores(tmp_path / "store") as stores:
        opened = stores.open()
        opened.promise(1)
        opened.accept("s", 1)
        opened.store.close()
        data = stores.path / environment / "data.mdb"
        whole = data.read_bytes()
        os.truncate(data, length)
        with pytest.raises(StoreDamaged) as error:
            stores.open()
        assert "\n" not in str(error.value)
        data.write_bytes(whole)
        assert orders(stores.open().durable.heads) == {"s": (1, 1)}


DIES_WHILE_IT_READS = """
import os, signal, sys
from pathlib import Path
from replicator.adapters.store_record import open_environment
with open_environment(Path(sys.argv[1]), 2**20, readonly=True).begin():
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("part", ["meta", "payload"])
def test_I12_a_reader_that_died_holds_no_pages(stores: Stores, part: str) -> None:
    """What was there when it began stays as long as it counts as reading: the file would grow without end."""
    opened = stores.open()
    opened.promise(1)
    opened.accept("s", 1, os.urandom(MIB))
    opened.settle()
    subprocess.run([sys.executable, "-c", DIES_WHILE_IT_READS, stores.path / part], check=False)
    environment = (opened.store._payload if part == "payload" else opened.store._meta)._environment
    before = environment.info()["map_size"]
    for number in range(2, 40 if part == "payload" else 500):
        if part == "payload":
            opened.mark(opened.accept("s", number, os.urandom(MIB)))
        else:
            opened.promise(number)
    assert environment.info()["map_size"] == before
