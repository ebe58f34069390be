"""Hiccups: a worker that stands still for less, or for longer, than its lease lasts (R24, R25)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.integration.cluster import Cluster, Entry, now

# The elector is so patient that it names nobody else meanwhile, however slow the machine is.
PATIENT: dict[str, Any] = {
    "election_timeout_min_s": "3",
    "election_timeout_max_s": "3.5",
    "leader_fallback_s": "3",
}
SHORT_LEASE: dict[str, Any] = {"lease_s": "0.15", "heartbeat_interval_s": "0.05"}
LONG_LEASE: dict[str, Any] = {"lease_s": "2.5", "lease_max_s": "2.5", "heartbeat_interval_s": "0.5"}
LONGER_LEASE: dict[str, Any] = {
    **LONG_LEASE,
    "lease_s": "4",
    "lease_max_s": "4",
    "election_timeout_min_s": "4.5",
    "election_timeout_max_s": "4.7",
}


def stop_primary_s_worker(cluster: Cluster) -> tuple[Entry, float]:
    """Have commits, then the primary's worker stand still while its engine goes on; the tenure, and since
    when."""
    cluster.start()
    tenure = cluster.wait_tenure()
    cluster.wait_commits(10)
    stopped_at = now()
    cluster[tenure["node"]].stop_worker()
    return tenure, stopped_at


def test_a_short_hiccup_suspends_and_resumes(tmp_path: Path) -> None:
    """A worker that stood still for longer than its lease, but was not replaced, goes on in the same epoch:
    the engine was suspended meanwhile, had no commit reported, and was not started again."""
    with Cluster(tmp_path, 3, **PATIENT, **SHORT_LEASE) as cluster:
        cluster.start()
        tenure = cluster.wait_tenure()
        node = cluster[tenure["node"]]
        cluster.wait_commits(10)
        node.stop_worker()
        lapsed_at = now() + 0.4
        cluster.wait(lambda: now() > lapsed_at + 0.6, what="the end of the hiccup")
        # Suspended, the engine waits; one submit that had begun before may be logged late.
        assert len(cluster.entries("submitted", node.name, lapsed_at)) <= 1
        continued_at = now()
        node.cont()
        commits = cluster.wait_commits(10, continued_at, node.name)
        assert {commit["position"][0] for commit in commits} == {tenure["epoch"]}
        assert cluster.entries("committed", since=lapsed_at)[0]["at"] >= continued_at
        assert cluster.entries("tenure") == [tenure]
        assert cluster.entries("ended") == cluster.entries("unknown") == []


def test_a_hiccup_within_the_lease_is_not_noticed(tmp_path: Path) -> None:
    """A worker that stood still for less than its lease has neither suspended nor ended anything."""
    with Cluster(tmp_path, 3, **PATIENT, **LONG_LEASE) as cluster:
        cluster.start()
        tenure = cluster.wait_tenure()
        node = cluster[tenure["node"]]
        cluster.wait_commits(10)
        node.stop_worker()
        later = now() + 0.4
        cluster.wait(lambda: cluster.entries("submitted", node.name, later), what="an engine that is active")
        node.cont()
        cluster.wait_commits(10, now(), node.name)
        assert cluster.entries("tenure") == [tenure]
        assert cluster.entries("ended") == []
        assert "suspended" not in node.output()


def test_a_long_hiccup_ends_the_tenure_before_another_starts(tmp_path: Path) -> None:
    """A worker that stands still while its engine lives loses the tenure to another node; by then the engine
    had stopped, and once the worker goes on the engine is told that the tenure is over."""
    with Cluster(tmp_path, 3) as cluster:
        tenure, stopped_at = stop_primary_s_worker(cluster)
        node = cluster[tenure["node"]]
        taken = cluster.wait_tenure(stopped_at)
        assert taken["node"] != node.name
        own = cluster.entries("submitted", node.name, stopped_at)
        # A submit that began under the lease may be logged after it, but no second one.
        assert sum(entry["at"] >= taken["instants"]["adopted"] for entry in own) <= 1
        node.cont()
        (ended,) = cluster.wait(lambda: cluster.entries("ended", node.name, stopped_at), what="its end")
        assert ended["epoch"] == tenure["epoch"]
        cluster.wait_commits(10, taken["at"], taken["node"])
        assert cluster.lost() == []


def test_a_lender_restarted_with_a_shorter_lease_waits_for_what_it_has_lent(tmp_path: Path) -> None:
    """The primary's worker stands still while the others are started again with another profile: nobody else
    is active before the engine, which still counts on the lease of before, has stopped (R24)."""
    with Cluster(tmp_path, 3, **LONGER_LEASE) as cluster:
        tenure, stopped_at = stop_primary_s_worker(cluster)
        node = cluster[tenure["node"]]
        for other in (each for each in cluster.nodes.values() if each is not node):
            other.kill()
            other.environ = {k: v for k, v in other.environ.items() if k[11:].lower() not in LONGER_LEASE}
            other.start(profile="fast")
        taken = cluster.wait_tenure(stopped_at)
        cluster.wait(lambda: now() > stopped_at + 4, what="the end of the lease")
        own = [entry for entry in cluster.entries("submitted", node.name) if entry["active"][1]]
        assert own[-1]["active"][0] < taken["instants"]["adopted"]
        node.cont()
