"""R25 and R26: who may take over in good order, and when a tenure goes on instead."""

from __future__ import annotations

import pytest

from replicator.core.effects import Abort, Commit, EndTenure, HandoverRefused, Publish, StartTenure, Transfer
from replicator.core.events import Tick
from replicator.model import Role
from tests.rules.cluster import Cluster


def _serving() -> Cluster:
    """Primary a with a committed checkpoint that all hold, and heartbeats answered by both backups."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1", "settle")
    return cluster.live(0.3).forget()


def _refusals(cluster: Cluster) -> list[str]:
    return [effect.reason for effect in cluster.effects("a", HandoverRefused)]


def test_R26_the_named_node_takes_over() -> None:
    """It is able and holds everything: the tenure ends at once, and leadership goes to it and nobody else."""
    cluster = _serving().do("resign a c")
    assert not cluster.effects("a", EndTenure)  # not before it is heard to be there
    cluster.do("advance 0.001", "deliver a->c", "deliver c->a")
    assert cluster.effects("a", Transfer) == [Transfer("c")]  # type: ignore[arg-type]
    assert _refusals(cluster) == []


@pytest.mark.parametrize(
    ("before", "successor", "reason"),
    [
        ("engine c gone", "c", "c cannot be primary: no engine is ready there, or it is joining"),
        ("cut a c", "c", "c is not reachable, or its disk hangs"),
        ("crash c", "c", "c is not reachable, or its disk hangs"),
        ("advance 0.01", "a", "a is not another member of this cluster"),
        ("advance 0.01", "x", "x is not another member of this cluster"),
    ],
)
def test_R26_a_named_node_that_cannot_take_over_is_refused(before: str, successor: str, reason: str) -> None:
    """Within the time of a claim, with the reason; the tenure goes on, and nobody else is handed anything."""
    cluster = _serving().do(before).live(0.35).forget()
    cluster.do(f"resign a {successor}").live(0.6)
    assert _refusals(cluster) == [reason]
    assert not cluster.effects("a", EndTenure)
    assert not cluster.effects("a", Transfer)
    cluster.do("submit a s 2", "settle")
    assert [effect.position.sequence for effect in cluster.effects("a", Commit)] == [2]


def test_R26_a_named_node_whose_disk_hangs_is_not_said_to_be_out_of_reach_only() -> None:
    """It cannot promise what the primary leads, so the primary hears nothing of it; the status does."""
    cluster = _serving().do("hang c", "revoke a", "grant b").live(3).forget()
    cluster.do("resign b c").live(0.6)
    assert [effect.reason for effect in cluster.effects("b", HandoverRefused)] == [
        "c is not reachable, or its disk hangs"
    ]


def test_R26_a_named_node_that_is_not_ready_is_waited_for() -> None:
    """What stands against it passes within the time of a claim: then it takes over."""
    cluster = _serving().do("engine c gone").live(0.1).do("resign a c").live(0.2)
    assert not cluster.effects("a", Transfer)
    cluster.do("engine c there").live(0.15)
    assert cluster.effects("a", Transfer) == [Transfer("c")]  # type: ignore[arg-type]


def test_R26_the_last_checkpoint_commits_first_and_is_held_by_the_successor() -> None:
    """The tenure does not end before the named node has what a majority has; what comes meanwhile is held
    back, and is published after all when the handover comes to nothing."""
    cluster = _serving().do("submit a s 2", "publish a", "drop a->c", "sync a b", "resign a c")
    cluster.do("deliver b->a", "submit a t 1")
    assert [effect.position.sequence for effect in cluster.effects("a", Commit)] == [2]
    assert not cluster.effects("a", EndTenure)
    cluster.do("cut a c").live(0.6)
    (refusal,) = _refusals(cluster)
    lacks = "c lacks the newest checkpoint of 1 streams"
    assert refusal in ("c is not reachable, or its disk hangs", lacks)
    cluster.do("settle")
    assert {effect.stream for effect in cluster.effects("a", Commit)} == {"s", "t"}
    assert not cluster.effects("a", Abort)


def test_R26_a_handover_ends_although_the_engine_goes_on() -> None:
    """An engine that submits without a pause does not keep its tenure: what was submitted before commits."""
    cluster = _serving().do("submit a s 2", "handover a c", "advance 0.001", "deliver a->c", "deliver c->a")
    cluster.do("submit a s 3", "live 0.1")
    assert [effect.position.sequence for effect in cluster.effects("a", Commit)] == [2]
    assert len(cluster.effects("a", Abort)) == 1
    assert cluster.effects("a", Transfer) == [Transfer("c")]  # type: ignore[arg-type]


def test_R26_an_operator_ends_no_tenure_that_nobody_could_go_on_with() -> None:
    """Asked by an operator a primary stays where it is if nobody is able; asked by its engine it leaves."""
    cluster = _serving().do("engine b gone", "engine c gone").live(0.3).do("handover a").live(0.6)
    assert _refusals(cluster) == ["no other node is reachable and can be primary"]
    assert not cluster.effects("a", EndTenure)
    cluster.do("resign a")
    assert cluster.effects("a", Transfer) == [Transfer(None)]


def test_R26_without_a_name_who_can_best_takes_over() -> None:
    """A node without an engine, or one that lacks more, is not chosen."""
    assert _serving().do("resign a").effects("a", Transfer) == [Transfer("b")]  # type: ignore[arg-type]
    cluster = _serving().do("engine b gone").live(0.15).do("resign a")
    assert cluster.effects("a", Transfer) == [Transfer("c")]  # type: ignore[arg-type]


def test_R26_conditions_do_not_replace_what_was_asked() -> None:
    """The engine resigns; an operator who asks for another way meanwhile changes nothing."""
    cluster = _serving().do("submit a s 2", "resign a", "handover a c", "settle")
    assert cluster.effects("a", Transfer) == [Transfer("b")]  # type: ignore[arg-type]
    assert _refusals(cluster) == []


def test_R25_the_elector_is_steady_from_its_first_word_on() -> None:
    """Said again it does not begin to count anew; the tenure is handed over once it means it, and says so."""
    cluster = _serving().do("revoke a").live(1.5).do("revoke a")
    assert not cluster.effects("a", EndTenure)
    cluster.live(0.7)
    assert [end.reason for end in cluster.effects("a", EndTenure)] == [
        "the elector names this node no longer"
    ]


def test_R26_what_was_held_back_is_published_when_the_handover_comes_to_nothing() -> None:
    """The successor was able, so new checkpoints waited; then it lacks one for too long."""
    cluster = _serving().do("submit a s 2", "publish a", "sync a b", "deliver b->a", "handover a c")
    cluster.do("advance 0.001", "deliver a->c Heartbeat", "deliver c->a HeartbeatAnswer", "submit a t 1")
    assert [effect.stream for effect in cluster.effects("a", Publish)] == ["s"]
    cluster.do("drop", "cut a c").live(0.6)
    assert _refusals(cluster) == ["c lacks the newest checkpoint of 1 streams"]
    assert [effect.stream for effect in cluster.effects("a", Publish)] == ["s", "t"]
    assert not cluster.effects("a", Abort)


def test_R26_what_was_held_back_ends_with_its_tenure() -> None:
    """A claim above ends it amid a handover; the next gives the same position to content of its own (I4)."""
    cluster = _serving().do(
        "submit a s 2", "publish a", "sync a b", "deliver b->a", "drop a->c", "handover a c"
    )
    cluster.do("advance 0.001", "deliver a->c Heartbeat", "deliver c->a HeartbeatAnswer", "submit a t 1")
    cluster.core("a")._primary.claim_above("for the test")
    cluster.node("a").deliver(Tick())
    cluster.do("deliver a->c Probe", "deliver c->a ProbeAnswer", "sync a")
    cluster.do("deliver a->c Claim", "sync c", "deliver c->a Promised")
    assert cluster.core("a")._primary.phase.name == "RECOVERING"
    cluster.do("deliver a->c Heartbeat", "deliver c->a HeartbeatAnswer", "submit a u 1")
    while not cluster.effects("a", StartTenure):
        cluster.do("deliver a->b", "sync b", "deliver b->a", "sync a", "publish a")
    (abort,) = cluster.effects("a", Abort)
    cluster.do("submit a u 1", "drop", "cut a c").live(0.8)
    assert _refusals(cluster) == ["it is not known yet what c holds"]
    assert [each.handle for each in cluster.effects("a", Publish) if each.stream == "u"] == [abort.handle + 1]
    assert cluster.effects("a", Abort) == [abort]


def _unreported() -> Cluster:
    """a has claimed a second epoch without b, which missed five commits; now b answers heartbeats, and what
    it has promised with is on its way."""
    cluster = _serving().do("cut a b", "cut b c")
    for number in range(5):
        cluster.do(f"submit a s{number} 1", "settle")
    cluster.live(0.5)
    cluster.core("a")._primary.claim_above("for the test")
    cluster.live(1.0).do("mend a b", "mend b c").forget()
    return _without_pages(cluster, 8)


def _without_pages(cluster: Cluster, count: int) -> Cluster:
    for _ in range(count):
        for _ in range(4):
            cluster.do("drop b->a Promised", "deliver", "sync")
        cluster.do("advance 0.05")
    return cluster


def test_R26_who_has_not_told_what_it_holds_is_not_taken_for_one_that_holds_everything() -> None:
    """It lacks nothing that is known of. Named, it is waited for, then refused; else another one is found."""
    cluster = _unreported().do("handover a b")
    _without_pages(cluster, 20)
    assert _refusals(cluster) == ["it is not known yet what b holds"]
    assert not cluster.effects("a", Transfer)
    cluster.live(1.0).do("handover a b").live(1.0)
    assert cluster.effects("a", Transfer) == [Transfer("b")]  # type: ignore[arg-type]
    cluster = _unreported().do("handover a")
    _without_pages(cluster, 8)
    assert cluster.effects("a", Transfer) == [Transfer("c")]  # type: ignore[arg-type]


@pytest.mark.parametrize("before", ["", "handover a x|live 0.6", "handover a b|grant b|revoke a|live 1.0"])
def test_R26_what_a_handover_asked_for_ends_with_it(before: str) -> None:
    """Refused or done, and whoever was primary since: to take over one must have been heard lately, and not
    just at some time after the operator asked."""
    cluster = _serving().do(*filter(None, before.split("|")))
    if before.endswith("1.0"):
        cluster.do("handover b a", "grant a", "revoke b").live(1.0)
    assert cluster.core("a").role is Role.PRIMARY
    cluster.do("crash b").live(1.0).forget()
    cluster.do("engine a gone")
    assert cluster.effects("a", Transfer)[0] == Transfer("c")  # type: ignore[arg-type]
