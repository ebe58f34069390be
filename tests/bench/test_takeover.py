"""The history that the failover measurements are judged by finds what it should find."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.takeover.history import History
from tests.integration.cluster import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """Nodes that have never run: their lines are the test's."""
    return Cluster(tmp_path, 3)


def say(cluster: Cluster, name: str, kind: str, at: float, **facts: Any) -> None:
    with cluster[name].log.open("a") as log:
        log.write(json.dumps({"kind": kind, "at": at, **facts}) + "\n")


def test_a_takeover_and_its_first_commit_are_found(cluster: Cluster) -> None:
    """The first tenure after an instant, and the first commit that its node reports."""
    say(cluster, "n1", "tenure", 1.0, epoch=1)
    say(cluster, "n2", "tenure", 2.0, epoch=2)
    say(cluster, "n1", "committed", 2.5, stream="chain", digest="a", position=[1, 1])
    say(cluster, "n2", "committed", 3.0, stream="chain", digest="b", position=[2, 2])
    history = History(cluster)
    tenure = history.tenure_since(1.5)
    assert tenure is not None
    assert (tenure["node"], tenure["epoch"]) == ("n2", 2)
    commit = history.commit_since(2.0, "n2")
    assert commit is not None
    assert commit["digest"] == "b"
    assert history.tenure_since(2.5) is None


def test_a_lost_commit_is_found(cluster: Cluster) -> None:
    """A commit is kept if what a later tenure restored descends from it; a sibling of it does not."""
    for digest, parent in (("a", ""), ("b", "a"), ("c", "b")):
        say(cluster, "n1", "submitted", 1.0, digest=digest, parent=parent)
    say(cluster, "n1", "committed", 1.5, stream="chain", digest="b", position=[1, 2])
    say(cluster, "n2", "restored", 2.0, epoch=2, stream="chain", digest="c")
    say(cluster, "n2", "tenure", 2.0, epoch=2)
    assert History(cluster).lost() == []
    say(cluster, "n3", "restored", 3.0, epoch=3, stream="chain", digest="a")
    say(cluster, "n3", "tenure", 3.0, epoch=3)
    assert History(cluster).lost() == ["b"]


def test_two_active_tenures_are_found(cluster: Cluster) -> None:
    """Spans of one node may touch; those of two nodes may not, however long ago the one began."""
    say(cluster, "n1", "active", 1.5, epoch=1, since=1.0)
    say(cluster, "n1", "active", 2.0, epoch=1, since=1.5)
    say(cluster, "n2", "active", 2.6, epoch=2, since=2.1)
    assert History(cluster).overlaps() == []
    say(cluster, "n3", "active", 2.4, epoch=3, since=2.2)
    assert History(cluster).overlaps() == ["n2 and n3 for 400.0 ms"]
