"""R8, R11, R21, R25: a full disk is a preference of who leads, never a bar; all disks full still have a
primary, which restores, deletes and waits."""

from __future__ import annotations

import pytest
from msgspec import structs

from replicator.core.effects import (
    Accept,
    Commit,
    EndTenure,
    Fetch,
    HandoverRefused,
    Notice,
    Release,
    StartTenure,
    Supersede,
    Transfer,
)
from replicator.core.events import AcceptRefused, HeadRotten, StoreRoom, Why
from replicator.core.messages import Claim, ProbeAnswer
from replicator.core.phase import Phase
from replicator.core.window import Flight
from replicator.model import Digest, Epoch, Head, Role, StreamName
from tests.rules.cluster import Cluster
from tests.rules.test_fencing import manifest
from tests.rules.test_late_words import reign_of
from tests.rules.test_publishing import serving

S, T = StreamName("s"), StreamName("t")


def all_full(*commands: str) -> Cluster:
    """a is primary of three with s in sequence 1, and no disk has room left."""
    cluster = serving().do("submit a s 1", *commands).live(0.5)
    return cluster.do("full a", "full b", "full c").live(0.2).forget()


def positions(heads: tuple[Head, ...]) -> list[tuple[str, int]]:
    return [(head.stream, head.sequence) for head in heads]


def slowly(cluster: Cluster, seconds: float) -> Cluster:
    """Time passes, and no fetch comes to an end."""
    for _ in range(round(seconds / 0.05)):
        cluster.do("advance 0.05", "deliver", "sync")
    return cluster


def _flights(cluster: Cluster) -> dict[StreamName, Flight]:
    return cluster.core("a")._primary.window.flights


def committed(cluster: Cluster, name: str) -> list[tuple[str, int]]:
    return [(commit.stream, commit.position.sequence) for commit in cluster.effects(name, Commit)]


def test_R21_with_all_disks_full_a_node_takes_over_restores_and_deletes() -> None:
    """A takeover needs no room; nor does a deletion, which makes some. A submission waits for it."""
    cluster = all_full("submit a t 1").do("crash a").live(1).do("grant b").live(1.0)
    (tenure,) = cluster.effects("b", StartTenure)
    assert [(head.stream, head.sequence) for head in tenure.heads] == [("s", 1), ("t", 1)]
    cluster.do("submit b s 2").live(1.0).do("delete b t 2").live(1.0)
    assert committed(cluster, "b") == [("t", 2)]
    assert not cluster.effects("b", Transfer)
    assert not cluster.effects("b", EndTenure)
    cluster.do("room b", "room c").live(0.5)
    assert committed(cluster, "b") == [("t", 2), ("s", 2)]


def test_R25_with_all_disks_full_the_elector_may_change_its_mind() -> None:
    """Whomever it names takes over from the one before, once, and gives nothing back."""
    cluster = all_full().do("revoke a", "grant b").live(4).do("revoke b", "grant c").live(4)
    cluster.do("revoke c", "grant a").live(4)
    assert [str(cluster.core(name).role) for name in "abc"] == ["primary", "backup", "backup"]
    assert [len(cluster.effects(name, Transfer)) for name in "abc"] == [1, 1, 1]
    assert [len(cluster.effects(name, StartTenure)) for name in "abc"] == [1, 1, 1]


def test_R25_a_tenure_stays_where_nobody_better_could_go_on() -> None:
    """The elector names another, or nobody, steadily. Who has room does not hand over to full disks, nor
    anybody to nodes without an engine; the engine is not asked about it, so it is told nothing."""
    cluster = serving().do("full b", "full c", "revoke a", "grant b").live(5)
    assert not cluster.effects("a", EndTenure)
    assert not cluster.effects("b", Transfer)
    cluster.do("room c").live(0.3)
    assert cluster.effects("a", Transfer) == [Transfer("c")]  # type: ignore[arg-type]
    cluster = serving().do("engine b gone", "engine c gone", "revoke a").live(5)
    assert not cluster.effects("a", EndTenure)
    assert not cluster.effects("a", HandoverRefused)


