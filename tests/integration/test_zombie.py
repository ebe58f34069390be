"""A primary that sleeps through its own deposition."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.cluster import Cluster, now


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_a_stopped_primary_that_wakes_up_is_a_backup(tmp_path: Path, isolation: str) -> None:
    """Continued after another has taken over, it reports no commit, tells its engine, and follows."""
    with Cluster(tmp_path, 3, isolation=isolation) as cluster:
        cluster.start()
        old = cluster.wait_tenure()
        node = cluster[old["node"]]
        cluster.wait_commits(10, node=node.name)
        stopped_at = now()
        node.stop()
        new = cluster.wait_tenure(stopped_at)
        assert new["node"] != node.name
        cluster.wait_commits(10, stopped_at, new["node"])
        continued_at = now()
        node.cont()
        ended = cluster.wait(lambda: cluster.entries("ended", node.name, continued_at), what="its end")
        assert [entry["epoch"] for entry in ended] == [old["epoch"]]
        assert ended[0]["reason"]

        def catches_up() -> bool:
            own = node.members().get(node.name)
            if own is None or own["role"] != "backup":
                return False
            return [stream["head"]["epoch"] for stream in own["streams"]] == [new["epoch"]]

        cluster.wait(catches_up, what="the zombie as a backup that holds the new primary's head")
        # Only the one report that the engine was in the midst of when it was stopped may come to its end.
        assert len(cluster.entries("committed", node.name, continued_at)) <= 1
        assert cluster.entries("tenure", since=continued_at) == []
        assert cluster.lost() == []
