"""Engine and worker die apart: neither outlives the other unnoticed, and nothing is left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.integration.cluster import Cluster, Node, is_alive, now

LONG_LEASE: dict[str, Any] = {
    "lease_s": "2",
    "lease_max_s": "2",
    "election_timeout_min_s": "2.5",
    "election_timeout_max_s": "3",
}


ENGINE = """
import os, sys
from pathlib import Path
from replicator import Replicator, Settings

_, program, directory, *again = sys.argv
replicator = Replicator(Settings(data_dir=Path(directory))).__enter__()
tenure = next(replicator.tenures(20))
print(os.getpid(), tenure.epoch, *(each.payload.decode() for each in tenure.restored.values()), flush=True)
if not again:
    tenure.submit("s", b"state").result(20)
    os.execv(sys.executable, [sys.executable, "-c", program, program, directory, "again"])
replicator.close()
"""


def _sockets(node: Node) -> list[str]:
    return sorted(path.name for path in node.data_dir.glob("*.sock"))


def test_the_worker_follows_its_killed_engine(tmp_path: Path) -> None:
    """After SIGKILL of the engine alone its worker ends by itself, and leaves no process, socket or lease."""
    with Cluster(tmp_path, 3) as cluster:
        cluster.start()
        node = cluster[cluster.wait_tenure()["node"]]
        cluster.wait_commits(10, node=node.name)
        workers = node.worker_pids
        assert len(workers) == 1
        assert _sockets(node) == ["admin.sock"]
        since = now()
        node.kill_engine()
        cluster.wait(lambda: not any(map(is_alive, workers)), what="the worker's end")
        ended_after_s = now() - since
        assert _sockets(node) == []
        taken = cluster.wait_tenure(since)
        assert taken["node"] != node.name
        print(f"worker ended after {ended_after_s:.3f} s, takeover after {taken['at'] - since:.3f} s")
        cluster.wait_commits(10, since, taken["node"])
        node.start()  # the store is free
        cluster.wait(lambda: cluster.entries("started", node.name, since), what="a new life")
        assert cluster.lost() == []


def test_an_engine_that_starts_itself_anew_has_its_store_back(tmp_path: Path) -> None:
    """By exec, in the same process: the former program's worker is gone before the new one gives up."""
    command = [sys.executable, "-c", ENGINE, ENGINE, str(tmp_path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    (first_pid, *first), (second_pid, *second) = map(str.split, done.stdout.splitlines())
    assert first_pid == second_pid
    assert (first, second) == (["1"], ["2", "state"])
    assert not list(tmp_path.glob("*.sock"))


def test_the_engine_hears_of_its_killed_worker(tmp_path: Path) -> None:
    """After SIGKILL of the worker alone the tenure ends at once, what was in flight raises an error that says
    why, and another worker is started."""
    with Cluster(tmp_path, 3, interval_s=0.005, **LONG_LEASE) as cluster:
        cluster.start()
        old = cluster.wait_tenure()
        node = cluster[old["node"]]
        cluster.wait_commits(10, node=node.name)
        (worker,) = node.worker_pids
        since = now()
        node.stop_worker()  # so that something is certainly in flight when it dies
        cluster.wait(lambda: cluster.entries("submitted", node.name, since), what="a ticket that stays open")
        node.kill_worker()
        (ended,) = cluster.wait(lambda: cluster.entries("ended", node.name, since), what="the tenure's end")
        assert ended["epoch"] == old["epoch"]
        assert "the worker was killed by SIGKILL" in ended["reason"]
        unknown = cluster.wait(lambda: cluster.entries("unknown", node.name, since), what="the open ticket")
        assert all("the worker was killed by SIGKILL" in entry["error"] for entry in unknown)
        cluster.wait(lambda: node.worker_pids not in ([], [worker]), what="another worker")
        cluster.wait_commits(10, cluster.wait_tenure(since)["at"])
        assert node.is_running
        assert cluster.lost() == []


def test_a_second_engine_on_the_same_directory(tmp_path: Path) -> None:
    """It fails with one clear error, and the first one goes on as if nothing had been."""
    with Cluster(tmp_path, 1) as cluster:
        node = cluster["n1"]
        node.start()
        tenure = cluster.wait_tenure()
        twin = Node("twin", tmp_path / "twin", node.environ, [])
        twin.start()
        try:
            assert twin.wait() == 1
            since = now()
            twin.poll()
            (error,) = [entry["error"] for entry in twin.entries if entry["kind"] == "error"]
            assert error.startswith("StoreInUse: ")
            assert str(node.data_dir) in error
        finally:
            twin.close()
        cluster.wait_commits(10, since)
        assert cluster.entries("tenure") == [tenure]
        assert node.members()["n1"]["role"] == "primary"
