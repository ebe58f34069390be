"""All disks are full: somebody leads all the same, serves what there is, and goes on with room (R21)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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
    """A new stream finds no room on any disk. The primary dies: the next one is as full, and serves what it
    has; once there is room the new stream commits, by itself."""
    with Cluster(tmp_path, 3) as cluster:

        def primary_of_full() -> str | None:
            """The primary, once all are full and hold the same head of the small stream."""
            members = list(cluster["n1"].members().values())
            heads = {
                str(each["head"])
                for one in members
                for each in one["streams"]
                if each["stream"] == "stream-0"
            }
            if len(members) < 3 or len(heads) > 1 or not all(one["full"] for one in members):
                return None
            return next((str(one["node"]) for one in members if one["active"]), None)

        def commits(stream: str) -> list[dict[str, Any]]:
            return [each for each in cluster.entries("committed") if each["stream"] == stream]

        for node in cluster.nodes.values():
            small_disk(node.data_dir)
        cluster.start()
        cluster.wait_commits(5)
        cluster.kill_all()
        ballasts = [fill(node.data_dir) for node in cluster.nodes.values()]
        for node in cluster.nodes.values():
            sizes = f"1000,{LARGE_BYTES}"
            node.start(sys.executable, str(SCRIPT), str(node.log), "2", "3600", sizes, "1000")  # one of each
        first = cluster.wait(primary_of_full, what="a primary, and three full disks")
        cluster[first].kill()
        killed_at = now()
        taken = cluster.wait_tenure(killed_at)
        assert taken["node"] != first
        restored = [entry for entry in cluster.entries("restored") if entry["epoch"] == taken["epoch"]]
        assert [entry["stream"] for entry in restored] == ["stream-0"]
        assert not commits("stream-1")
        for ballast in ballasts:
            ballast.unlink()
        cluster.wait(lambda: commits("stream-1"), timeout_s=30.0, what="a commit of the new stream")
        assert cluster.lost() == []
