"""What a primary does with each heartbeat does not grow with the number of streams (R26, I12)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from replicator.core import above, commit, heartbeat
from replicator.core.commit import Commits
from replicator.core.effects import (
    Commit,
    ForgetTombstone,
    HandoverRefused,
    HeldByAll,
    Notice,
    Standby,
    StartTenure,
    Transfer,
)
from replicator.core.membership import Membership
from replicator.core.messages import Forget
from replicator.core.progress import Follower, Progress
from replicator.model import NodeId, Role, StreamName
from tests.rules.cluster import Cluster

STREAMS = [StreamName(f"s{number}") for number in range(5)]


def serving() -> Cluster:
    """Primary a, with five streams that all hold."""
    cluster = Cluster("a", "b", "c").with_primary("a")
    return cluster.do(*(f"submit a {stream} 1" for stream in STREAMS)).live(0.5)


def calls(patch: pytest.MonkeyPatch, kind: type, name: str) -> list[str]:
    """What that method is called with from now on."""
    honest: Callable[..., object] = getattr(kind, name)
    asked: list[str] = []

    def noted(*args: object) -> object:
        asked.append(str(args[1]))
        return honest(*args)

    patch.setattr(kind, name, noted)
    return asked


def follower_of(cluster: Cluster, primary: str, name: str) -> Follower:
    reign = cluster.core(primary)._primary.reign
    assert reign is not None
    return reign.progress.followers[NodeId(name)]


def test_R27_no_stream_is_looked_at_while_a_learner_catches_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its fetches go on; heartbeats go out without a look at what it will have to hold in the end."""
    cluster = serving().do("crash c", "wipe c", "start c")
    new = cluster.state("c").id
    while not ((learner := follower_of(cluster, "a", "c")).replica == new and learner.is_known):
        cluster.do("advance 0.01", "deliver", "sync a b c")
    asked = calls(monkeypatch, Progress, "commit_point")
    for _ in range(20):
        cluster.do("advance 0.07", "deliver a->* Heartbeat", "deliver *->a HeartbeatAnswer", "sync")
    assert cluster.core("c").role is Role.JOINING
    assert asked == []
    cluster.live(2.0)
    assert cluster.core("c").role is Role.BACKUP


def test_R27_streams_are_looked_at_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change goes on over some heartbeats; none is looked at again once a quorum holds it."""
    monkeypatch.setattr(commit, "STREAMS_PER_BEAT", 2)
    asked = calls(monkeypatch, Commits, "_is_covered")
    cluster = serving().do("crash c", "wipe c", "start c").live(3.0)
    assert cluster.core("c").role is Role.BACKUP
    assert sorted(asked) == sorted([*STREAMS, *STREAMS]), "before the joint record, and before the final one"


def test_R27_what_no_quorum_holds_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """b, which the old set needs without c's first store, has not acknowledged a stream: no final record."""
    cluster = serving().do("crash c", "wipe c", "start c")
    while cluster.state("a").record_order[1] == 1:
        cluster.do("advance 0.01", "settle")
    acked = Progress.acked
    last = STREAMS[0]
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "acked", lambda p, r, s: -1 if (r[0], s) == ("b", last) else acked(p, r, s))
        cluster.live(1.0)
        assert cluster.core("a").status()["changing"]
    cluster.live(1.0)
    assert not cluster.core("a").status()["changing"]
    assert cluster.core("c").role is Role.BACKUP


def test_R23_tombstones_are_looked_at_when_somebody_acknowledges_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """c is down: what it lacks is not looked at with each heartbeat, and forgotten once it is back."""
    cluster = serving().do("crash c").live(0.5)
    cluster.do(*(f"delete a {stream} 2" for stream in STREAMS)).live(0.5)
    asked = calls(monkeypatch, Commits, "_is_held_by_all")
    cluster.live(2.0)
    assert asked == []
    monkeypatch.setattr(commit, "STREAMS_PER_BEAT", 2)
    cluster.forget().do("start c").live(3.0)
    assert [cluster.state(name).heads for name in "abc"] == [{}, {}, {}]
    assert {len(word.tombstones) for word in cluster.sent("a", Forget)} == {1, 2}


def test_R23_a_stream_made_anew_has_no_tombstone_to_forget() -> None:
    """c was down when it was deleted; when it is back the stream exists again."""
    cluster = serving().do("crash c").live(0.5).do("delete a s0 2").live(0.3)
    cluster.do("submit a s0 3").live(0.3).forget().do("start c").live(3.0)
    assert not cluster.effects("a", ForgetTombstone)
    assert not cluster.sent("a", Forget)
    assert {cluster.state(name).heads[STREAMS[0]].sequence for name in "abc"} == {3}
    cluster.do("delete a s0 4").live(1.0)
    assert all(STREAMS[0] not in cluster.state(name).heads for name in "abc")


