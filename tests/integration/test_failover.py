"""Three engines: found, elect, commit, lose the primary, go on. Nothing committed is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.cluster import Cluster, now


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_the_primary_is_killed_twice(tmp_path: Path, isolation: str) -> None:
    """A backup takes over each time, from the last commit; the killed node returns as a backup."""
    with Cluster(tmp_path, 3, streams=2, isolation=isolation) as cluster:
        cluster.start()
        for _ in range(2):
            primary = cluster.wait_tenure()["node"]
            cluster.wait_commits(20, node=primary)
            since = now()
            cluster[primary].kill()
            taken = cluster.wait_tenure(since)
            assert taken["node"] != primary
            cluster.wait_commits(20, since)
            cluster[primary].start()
        assert cluster.lost() == []


def test_sigterm_hands_over(tmp_path: Path) -> None:
    """A primary that ends in good order leaves no outcome unknown, and another takes over at once: sooner
    than a silent leader is noticed."""
    patience_s = 3.0  # a leader's silence is borne for so long: far more than a handover takes on any machine
    with Cluster(
        tmp_path, 3, election_timeout_min_s=str(patience_s), election_timeout_max_s=str(patience_s + 1)
    ) as cluster:
        cluster.start()
        primary = cluster.wait_tenure()["node"]
        cluster.wait_commits(20)
        since = now()
        cluster[primary].terminate()
        taken = cluster.wait_tenure(since)
        ended = cluster.entries("closed", primary)[-1]["at"]
        assert taken["at"] - ended < patience_s
        assert cluster.entries("unknown") == cluster.entries("failed") == []
        cluster.wait_commits(20, since)
        assert cluster.lost() == []