def test_R21_a_full_node_leaves_the_grant_to_one_with_room() -> None:
    """It waits a round for word of one; where room is without an engine it leads all the same (T17)."""
    cluster = serving().do("full b", "crash a").live(1).do("grant b", "settle")
    assert [answer.has_room for answer in cluster.sent("c", ProbeAnswer)] == [True]
    assert cluster.effects("b", Transfer) == [Transfer(None)]
    assert not cluster.sent("b", Claim)
    cluster = serving().do("full b", "engine c gone", "crash a").live(1).forget().do("grant b", "settle")
    assert [answer.has_room for answer in cluster.sent("c", ProbeAnswer)] == [False]
    assert cluster.sent("b", Claim) == []
    cluster.do("advance 0.31", "settle")
    assert cluster.sent("b", Claim)
    assert cluster.live(0.5).core("b").role is Role.PRIMARY
    assert not cluster.effects("b", Transfer)


def test_R21_word_of_room_counts_that_comes_after_the_majority() -> None:
    """b would promise and is full; c, which has room, is heard within the round."""
    cluster = all_full().do("crash a", "start a").live(1.2).do("room c", "grant a")
    cluster.do("deliver *->* Probe", "deliver b->a ProbeAnswer")
    assert not cluster.sent("a", Claim)
    cluster.do("deliver c->a ProbeAnswer")
    assert cluster.effects("a", Transfer) == [Transfer(None)]


def test_R11_a_full_primary_claims_above_a_member_that_is_stuck() -> None:
    """It is its own tenure that goes on: nobody else is asked whether it has room."""
    cluster = serving().do("submit a s 1").live(0.5).do("full a").live(0.2)
    cluster.do("cut a c").live(1.5)
    cluster.hear("c", "b", Claim(5, 1))
    cluster.do("sync c", "mend a c").forget().live(5)
    (tenure,) = cluster.effects("a", StartTenure)
    assert tenure.unchanged
    assert not cluster.effects("a", Transfer)
    assert cluster.state("c").promise == cluster.state("a").promise


def starved() -> Cluster:
    """a is primary with a checkpoint in flight for which b and c have no room, and c gets stuck above it."""
    cluster = serving().do("submit a s 1").live(0.5).do("full b", "full c").live(0.2)
    cluster.do("submit a s 2").live(0.5).do("cut a c").live(1.5)
    cluster.hear("c", "b", Claim(5, 1))
    return cluster.do("sync c", "mend a c").forget()


def test_R11_a_bump_waits_while_what_is_in_flight_finds_no_room() -> None:
    """It would suspend an active tenure for as long; afterwards the stuck member is claimed above."""
    cluster = starved().live(5)
    assert reign_of(cluster, "a").epoch == 1
    assert cluster.core("a")._primary.tenure.is_active(cluster.state("a").now)
    assert not cluster.effects("a", Notice)
    cluster.do("room b").live(1.0)
    assert committed(cluster, "a") == [("s", 2)]
    (tenure,) = cluster.effects("a", StartTenure)
    assert tenure.unchanged
    assert reign_of(cluster, "a").epoch > 5


def test_R11_a_bump_does_not_wait_where_the_lease_needs_it() -> None:
    """Without b the stuck member is what a majority lacks: the tenure is suspended anyhow."""
    cluster = starved().do("crash b").live(2.5)
    assert any("claiming above" in notice.text for notice in cluster.effects("a", Notice))


def lacking(*full: str) -> Cluster:
    """b recovers, granted, a chosen head that only a holds, for which its own disk has no room."""
    cluster = serving().do("submit a s 1", "submit a t 1").live(0.5)
    cluster.do("full b", "full c", "submit a s 2").live(0.5).do("room b", "room c").live(0.01)
    cluster.do("crash a", "start a").live(1.2)
    assert [cluster.state(name).heads[S].sequence for name in "abc"] == [2, 1, 1]
    return cluster.do(*full).forget().do("grant b").live(0.25)


