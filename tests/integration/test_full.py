"""All disks are full: somebody leads all the same, serves what there is, and goes on with room (R21)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from replicator import Committed, Replicator, Settings, Superseded
from tests.integration.cluster import SCRIPT, Cluster, now

MIB = 2**20
DISK_BYTES = 64 * MIB
LEFT_BYTES = 8 * MIB  # less than what is left for promises
LARGE_BYTES = 8 * MIB


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path], None]]:
    """Mounts a small disk; skips where none can be."""
    mounted = []

    def mount(path: Path) -> None:
        path.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "replicator-test", str(path)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no file system can be mounted here")
        mounted.append(path)

    yield mount
    for path in mounted:
        subprocess.run(["umount", "--lazy", path], check=True)  # the last process may be going still


def fill(directory: Path) -> Path:
    """Leave less room on the disk than a store wants for promises alone."""
    room, ballast = os.statvfs(directory), directory / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - LEFT_BYTES)
    return ballast


def test_with_all_disks_full_there_is_a_primary(tmp_path: Path, small_disk: Callable[[Path], None]) -> None:
    """A checkpoint finds no room on any disk. The primary dies: the next one is as full, and restores what
    there is; once there is room new checkpoints commit, by themselves."""
    with Cluster(tmp_path, 3, payload_bytes=LARGE_BYTES, interval_s=3600) as cluster:

        def members() -> list[dict[str, Any]]:
            known = max((node.members() for node in cluster.nodes.values() if node.is_running), key=len)
            return list(known.values())

        def is_held_by_all() -> bool:
            return [bool(one["streams"]) and bool(one["streams"][0]["head"]) for one in members()] == [
                True
            ] * 3

        def primary_of_full() -> str | None:
            full = [one for one in members() if one["full"]]
            return next((one["node"] for one in full if one["active"] and len(full) == 3), None)

        for node in cluster.nodes.values():
            small_disk(node.data_dir)
        cluster.start()
        (committed,) = cluster.wait_commits(1)
        cluster.wait(is_held_by_all, what="three that hold the only checkpoint")
        cluster.kill_all()
        ballasts = [fill(node.data_dir) for node in cluster.nodes.values()]
        for node in cluster.nodes.values():  # the next checkpoint has nothing in common with this one
            node.start(sys.executable, str(SCRIPT), str(node.log), "1", "0.5", *[str(LARGE_BYTES)] * 2)
        first = cluster.wait(primary_of_full, what="a primary, and three full disks")
        cluster[first].kill()
        killed_at = now()
        taken = cluster.wait_tenure(killed_at)
        assert taken["node"] != first
        restored = [entry for entry in cluster.entries("restored") if entry["epoch"] == taken["epoch"]]
        assert [entry["digest"] for entry in restored] == [committed["digest"]]
        assert len(cluster.entries("committed")) == 1
        for ballast in ballasts:
            ballast.unlink()
        cluster.wait_commits(1, killed_at, timeout_s=30.0)
        assert cluster.lost() == []


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_a_deletion_makes_room(
    tmp_path: Path, small_disk: Callable[[Path], None], isolation: Literal["process", "thread"]
) -> None:
    """What is in flight finds no room and keeps its place; the engine deletes its stream, and both end."""
    small_disk(tmp_path / "data")
    with Replicator(Settings(data_dir=tmp_path / "data", isolation=isolation)) as replicator:
        tenure = next(replicator.tenures(10))
        tenure.submit("s", os.urandom(DISK_BYTES // 3)).result(10)
        stuck = tenure.submit("s", os.urandom(DISK_BYTES // 3))
        with pytest.raises(TimeoutError):
            stuck.result(0.5)
        deletion = tenure.delete("s")
        assert isinstance(deletion.result(10), Committed)
        assert stuck.result(10) == Superseded(stuck.position, deletion.position)
        assert isinstance(tenure.submit("s", os.urandom(DISK_BYTES // 3)).result(10), Committed)
