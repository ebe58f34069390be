"""Warm standby: the backups' engines see what commits."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.integration.cluster import Cluster, now


def _has_followed(cluster: Cluster, name: str, count: int) -> bool:
    return len(cluster.entries("followed", name)) >= count


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_backups_get_what_commits(tmp_path: Path, isolation: str) -> None:
    """Every backup's `follow()` gives committed checkpoints, newer each time; after a takeover it goes on."""
    with Cluster(tmp_path, 3, streams=2, follow=True, isolation=isolation) as cluster:
        cluster.start()
        primary = cluster.wait_tenure()["node"]
        for backup in cluster.nodes.keys() - {primary}:
            cluster.wait(partial(_has_followed, cluster, backup, 10), what=f"follow on {backup}")
        since = now()
        cluster[primary].kill()
        taken = cluster.wait_tenure(since)["node"]
        (backup,) = cluster.nodes.keys() - {primary, taken}
        cluster.wait(lambda: len(cluster.entries("followed", backup, since)) >= 10, what="follow goes on")
        committed = {entry["digest"] for entry in cluster.entries("committed")}
        restored = {entry["digest"] for entry in cluster.entries("restored")}
        cluster[taken].kill()  # nothing commits any more: the logs are complete
        committed |= {entry["digest"] for entry in cluster.entries("committed")}
        unheard = {entry["digest"] for entry in cluster.entries("followed")} - committed - restored
        assert len(unheard) <= 4, "at most one per stream and killed primary was committed and not reported"
        for node in cluster.nodes:
            for stream in ("stream-0", "stream-1"):
                counts = [e["count"] for e in cluster.entries("followed", node) if e["stream"] == stream]
                assert counts == sorted(set(counts))