def test_R8_a_full_recovery_goes_to_who_lacks_nothing() -> None:
    """All disks are full: the one that holds every chosen head needs no room to serve it (T17)."""
    cluster = lacking("full a", "full b", "full c").live(0.3)
    assert cluster.effects("b", Transfer) == [Transfer("a")]  # type: ignore[arg-type]
    assert not cluster.effects("b", StartTenure)


def test_R8_a_full_recovery_waits_where_nobody_is_better_placed() -> None:
    """The chosen head is asked for once, and again when there is room (R9)."""
    cluster = lacking("full a", "full b", "full c", "engine a gone").live(0.3)
    assert cluster.core("b")._primary.phase is Phase.RECOVERING
    assert len(cluster.effects("b", Fetch)) == len(cluster.effects("b", Accept)) == 1
    assert not cluster.effects("b", Transfer)
    cluster.do("room b").live(0.2)  # a holds it, and needs no room to adopt it
    (tenure,) = cluster.effects("b", StartTenure)
    assert positions(tenure.heads) == [("s", 2), ("t", 1)]


def test_R8_who_lacks_another_head_is_not_better_placed() -> None:
    """It would have to give leadership back at once: nobody can serve without room."""
    cluster = lacking("full a", "full b", "full c", "rot a t").live(0.2)
    assert cluster.core("b")._primary.phase is Phase.RECOVERING
    assert not cluster.effects("b", Transfer)


def test_R22_a_rotten_head_on_a_full_disk_is_fetched_once() -> None:
    """Its store refuses it for want of room: it waits for that, whatever it is told, and is then mended."""
    cluster = serving().do("submit a s 1").live(0.5).do("full c", "rot c s").live(3.0)
    assert len(cluster.effects("c", Fetch)) == 1
    assert not cluster.state("c").heads[S].readable
    cluster.do("crash a", "grant b").live(3.0)  # whose adoption passes it by, so it is told of it
    assert len(cluster.effects("c", Fetch)) == 1
    cluster.do("room c").live(0.5)
    assert cluster.state("c").heads[S].readable


def test_R22_what_rots_in_flight_on_a_full_disk_goes_out_again_with_room() -> None:
    """Nobody else has it, and the own store has no room for it again: the engine's copy is waited with."""
    cluster = serving().do("full b", "full c").live(0.2).do("submit a s 1").live(0.3)
    cluster.do("full a", "rot a s").live(1.0)
    assert not cluster.state("a").heads[S].readable
    cluster.do("room a", "room b", "room c").live(1.0)
    assert committed(cluster, "a") == [("s", 1)]
    assert cluster.state("a").heads[S].readable


def test_R22_another_rotten_head_is_tried_for_itself() -> None:
    """What found no room for one says nothing of the next."""
    cluster = serving().do("submit a s 1").live(0.5).do("full c", "rot c s").live(0.5)
    assert len(cluster.effects("c", Fetch)) == 1
    heads = cluster.state("c").heads
    heads[S] = structs.replace(heads[S], digest=bytes(32))
    cluster.node("c").deliver(HeadRotten(S, Digest(bytes(32))))
    assert len(cluster.effects("c", Fetch)) == 2


def test_R21_a_withheld_stream_waits_for_room_while_others_are_served() -> None:
    """It can be read again elsewhere, and has no room here: one fetch, and another when there is room."""
    cluster = serving().do("submit a t 1").live(0.3).do("cut a b", "cut b c", "submit a s 1").live(0.5)
    cluster.do("crash a", "crash c", "rot a s", "mend a b", "mend b c", "start a").live(1.2).do("grant a")
    (tenure,) = cluster.live(3.0).effects("a", StartTenure)
    assert [head.stream for head in tenure.unavailable] == ["s"]
    cluster.do("full a").live(0.3).forget().do("start c").live(5.0)
    assert len([fetch for fetch in cluster.effects("a", Fetch) if fetch.sources == ("c",)]) == 1
    assert not cluster.effects("a", EndTenure)
    cluster.do("room a").live(1.0)
    (tenure,) = cluster.effects("a", StartTenure)
    assert [(head.stream, head.sequence) for head in tenure.heads] == [("s", 1), ("t", 1)]