def test_I12_of_a_deleted_stream_nothing_is_kept_of_the_followers() -> None:
    """c's word that it has the tombstone is lost, then told by its promise: it lacks nothing any longer."""
    cluster = serving().do("crash a", "drop").live(1.5).do("crash b", "start b", "start a").live(1.5)
    cluster.forget().do("grant b")
    follower = _claim_without_c(cluster)
    cluster.do("delete b s0 2")
    for _ in range(6):
        cluster.do("drop c->b Promised", "drop c->b Ack", "deliver", "sync", "publish b")
    assert list(follower.lacking) == [STREAMS[0]]
    cluster.live(5.0)
    assert all(STREAMS[0] not in cluster.state(name).heads for name in "abc")
    assert (follower.lacking, STREAMS[0] in follower.acked, STREAMS[0] in follower.bulk) == ({}, False, False)
    cluster.forget().do("handover b c").live(2.0)
    assert not cluster.effects("b", HandoverRefused)
    assert cluster.effects("b", Transfer) == [Transfer(NodeId("c"))]


def _claim_without_c(cluster: Cluster) -> Follower:
    """b claims, and c's promise is late; it will be asked for again in a moment."""

    def step(advance: str) -> None:
        for _ in range(6):
            cluster.do("drop c->b Promised", "deliver", "sync", "publish b")
        cluster.do(advance)

    for _ in range(12):
        step("advance 0.05")
    follower = follower_of(cluster, "b", "c")
    while not 0.14 <= cluster.state("b").now - follower.told_at <= 0.19:
        step("advance 0.01")
    assert follower.report is None
    return follower


def test_R14_what_waits_for_all_is_looked_at_when_one_drops_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with each answer to a heartbeat: c answers and takes no checkpoint, until it is gone."""
    cluster = serving().do("full c").live(0.2).forget()
    cluster.do(*(f"submit a {stream} 2" for stream in STREAMS)).live(0.5)
    asked = calls(monkeypatch, Commits, "_cover")
    cluster.live(1.0)
    assert not cluster.effects("a", HeldByAll)
    assert asked == []
    cluster.do("crash c").live(0.5)
    assert [held.holders for held in cluster.effects("a", HeldByAll)] == [("a", "b")] * len(STREAMS)


def test_R14_a_member_that_has_yet_to_speak_in_the_epoch_counts_as_up() -> None:
    """c is slow to promise; one that stays silent is waited for as long as a lease."""
    for late, holders in (("mend a c", ("a", "b", "c")), ("crash c", ("a", "b"))):
        cluster = Cluster("a", "b", "c").do("cut a c", "grant a", "settle", "submit a s 1").live(0.1)
        assert len(cluster.effects("a", Commit)) == 1
        assert not cluster.effects("a", HeldByAll)
        cluster.do(late).live(0.5)
        assert [held.holders for held in cluster.effects("a", HeldByAll)] == [holders]


def test_R27_covered_is_asked_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a learner that is not taken in, nobody asks what the others hold."""
    monkeypatch.setattr(Membership, "_holds_the_deleted", lambda self, follower: True)
    asked = calls(monkeypatch, Commits, "_is_covered")
    cluster = serving().do("crash c", "wipe c", "start c").live(3.0)
    assert cluster.core("c").role is Role.JOINING
    assert asked == []


def test_I12_deleted_streams_are_remembered_in_a_bounded_number() -> None:
    """Streams that come and go fill an epoch in the end; the tenure goes on unchanged in a higher one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(above, "FORGOTTEN_MAX", 4)
        cluster = serving().forget()
        for number in range(4):
            cluster.do(f"submit a job{number} 1").live(0.2).do(f"delete a job{number} 2").live(0.2)
            assert len(cluster.state("a").forgotten) == (number + 1) % 4
    cluster.live(0.5)
    (tenure,) = cluster.effects("a", StartTenure)
    assert (tenure.epoch, tenure.unchanged) == (2, True)
    assert [cluster.state(name).forgotten for name in "abc"] == [{}, {}, {}]
    assert any("4 streams were deleted in this epoch" in one.text for one in cluster.effects("a", Notice))
    cluster.do("submit a job0 1").live(0.3)
    assert [cluster.state(name).heads[StreamName("job0")].epoch for name in "abc"] == [2, 2, 2]


def test_R15_a_follower_hears_of_every_deletion_before_it_is_forgotten() -> None:
    """Of more deletions at once than a heartbeat tells of, too: a warm standby keeps nothing of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heartbeat, "HINTS_PER_HEARTBEAT", 2)
        cluster = serving().forget().do(*(f"delete a {stream} 2" for stream in STREAMS)).live(1.0)
    assert cluster.state("b").heads == {}
    told = [standby.head for standby in cluster.effects("b", Standby)]
    assert sorted(head.stream for head in told if head.tombstone) == STREAMS
