"""The small environment by itself: what its process's death, or a reader's, leaves of it (R2, R21)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from replicator.adapters.store_meta import BALLAST_BYTES, Meta
from replicator.core.effects import WritePromise
from replicator.model import Incarnation, NodeId, Owner, Promise

ME = Incarnation(b"i" * 16)
READER = """
import os, sys
from pathlib import Path
from replicator.adapters.store_meta import Meta
meta = Meta(Path(sys.argv[1]), readonly=True)
txn = meta._environment.begin()
os._exit(0)
"""


def founded(path: Path, lease_max_s: float = 1.0) -> Meta:
    """One that has just been made."""
    path.mkdir()
    meta = Meta(path, lease_max_s)
    meta.found("c", NodeId("edge-1"), ME)
    meta.write_session("boot", "disk", clean=False)
    return meta


def promise(meta: Meta, epoch: int, node: str = "edge-1") -> None:
    meta.write([WritePromise(Promise(epoch, Owner(node, bytes(16), bytes(16))))], 0)


def file_bytes(path: Path) -> int:
    """What the environment has taken of the disk."""
    return (path / "data.mdb").stat().st_blocks * 512


def test_a_store_that_was_made_anew_is_not_wiped_once_more(tmp_path: Path) -> None:
    """That its payload had to be wiped is forgotten when its new identity is there, not later."""
    meta = founded(tmp_path / "meta")
    meta.reset()
    assert meta.is_resetting
    meta.close()
    meta = Meta(tmp_path / "meta")
    assert meta.is_resetting
    meta.found("c", NodeId("edge-1"), ME)
    meta.close()
    meta = Meta(tmp_path / "meta")
    assert not meta.is_resetting
    assert meta.identity is not None
    meta.close()


def test_r21_promises_have_room_before_the_disk_is_full(tmp_path: Path) -> None:
    """Spare pages are taken when the store is made; promises take no more than those."""
    meta = founded(tmp_path / "meta")
    made_bytes = file_bytes(tmp_path / "meta")
    assert made_bytes >= BALLAST_BYTES
    for epoch in range(1, 100):
        promise(meta, epoch)
    assert file_bytes(tmp_path / "meta") == made_bytes
    meta.close()


def test_r21_a_reader_that_died_holds_no_room(tmp_path: Path) -> None:
    """What it had begun to read it would hold for ever, and every promise would take more."""
    meta = founded(tmp_path / "meta")
    made_bytes = file_bytes(tmp_path / "meta")
    subprocess.run([sys.executable, "-c", READER, os.fspath(tmp_path / "meta")], check=True)
    for epoch in range(1, 100):
        promise(meta, epoch)
    assert file_bytes(tmp_path / "meta") == made_bytes
    meta.close()


def test_r24_for_how_long_the_lease_may_be_lent_is_written_with_the_promise(tmp_path: Path) -> None:
    """A process that dies without a word has lent what its own maximum allows, and no longer what earlier
    ones did to another owner."""
    meta = founded(tmp_path / "meta", 5.0)
    promise(meta, 1)
    meta.close()
    meta = Meta(tmp_path / "meta", 0.5)
    meta.write_session("boot", "disk", clean=False)
    promise(meta, 2, "edge-2")
    meta.close()
    meta = Meta(tmp_path / "meta", 0.5)
    assert meta.lent_max_s == 0.5
    meta.close()