def test_R21_a_deletion_waits_for_nothing_that_finds_no_room() -> None:
    """It makes room: what was in flight and what waited are superseded by it, and what comes next waits."""
    cluster = all_full().do("submit a s 2").live(0.5).do("submit a s 3", "delete a s 4").live(0.5)
    assert committed(cluster, "a") == [("s", 4)]
    superseded, handles = cluster.effects("a", Supersede), cluster.effects("a", Release)
    assert [each.by.sequence for each in superseded] == [4, 4]
    assert len(handles) == len({each.handle for each in handles}) == 3
    cluster.forget().do("submit a s 5", "submit a t 1").live(0.5)
    assert committed(cluster, "a") == []
    cluster.do("room a", "room b").live(0.5)
    assert committed(cluster, "a") == [("s", 5), ("t", 1)]


def test_R21_it_overtakes_where_the_primary_alone_has_room() -> None:
    """Stored here and refused by the others it cannot commit either. One that is not out yet, or that no
    deletion waits behind, stays where it is, and nothing overtakes while a majority has room (T20)."""
    cluster = serving().do("full b", "full c").live(0.2).do("submit a s 1", "submit a t 1").live(0.3)
    cluster.do("submit a t 2", "submit a u 1", "delete a u 2", "delete a s 2")
    cluster.do("advance 0.07")
    assert {stream: flight.sequence for stream, flight in _flights(cluster).items()} == {
        "s": 2,
        "t": 1,
        "u": 1,
    }
    cluster.live(0.5)
    assert committed(cluster, "a") == [("s", 2), ("u", 2)]
    cluster = serving().do("full c").live(0.2).do("cut a b", "submit a s 1", "delete a s 2").live(0.2)
    assert _flights(cluster)[S].sequence == 1


@pytest.mark.parametrize(
    ("command", "reason"),
    [("handover a c", "c has no room on its disk"), ("handover a", "no other node has room on its disk")],
)
def test_R26_a_full_node_does_not_take_over_from_one_with_room(command: str, reason: str) -> None:
    """It would give leadership back (T17); where all are full it may."""
    cluster = serving().do("full b", "full c").live(0.3).do(command).live(0.7)
    assert [refused.reason for refused in cluster.effects("a", HandoverRefused)] == [reason]
    assert not cluster.effects("a", EndTenure)
    cluster.do("full a", command).live(0.3)
    assert len(cluster.effects("a", Transfer)) == 1


def test_R26_one_with_room_comes_first_and_stands_first() -> None:
    """Leaving, a primary names it, whatever it lacks; the elector hears that a full one is behind others."""
    cluster = serving().do("submit a s 1").live(0.3).do("full b").live(0.2)
    assert [cluster.core(name).is_behind for name in "abc"] == [False, True, False]
    cluster.do("resign a")
    assert cluster.effects("a", Transfer) == [Transfer("c")]  # type: ignore[arg-type]
    cluster.node("b").deliver(StoreRoom(False))
    assert not cluster.core("b").is_behind


def test_R21_what_a_stuck_member_says_of_its_disk_counts() -> None:
    """c was heard full, is stuck above since, and has room again: with it there is a majority to commit."""
    cluster = serving().do("submit a s 1").live(0.5).do("full b", "full c").live(0.2)
    cluster.do("submit a s 2").live(0.5).do("cut a c").live(1.5)
    cluster.hear("c", "b", Claim(5, 1))
    cluster.do("sync c", "mend a c").live(5).forget().do("room c").live(5)
    assert committed(cluster, "a") == [("s", 2)]


