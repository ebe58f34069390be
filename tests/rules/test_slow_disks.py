"""R5, R11, R21: disks that take longer to write a promise down than a claim has time, or hang."""

from __future__ import annotations

import pytest

from replicator.core.effects import EndTenure, Fetch, Notice, StartTenure, Transfer, WritePromise
from replicator.core.events import StoreHangs
from replicator.core.phase import Phase
from replicator.model import Epoch, NodeId, Role
from tests.rules.cluster import PROBED, Cluster
from tests.rules.test_full import committed
from tests.rules.test_publishing import serving

STEP_S = 0.05


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


def hanging(*commands: str) -> Cluster:
    """a's disk hangs: it says nothing, and writes nothing of what b and c hold."""
    cluster = serving().do("submit a s 1").live(0.5).do(*commands)
    return cluster.forget().do("hang a", "submit a s 2")


def test_R21_a_primary_whose_disk_hangs_hands_over() -> None:
    """What b and c hold would never commit: a counts with its own disk, and a majority lends it the lease."""
    cluster = hanging().live(4.9)
    assert not cluster.effects("a", EndTenure)
    cluster.live(0.4)
    assert cluster.effects("a", EndTenure) == [EndTenure(Epoch(1), "the disk hangs")]
    assert cluster.effects("a", Transfer) == [Transfer(NodeId("b"))]
    cluster.do("revoke a", "grant b").live(0.5).do("submit b s 3").live(0.5)
    assert committed(cluster, "b") == [("s", 3)]
    cluster.do("go_on a").live(1.0)
    assert cluster.state("a").heads == cluster.state("b").heads


def test_R21_so_does_one_whose_adoption_is_never_written() -> None:
    """Those of the others are."""
    cluster = serving().do("submit a s 1").live(0.5).do("crash a").live(1.2).do("start a").live(1.2).forget()
    cluster.do("grant b", *PROBED, "sync b", "hang b").live(4.9)
    assert cluster.core("b")._primary.phase is Phase.RECOVERING
    cluster.live(0.6)
    assert cluster.effects("b", Transfer) == [Transfer(NodeId("a"))]


def test_R21_so_does_one_that_never_holds_what_it_lacked() -> None:
    """a has adopted all it had, brings what b and c committed without it, and cannot write that down."""
    cluster = Cluster("a", "b", "c").with_primary("b").do("submit b s 1").live(0.5).do("cut a b", "cut a c")
    cluster.do("submit b s 2").live(0.2).do("revoke b", "resign b").live(0.2)
    cluster.do("mend a b", "mend a c").live(1.0).forget().do("grant a")
    while not cluster.effects("a", Fetch):
        cluster.do("advance 0.01", "deliver", "sync")
    cluster.do("sync", "hang a").live(4.9)
    reign = cluster.core("a")._primary.reign
    assert reign is not None
    assert reign.has_adopted
    cluster.live(0.6)
    assert cluster.effects("a", Transfer) == [Transfer(NodeId("b"))]
    cluster.do("revoke a", "grant b").live(0.5)
    assert [head.sequence for tenure in cluster.effects("b", StartTenure) for head in tenure.heads] == [2]


def write_a_batch(cluster: Cluster, name: str) -> None:
    """The disk does what it has begun, and begins the next."""
    cluster._let(lambda one: one.name == "_synced" and one.owner == name)


def test_R21_so_does_one_whose_disk_hangs_right_after_it_has_written_something() -> None:
    """b and c have acknowledged s and t when a writes s down, and then nothing: no other word comes of t."""
    cluster = serving().live(0.5).do("submit a s 1", "publish a")
    write_a_batch(cluster, "a")
    cluster.do("submit a t 1", "publish a", "sync b c", "deliver")
    write_a_batch(cluster, "a")
    cluster.do("hang a").live(5.3)
    assert committed(cluster, "a") == [("s", 1)]
    assert cluster.effects("a", Transfer) == [Transfer(NodeId("b"))]
    cluster.do("revoke a", "grant b").live(0.5)
    (tenure,) = cluster.effects("b", StartTenure)
    assert [(head.stream, head.sequence) for head in tenure.heads] == [("s", 1), ("t", 1)]


def test_R21_it_stays_where_nobody_else_can_be_primary() -> None:
    """It goes on when its disk does."""
    cluster = hanging("engine b gone", "engine c gone").live(8.0)
    assert not cluster.effects("a", EndTenure)
    cluster.do("go_on a").live(0.5)
    assert committed(cluster, "a") == [("s", 2)]


def test_R21_a_disk_that_is_only_slower_than_the_others_keeps_its_primary() -> None:
    """Whatever it writes shows that it goes on."""
    cluster = serving().forget()
    for sequence in range(1, 5):
        cluster.do("hang a", f"submit a s {sequence}").live(3.0).do("go_on a").live(0.2)
    assert committed(cluster, "a") == [("s", 1), ("s", 2), ("s", 3), ("s", 4)]
    assert not cluster.effects("a", EndTenure)


def hand_over_once_told(cluster: Cluster) -> None:
    """What waits for a's disk shows by nothing but the store's own word that it does."""
    cluster.live(8.0)
    assert not cluster.effects("a", EndTenure)
    cluster.node("a").deliver(StoreHangs(True))
    cluster.live(0.5)
    assert cluster.effects("a", EndTenure) == [EndTenure(Epoch(1), "the disk hangs")]
    assert cluster.effects("a", Transfer) == [Transfer(NodeId("b"))]
    cluster.do("revoke a", "grant b").live(0.5).do("submit b s 3").live(0.5)
    assert committed(cluster, "b") == [("s", 3)]


def test_R21_so_does_one_whose_store_says_that_its_disk_hangs() -> None:
    """The publication was lost, and nobody is told of it again before the own disk holds it."""
    hand_over_once_told(hanging().do("lose a"))


def test_R21_also_while_the_publisher_waits_for_that_disk() -> None:
    """Of a large checkpoint the last message with the manifest never leaves."""
    cluster = hanging()
    cluster.waiting = [one for one in cluster.waiting if one.name != "_publish"]
    hand_over_once_told(cluster)


def test_R21_a_disk_that_went_on_in_time_ends_no_tenure() -> None:
    """Before there was anybody to hand over to."""
    cluster = hanging("engine b gone", "engine c gone").live(1.0)
    cluster.node("a").deliver(StoreHangs(True))
    assert cluster.core("a").status()["hangs"]
    cluster.live(1.0).do("go_on a")
    cluster.node("a").deliver(StoreHangs(False))
    cluster.live(0.5).do("engine b there", "engine c there").live(2.0)
    assert not cluster.effects("a", EndTenure)
    assert committed(cluster, "a") == [("s", 2)]
    assert [notice.text for notice in cluster.effects("a", Notice)] == [
        "the disk hangs: nothing is written here",
        "the disk goes on",
    ]
