"""A node without peers: the same program, durable local checkpoints, no election."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.cluster import Cluster, free_ports, now


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_what_is_committed_is_restored_after_a_kill(tmp_path: Path, isolation: str) -> None:
    """A standalone engine killed with SIGKILL goes on from its last commit or a later state."""
    with Cluster(tmp_path, 1, streams=2, isolation=isolation) as cluster:
        node = cluster["n1"]
        node.start()
        cluster.wait_commits(10)
        node.kill()
        since = now()
        node.start()
        cluster.wait_tenure(since)
        assert len(cluster.entries("restored", since=since)) == 2
        cluster.wait_commits(10, since)
        node.terminate()
        assert cluster.lost() == []
        assert cluster.entries("closed", since=since)


def test_a_standalone_store_is_refused_with_peers_and_stays_as_it_is(tmp_path: Path) -> None:
    """Started with peers it would commit alone what its user takes for replicated: it is refused in one line
    that says what to do, nothing is changed, and without peers all goes on."""
    with Cluster(tmp_path, 1, interval_s=0.005) as cluster:
        node = cluster["n1"]
        node.start()
        cluster.wait_commits(10)
        node.terminate()
        ports = free_ports(3)
        peers = ",".join(f"n{index}=127.0.0.1:{port}" for index, port in enumerate(ports, 1))
        node.start(peers=peers)
        assert node.wait() != 0
        assert "the data directory is that of a standalone node" in node.output()
        since = now()
        node.start()
        cluster.wait_tenure(since)
        assert len(cluster.entries("restored", since=since)) == 1
        cluster.wait_commits(10, since)
        assert cluster.lost() == []


def test_a_clusters_store_is_refused_without_peers_or_with_others(tmp_path: Path) -> None:
    """A member started alone, or with other members, would count quorums of its own: it is refused."""
    with Cluster(tmp_path, 3, interval_s=0.005) as cluster:
        cluster.start()
        cluster.wait_commits(5)
        node = cluster["n1"]
        node.terminate()
        peers = node.environ["REPLICATOR_PEERS"]
        for wrong, reason in (
            ("", "set REPLICATOR_PEERS as before"),
            (peers.rpartition(",")[0], "members cannot be added or removed yet"),
        ):
            node.start(peers=wrong)
            assert node.wait() != 0
            assert reason in node.output()
        since = now()
        node.start()
        cluster.wait(lambda: "n1" in cluster["n2"].members(), what="n1 as a member again")
        cluster.wait_commits(10, since)
        assert cluster.lost() == []