def test_R21_a_deletion_overtakes_where_only_who_is_down_has_room() -> None:
    """c is dead, b full: what is in flight has to wait, its deletion has not."""
    cluster = serving().do("submit a s 1").live(0.5).do("crash c", "full b").live(0.5).forget()
    cluster.do("submit a s 2").live(0.5).do("delete a s 3").live(2)
    assert committed(cluster, "a") == [("s", 3)]


def test_R21_room_on_a_store_that_is_no_member_counts_for_nothing() -> None:
    """c's old disk is back after another one has taken its place: no grant is left to it."""
    cluster = serving().do("submit a s 1").live(0.5).do("cut a c", "cut b c").live(0.3)
    for name in "ab":
        state = cluster.state(name)
        assert state.record is not None
        members = [
            structs.replace(m, incarnation=b"N" * 16) if m.node == "c" else m for m in state.record.members
        ]
        state.record = structs.replace(state.record, version=state.record.version + 2, members=tuple(members))
    cluster.do("full a", "full b").live(0.2).do("crash a").live(1).do("start a", "mend b c", "mend a c")
    cluster.live(1.2).forget().do("grant b").live(3)
    assert not cluster.effects("b", Transfer)


def test_R21_a_grant_is_left_to_one_with_room_for_a_while_only() -> None:
    """b has room and hears a alone, which all others hear: nobody but a can lead."""
    cluster = Cluster("a", "b", "c", "d", "e").do("settle").live(1)
    cluster.do(*(f"cut {pair[0]} {pair[1]}" for pair in ("bc", "bd", "be", "cd", "ce", "de")))
    cluster.do(*(f"full {name}" for name in "acde")).live(0.3).forget()
    for _ in range(8):
        for name in "ab":
            cluster.do(f"grant {name}").live(1)
            if cluster.core(name).role is Role.PRIMARY:
                break
            cluster.do(f"revoke {name}")
    assert cluster.core("a").role is Role.PRIMARY
    assert cluster.effects("a", Transfer)


def test_R25_what_is_no_tenure_yet_is_no_reason_to_stay() -> None:
    """A recovery waits for bytes; the elector steadily names another, whom this node does not hear."""
    cluster = serving().do("submit a s 1", "submit a t 1").live(0.5)
    cluster.do("full b", "full c", "submit a s 2").live(0.5).do("room b", "room c").live(0.01)
    cluster.do("crash a", "start a").live(1.2).do("engine a gone", "cut b c", "grant b")
    assert slowly(cluster, 3.0).core("b")._primary.phase is Phase.RECOVERING
    slowly(cluster.do("grant c", "revoke b"), 9.0)
    assert cluster.core("b")._primary.phase is Phase.OFF
    assert cluster.live(0.5).core("c").role is Role.PRIMARY


def test_R21_a_disk_too_full_for_one_stream_is_mended_of_all_others() -> None:
    """c is down; b has refused a checkpoint that is too large for its disk, and is full until that would fit.
    What it may have room for is fetched, one at a time, and what it has refused is not asked for again."""
    cluster = serving().do("crash c").live(0.5)
    cluster.node("b").deliver(StoreRoom(full=True))
    cluster.node("b").deliver(AcceptRefused(manifest(S), Epoch(1), Why.FULL))  # of s an older checkpoint
    cluster.do("cut a b", "submit a s 1", "submit a t 1", "submit a large 1").live(0.05)
    large = _flights(cluster)[StreamName("large")].manifest
    assert large is not None
    cluster.node("b").deliver(AcceptRefused(large, Epoch(1), Why.FULL))
    cluster.do("mend a b").forget()
    for _ in range(60):
        cluster.live(0.05)
        assert len(cluster.state("b").fetching) <= 1
    assert {commit.stream for commit in cluster.effects("a", Commit)} == {"s", "t"}
    assert {fetch.stream for fetch in cluster.effects("b", Fetch)} == {"s", "t"}
