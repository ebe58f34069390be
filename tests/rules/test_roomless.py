"""R8, R9, R11, R21: what no majority has room for, chosen or in flight, holds up nothing else."""

from __future__ import annotations

import pytest

from replicator.core.effects import Abort, EndTenure, Notice, StartTenure, Transfer
from replicator.core.messages import Claim
from replicator.core.phase import Phase
from replicator.model import StreamName
from tests.rules.cluster import Cluster
from tests.rules.test_full import all_full, committed, lacking, positions, slowly, starved
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
    cluster = slowly(_held_alone().do("room c", "engine c gone", "grant a"), 2.0)
    assert reign_of(cluster, "a").is_late
    assert not cluster.effects("a", StartTenure)
    (tenure,) = cluster.live(0.5).effects("a", StartTenure)
    assert positions(tenure.heads) == [("s", 2), ("t", 1)]


def _bumping(cluster: Cluster) -> Cluster:
    """c is stuck at a higher promise, and a begins to claim above it."""
    cluster.do("cut a c").live(1.5).hear("c", "b", Claim(5, 1))
    cluster.do("sync c", "mend a c").forget()
    while not cluster.do("advance 0.05").core("a")._primary.claimant.bumping:
        cluster.do("settle")
    return cluster


def test_R11_what_a_higher_epoch_finds_no_room_for_ends_the_tenure_and_not_the_others() -> None:
    """In flight as the primary claims above a stuck member: after a claim's time its stream is withheld, or,
    not stored here either, its outcome is unknown; deletions go on."""
    cluster = starved().do("crash b").live(2.5).do("start b").live(3)
    (tenure,) = cluster.effects("a", StartTenure)
    assert (tenure.heads, positions(tenure.unavailable)) == ((), [("s", 2)])
    assert len(cluster.effects("a", EndTenure)) == 1
    cluster = _bumping(all_full("submit a t 1"))
    cluster.do("submit a s 2").live(3)
    assert [abort.reason for abort in cluster.effects("a", Abort)] == [
        "no majority has room for what was in flight"
    ]
    cluster.do("delete a t 2").live(0.5)
    assert committed(cluster, "a") == [("t", 2)]


def test_R9_nothing_is_said_of_room_without_the_lease() -> None:
    """Nobody is heard for a while: that says nothing of their disks."""
    cluster = serving().do("submit a s 1", "submit a t 1").live(0.5).do("full b", "full c", "submit a s 2")
    cluster.live(0.5).do("room b").live(0.01).do("crash a", "start a").live(1.2).do("engine a gone")
    slowly(cluster.forget().do("grant b"), 0.7)
    slowly(cluster.do("cut a b", "cut b c"), 0.4)
    cluster.do("mend a b", "mend b c").live(1.5)
    (tenure,) = cluster.effects("b", StartTenure)
    assert positions((*tenure.heads, *tenure.unavailable)) == [("s", 2), ("t", 1)]


@pytest.mark.parametrize("committed_at_c", [True, False])
def test_R9_who_holds_it_needs_no_room(committed_at_c: bool) -> None:
    """b has room and fetches slowly what lies on full disks: it is neither withheld nor dropped."""
    cluster = serving().do("submit a s 1", "submit a t 1").live(0.5)
    if committed_at_c:
        cluster.do("crash b", "submit a s 2").live(0.5).do("full a", "full c").live(0.2)
        cluster.do("crash a", "start b").live(1.3).do("start a").live(1.2)
    else:
        cluster.do("full b", "full c", "submit a s 2").live(0.5).do("room b").live(0.01)
        cluster.do("full a", "crash a", "start a").live(1.2)
    slowly(cluster.forget().do("engine a gone", "engine c gone", "grant b"), 1.5)
    assert not cluster.effects("b", StartTenure)
    (tenure,) = cluster.live(1.0).effects("b", StartTenure)
    assert positions(tenure.heads) == [("s", 2), ("t", 1)]


def test_R9_a_deletion_needs_no_room() -> None:
    """All disks are full and a tombstone comes slowly from where it lies: it is waited for."""
    cluster = serving().do("submit a s 1", "submit a t 1").live(0.5).do("delete a s 2")
    cluster.do("lose a", "sync a", "lose a", "sync a", "crash a", "start a").live(1.3)
    cluster.do("full a", "full b", "full c", "engine a gone").live(0.1).forget()
    (tenure,) = slowly(cluster.do("grant b"), 1.0).live(1.0).effects("b", StartTenure)
    assert [(head.stream, head.tombstone) for head in tenure.heads] == [("s", True), ("t", False)]


def test_R8_a_late_source_of_what_is_withheld_is_asked_too() -> None:
    """c comes back after the tenure began, and a dies: what b lacks comes from c when there is room."""
    cluster = serving().do("submit a s 1", "submit a t 1").live(0.5).do("full b", "submit a s 2").live(0.5)
    cluster.do("full a", "crash c", "crash a", "start a").live(1.2).do("engine a gone", "grant b").live(2)
    cluster.forget().do("start c").do("engine c gone").live(2).do("crash a", "room b").live(3)
    (tenure,) = cluster.effects("b", StartTenure)
    assert positions(tenure.heads) == [("s", 2), ("t", 1)]


def test_R23_a_new_store_that_holds_what_is_withheld_is_not_to_be_emptied() -> None:
    """The stream does exist: the learner is one of two that hold it."""
    cluster = serving().do("submit a t 1").live(0.5).do("full b").live(0.2).do("submit a s 1").live(0.5)
    cluster.do("crash c", "wipe c", "start c").live(3.0)
    cluster.do("full a", "crash a", "start a").live(1.3).do("engine a gone").forget().do("grant b").live(6)
    assert any("finds no room" in one.text for one in cluster.effects("b", Notice))
    assert not [one.text for one in cluster.effects("b", Notice) if "not taken in" in one.text]


def test_R22_what_is_withheld_and_rots_is_waited_for_as_such() -> None:
    """Its only copy: the next epoch drops it, for it never committed."""
    cluster = _held_alone().do("grant a").live(2.0).forget().do("rot a s").live(1)
    cluster.do("room a", "room b", "room c").live(3)
    assert positions(cluster.effects("a", StartTenure)[-1].heads) == [("s", 1), ("t", 1)]


def test_R11_what_is_stored_here_needs_no_room_here() -> None:
    """In flight over a bump it has filled this disk; the others have room and are slow: it commits."""
    cluster = _bumping(serving().do("submit a s 1").live(0.5))
    cluster.do("submit a s 2")
    while cluster.core("a")._primary.phase is not Phase.DRAINING:
        cluster.do("advance 0.02", "deliver", "sync")
    for _ in range(6):
        cluster.do("lose a", "sync a")
    slowly(cluster.do("full a"), 1.5)
    assert not cluster.effects("a", EndTenure)
    assert committed(cluster.live(0.5), "a") == [("s", 2)]
