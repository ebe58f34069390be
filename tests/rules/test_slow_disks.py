"""R5, R11: disks that take longer to write a promise down than a claim has time."""

from __future__ import annotations

import pytest

from replicator.core.effects import StartTenure, Transfer, WritePromise
from replicator.model import Role
from tests.rules.cluster import Cluster

STEP_S = 0.05
PROBED = ("deliver *->* Probe", "deliver *->* ProbeAnswer")


def live_slowly(cluster: Cluster, seconds: float, sync_s: float) -> None:
    """Everything else comes at once, and all that the disks have to write once in *sync_s*."""
    for step in range(round(seconds / STEP_S)):
        is_due = (step + 1) % round(sync_s / STEP_S) == 0
        cluster.do(f"advance {STEP_S}", "deliver", *(["sync"] if is_due else []))


def test_R11_a_node_whose_promise_is_not_written_in_time_gives_the_grant_away() -> None:
    """Others may have more luck with it: nobody else claims as long as the elector names this node (T17)."""
    cluster = Cluster("a", "b", "c").do("grant a", *PROBED).forget().do("advance 0.4")
    assert not cluster.effects("a", Transfer)
    cluster.do("advance 0.2")
    assert cluster.effects("a", Transfer) == [Transfer(None)]
    assert cluster.core("a").role is Role.BACKUP
    cluster.do("revoke a", "grant b").live(0.5)
    assert cluster.effects("b", StartTenure)


@pytest.mark.parametrize("sync_s", [0.4, 0.6, 1.0, 3.0])
def test_R11_a_claim_has_more_time_after_each_for_which_it_was_too_short(sync_s: float) -> None:
    """All disks are slow, and the grant stays with a: what is written too late is of no use to any claim."""
    cluster = Cluster("a", "b", "c").do("grant a")
    live_slowly(cluster, 20 * sync_s, sync_s)
    assert cluster.effects("a", StartTenure)
    assert len(cluster.effects("a", WritePromise)) <= 8


def test_R5_a_claim_has_its_whole_time_once_the_own_promise_is_written() -> None:
    """Own disk and others' take their time one after the other."""
    cluster = Cluster("a", "b", "c").do("grant a", *PROBED, "advance 0.4", "sync a")
    cluster.do("deliver", "advance 0.4", "sync", "deliver", "sync").live(0.3)
    assert [tenure.epoch for tenure in cluster.effects("a", StartTenure)] == [1]
