"""The weaker and the stronger promise, by settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integration.cluster import Cluster, now


def test_memory_survives_the_death_of_processes(tmp_path: Path) -> None:
    """With durability memory status says so, and what committed outlives the SIGKILL of all nodes."""
    with Cluster(tmp_path, 3, durability="memory") as cluster:
        cluster.start()
        primary = cluster.wait_commits(20)[0]["node"]
        members = cluster.wait(lambda: _all_members(cluster, primary), what="everybody's status")
        assert [member["durability"] for member in members] == ["memory"] * 3
        since = now()
        cluster.kill_all()
        cluster.start()
        cluster.wait_tenure(since)
        cluster.wait_commits(5, since)
        assert cluster.lost() == []


def _all_members(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    """All three as that node's status has them; none before all are primary or backup."""
    members = [m for m in cluster[name].members().values() if m["role"] in ("primary", "backup")]
    return members if len(members) == 3 else []


@pytest.mark.parametrize(
    ("acks", "outcome", "holders"), [("local", "StoredLocally", 0), ("all", "Committed", 3)]
)
def test_when_a_ticket_ends(tmp_path: Path, acks: str, outcome: str, holders: int) -> None:
    """It ends once this node has stored it, or once all members that are up hold it; both replicate."""
    with Cluster(tmp_path, 3, acks=acks) as cluster:
        cluster.start()
        primary = cluster.wait_tenure()["node"]
        cluster.wait(lambda: _all_members(cluster, primary), what="all members")
        since = now()
        reports = cluster.wait_commits(20, since)
        assert {report["outcome"] for report in reports} == {outcome}
        if holders:
            cluster.wait(
                lambda: len(cluster.entries("committed", since=since)[-1]["holders"]) == holders,
                what="a ticket that waited for all",
            )

        def replicated() -> bool:
            streams = [m["streams"][0] for m in _all_members(cluster, primary) if m["streams"]]
            return len(streams) == 3 and all(s["commit"] and s["commit"]["sequence"] > 1 for s in streams)

        cluster.wait(replicated, what="the commit point on all members")
        if acks == "all":  # a member that is down is not waited for
            gone = next(name for name in cluster.nodes if name != primary)
            cluster[gone].kill()
            since = now()
            reports = cluster.wait_commits(20, since)
            assert gone not in reports[-1]["holders"]
        assert cluster.entries("failed") == []
