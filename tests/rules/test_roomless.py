"""R8, R9, R11, R21: what no majority has room for, chosen or in flight, holds up nothing else."""

from __future__ import annotations

from replicator.core.effects import Abort, EndTenure, Notice, StartTenure, Transfer
from replicator.core.messages import Claim
from replicator.model import StreamName
from tests.rules.cluster import Cluster
from tests.rules.test_full import all_full, committed, lacking, positions, starved
from tests.rules.test_late_words import reign_of
from tests.rules.test_publishing import serving

S = StreamName("s")


def test_R8_what_no_majority_has_room_for_and_never_committed_is_dropped() -> None:
    """After a claim's time an older one is served in its place, which needs no room where it is."""
    cluster = lacking("full a", "full b", "full c", "engine a gone").live(2.0)
    (tenure,) = cluster.effects("b", StartTenure)
    assert (positions(tenure.heads), tenure.unavailable) == ([("s", 1), ("t", 1)], ())
    assert not cluster.effects("b", Transfer)
    cluster.do("submit b s 2", "room b", "room c").live(0.5)
    assert committed(cluster, "b") == [("s", 2)]
    cluster.do("room a").live(0.5)
    assert len({cluster.state(name).heads[S].digest for name in "abc"}) == 1


def test_R8_what_no_majority_has_room_for_and_may_have_committed_is_withheld() -> None:
    """c is not heard, and may hold it too: the other streams are served, and this one when there is room."""
    cluster = lacking("full a", "full b", "engine a gone", "crash c").live(2.0)
    (tenure,) = cluster.effects("b", StartTenure)
    assert (positions(tenure.heads), positions(tenure.unavailable)) == ([("t", 1)], [("s", 2)])
    cluster.do("submit b s 3").live(0.2)
    (abort,) = cluster.effects("b", Abort)
    assert abort.reason == "the stream's newest checkpoint is waited for (R8)"
    cluster.do("delete b t 2").live(0.5)
    assert committed(cluster, "b") == [("t", 2)]
    cluster.forget().do("room b").live(1.5)
    (tenure,) = cluster.effects("b", StartTenure)
    assert positions(tenure.heads) == [("s", 2), ("t", 2)]


def _held_alone() -> Cluster:
    """a alone holds s in sequence 2, and comes back; nobody has room."""
    cluster = serving().do("submit a s 1", "submit a t 1").live(0.5).do("full b", "full c").live(0.2)
    cluster.do("submit a s 2").live(0.5).do("full a").live(0.2)
    return cluster.do("crash a").live(0.1).do("start a").live(1.5).forget()


def test_R9_what_no_majority_has_room_for_holds_up_its_own_stream_alone() -> None:
    """It is not restored before a majority has adopted it, whatever becomes of the others meanwhile (I6)."""
    cluster = _held_alone().do("grant a").live(2.0)
    (tenure,) = cluster.effects("a", StartTenure)
    assert (positions(tenure.heads), positions(tenure.unavailable)) == ([("t", 1)], [("s", 2)])
    assert any("finds no room on a majority of disks" in one.text for one in cluster.effects("a", Notice))
    assert not cluster.core("a")._primary._commits.covered()  # so no change of members ends (R27)
    cluster.do("delete a t 2").live(0.5)
    assert committed(cluster, "a") == [("t", 2)]
    cluster.forget().do("room c").live(1.5)
    (tenure,) = cluster.effects("a", StartTenure)
    assert positions(tenure.heads) == [("s", 2)]
    assert not tenure.unavailable


def test_R9_a_backup_with_room_is_waited_for_however_slow_it_is() -> None:
    """The primary's own disk is full and holds it: it needs no room there."""
    cluster = _held_alone().do("room c", "engine c gone", "grant a")
    for _ in range(40):
        cluster.do("advance 0.05", "deliver", "sync")
    assert reign_of(cluster, "a").is_late
    assert not cluster.effects("a", StartTenure)
    (tenure,) = cluster.live(0.5).effects("a", StartTenure)
    assert positions(tenure.heads) == [("s", 2), ("t", 1)]


def test_R11_what_a_higher_epoch_finds_no_room_for_ends_the_tenure_and_not_the_others() -> None:
    """In flight as the primary claims above a stuck member: after a claim's time its stream is withheld, or,
    not stored here either, its outcome is unknown; deletions go on."""
    cluster = starved().do("crash b").live(2.5).do("start b").live(3)
    (tenure,) = cluster.effects("a", StartTenure)
    assert (tenure.heads, positions(tenure.unavailable)) == ((), [("s", 2)])
    assert len(cluster.effects("a", EndTenure)) == 1
    cluster = all_full("submit a t 1").do("cut a c").live(1.5)
    cluster.hear("c", "b", Claim(5, 1))
    cluster.do("sync c", "mend a c").forget()
    while not cluster.do("advance 0.05").core("a")._primary.claimant.bumping:
        cluster.do("settle")
    cluster.do("submit a s 2").live(3)
    assert [abort.reason for abort in cluster.effects("a", Abort)] == [
        "no majority has room for what was in flight"
    ]
    cluster.do("delete a t 2").live(0.5)
    assert committed(cluster, "a") == [("t", 2)]
