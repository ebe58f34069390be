"""A lost disk: the node comes back with an empty one and is put in its old place (R20)."""

from __future__ import annotations

from pathlib import Path

from tests.integration.cluster import Cluster, now


def test_a_wiped_node_counts_again(tmp_path: Path) -> None:
    """It joins, catches up, and then makes a majority with the primary when the third node is gone."""
    with Cluster(tmp_path, 3, streams=2, payload_bytes=300_000) as cluster:
        cluster.start()
        primary = cluster.wait_tenure()["node"]
        wiped, third = sorted(cluster.nodes.keys() - {primary})
        cluster.wait_commits(20)
        cluster[wiped].kill()
        cluster.wait_commits(20, now())  # the others go on
        cluster[wiped].wipe()
        printed = len(cluster[wiped].output())
        cluster[wiped].start()

        def counts_again() -> bool:
            members = cluster[primary].members()
            if wiped not in members or members[primary]["changing"]:
                return False
            lags = [stream["lag_bytes"] for stream in members[wiped]["streams"]]
            return members[wiped]["role"] == "backup" and lags == [0, 0]

        cluster.wait(counts_again, what="the wiped node as a backup that lacks nothing")
        cluster.wait(lambda: "old=joining new=backup" in cluster[wiped].output()[printed:], what="that role")
        cluster[third].kill()
        cluster.wait_commits(20, now(), primary)
        assert len(cluster.entries("tenure")) == 1, "nobody was disturbed"

        since = now()
        cluster[third].start()
        cluster.wait(lambda: cluster.entries("started", third, since), what="the third node")
        cluster[primary].kill()  # and what the wiped node holds is worth restoring
        cluster.wait_tenure(since)
        cluster.wait_commits(10, since)
        assert cluster.lost() == []
