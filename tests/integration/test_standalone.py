"""A node without peers: the same program, durable local checkpoints, no election."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.cluster import Cluster, now


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
