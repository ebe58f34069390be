"""All nodes lose their power at once, at any moment, again and again: what was committed is still there."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.integration.cluster import Cluster, now

OUTAGE_AFTER_S_MAX = 0.5  # after the first commit of a life: some commits, or a hundred


@pytest.mark.parametrize(("isolation", "outages"), [("process", 5), ("thread", 1)])
def test_every_commit_is_restored_after_all_nodes_were_killed(
    tmp_path: Path, isolation: str, outages: int
) -> None:
    """SIGKILL to all engines and workers at random moments loses no committed checkpoint."""
    seed = random.randrange(2**32)
    print(f"seed={seed}")
    moments = random.Random(seed)
    with Cluster(tmp_path, 3, streams=3, interval_s=0.005, isolation=isolation) as cluster:
        since = 0.0
        for _ in range(outages):
            cluster.start()
            cluster.wait_commits(1, since)
            time.sleep(moments.uniform(0, OUTAGE_AFTER_S_MAX))  # the moment is what is random here
            cluster.kill_all()
            since = now()
        cluster.start()
        tenure = cluster.wait_tenure(since)
        cluster.wait_commits(1, since)
        restored = [entry for entry in cluster.entries("restored") if entry["epoch"] == tenure["epoch"]]
        assert len(restored) == 3
        assert len(cluster.entries("tenure")) > outages
        assert cluster.lost() == []
