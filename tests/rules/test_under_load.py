"""What must go on while much is going on: tenures, commit points, fetches."""

from __future__ import annotations

import pytest
from msgspec import structs

from replicator.core import heartbeat
from replicator.core.effects import Abort, Commit, Fetch, Standby, StartTenure, WriteRecord
from replicator.core.events import Tick
from replicator.core.messages import Behind, CommitPoint, Heartbeat
from replicator.core.phase import Phase
from replicator.core.progress import Follower
from replicator.model import Epoch, Incarnation, NodeId, Position, Role, Sequence, StreamName
from tests.rules.cluster import PROBED, Cluster
from tests.rules.test_late_words import reign_of
from tests.rules.test_publishing import serving
from tests.transcripts.harness import Waiting

S = StreamName("s")


def _bump(cluster: Cluster) -> None:
    """a has claimed above, and its promise is durable."""
    cluster.core("a")._primary.claim_above("for the test")
    cluster.node("a").deliver(Tick())
    cluster.do(*PROBED, "sync a")


def test_R11_what_is_submitted_while_a_tenure_drains_does_not_prolong_it() -> None:
    """Only what was taken before the new epoch commits first; the rest ends with the old tenure."""
    cluster = serving().do("submit a s 1", "publish a")
    _bump(cluster)
    while cluster.core("a")._primary.phase is not Phase.DRAINING:
        cluster.do("advance 0.02", "deliver", "sync b c", "deliver")
    cluster.do("submit a t 1").live(0.2)
    assert [tenure.epoch for tenure in cluster.effects("a", StartTenure)] == [2]
    assert [commit.stream for commit in cluster.effects("a", Commit)] == ["s"]
    assert len(cluster.effects("a", Abort)) == 1


def test_R11_a_flight_that_goes_out_again_commits_by_its_adoption() -> None:
    """Its copy here has rotted and is mended; then a claim above, before it is published once more."""
    cluster = serving().do("cut a c", "submit a s 1", "publish a", "sync a b", "drop b->a Ack")
    cluster.do("rot a s", "fetch a", "sync a")
    _bump(cluster)
    cluster.do("mend a c").live(1.0)
    assert cluster.core("a")._primary.tenure.epoch == 2
    assert [commit.stream for commit in cluster.effects("a", Commit)] == ["s"]


def test_R11_a_stream_that_was_deleted_begins_anew_after_a_claim_above() -> None:
    """It is not restored, so the engine counts from 1: in an epoch above all that was."""
    cluster = serving().do("submit a s 1", "settle", "submit a s 2", "settle", "delete a s 3").live(0.5)
    assert not cluster.state("a").heads
    _bump(cluster)
    cluster.live(0.5).forget().do("submit a s 1").live(0.2)
    assert [commit.position for commit in cluster.effects("a", Commit)] == [Position(Epoch(2), Sequence(1))]
    assert not cluster.effects("a", Abort)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A heartbeat has room for four commit points."""
    monkeypatch.setattr(heartbeat, "HINTS_PER_HEARTBEAT", 4)


@pytest.mark.usefixtures("few")
def test_R15_commit_points_arrive_though_each_answer_is_late() -> None:
    """Each comes after the next heartbeat has left: what was told stays the same until it does."""
    cluster = serving().do(*(f"submit a s{number} 1" for number in range(6)), "settle").forget()
    for _ in range(8):
        cluster.do("advance 0.062", "deliver *->a HeartbeatAnswer", "deliver a->b Heartbeat")
    assert {len(beat.commits) for beat in cluster.sent("a", Heartbeat)} == {4, 2, 0}
    assert len(cluster.state("b").committed) == 6


def test_R15_a_stream_that_commits_often_keeps_no_other_from_being_told() -> None:
    """A commit point newer than the one that was told has its turn after those of the others."""
    older, newer = (CommitPoint("s", 1, Position(Epoch(1), Sequence(sequence))) for sequence in (1, 2))
    other = CommitPoint("t", 1, Position(Epoch(1), Sequence(1)))
    follower = Follower((NodeId("b"), Incarnation(bytes(16))), 0.0, {})
    follower.hints = {S: newer, StreamName("t"): other}
    follower.hinted = (1, (older,))
    follower.heard_answer(1)
    assert list(follower.hints.values()) == [other, newer]
    follower.hinted = (2, (other,))
    follower.heard_answer(2)
    assert list(follower.hints.values()) == [newer]


def test_R15_a_commit_point_of_a_deleted_stream_is_not_waited_for() -> None:
    """It was told twice, and the stream is forgotten between: the backup lacks nothing."""
    cluster = serving().do("submit a s 1").live(0.3)
    cluster.do("delete a s 2", "publish", "deliver", "sync", "deliver", "sync")
    cluster.do("advance 0.06", "deliver a->* Heartbeat", "drop *->a HeartbeatAnswer", "settle").live(1.0)
    assert S not in cluster.state("b").heads
    assert [cluster.core(name).is_behind for name in "abc"] == [False, False, False]


def test_R15_a_commit_point_of_a_stream_that_is_begun_anew_is_waited_for() -> None:
    """c missed the word to forget, and holds a tombstone of a higher sequence in an older epoch: what commits
    now is newer, and is committed here too as soon as it has come."""
    cluster = (
        serving().do("submit a s 1").live(0.3).do("delete a s 9", "publish", "deliver", "sync", "deliver")
    )
    cluster.do("sync a", "advance 0.07", "drop a->c Forget", "deliver", "sync")
    _bump(cluster)
    cluster.do("deliver *->* Claim", "sync b", "deliver b->a Promised").live(0.5)
    assert [S in cluster.state(name).heads for name in "abc"] == [False, False, True]
    cluster.forget().do("cut a c", "submit a s 1").live(0.2).do("mend a c").live(1.0)
    assert [point.head.position for point in cluster.effects("c", Standby)] == [Position(2, 1)]
    assert not cluster.core("c").is_behind


def test_R18_what_nobody_has_keeps_no_place_from_what_can_be_had() -> None:
    """As many unreadable streams as there are places; then one that the commit waits for."""
    cluster = serving().live(0.3).do("cut a c", "cut b c")
    names = [f"r{index:02}" for index in range(cluster.state("c").config.fetches_max)]
    cluster.do(*(f"submit a {name} 1" for name in names)).live(0.5)
    cluster.do("crash b", *(f"rot a {name}" for name in names), "mend a c").live(1.0).forget()
    cluster.do("submit a t 1", "lose a", "sync a").live(3.0)
    assert [commit.stream for commit in cluster.effects("a", Commit)] == ["t"]


def test_R18_more_than_a_message_holds_is_told_in_turns() -> None:
    """Heads that were told come after those that were not."""
    cluster = serving().live(0.3).do("cut a c", "cut b c")
    cluster.state("a").config = structs.replace(cluster.state("a").config, behind_heads_max=2)
    cluster.do(*(f"submit a r{index} 1" for index in range(5))).live(0.5).forget().do("mend a c")
    told: list[str] = []
    while len(told) < 5:
        cluster.do("advance 0.1", "deliver a->c Heartbeat", "deliver c->a HeartbeatAnswer")
        told = [head.stream for behind in cluster.sent("a", Behind) for head in behind.heads]
    assert sorted(told[:5]) == [f"r{index}" for index in range(5)]


def test_R18_what_found_no_place_is_fetched_without_being_told_again() -> None:
    """Many streams that a follower lacks do not wait for the next word of them, a few with each."""
    cluster = serving().live(0.3).do("cut a c", "cut b c")
    names = [f"r{index:02}" for index in range(3 * cluster.state("c").config.fetches_max)]
    cluster.do(*(f"submit a {name} 1" for name in names)).live(0.5).forget().do("mend a c", "mend b c")
    while not cluster.state("c").fetching:
        cluster.do("advance 0.05", "deliver")
    cluster.do(*("fetch c", "sync c") * len(names))
    assert {*names} <= cluster.state("c").heads.keys()
    assert len(cluster.effects("c", Fetch)) == len(names), "none is fetched twice"


def test_R21_a_full_disk_asks_for_nothing_that_it_would_refuse() -> None:
    """Told what it lacks it fetches deletions, and all of it when there is room again."""
    cluster = serving().do("full c").live(0.3).forget().do("submit a s 1").live(2.0)
    assert cluster.sent("a", Behind)
    assert not cluster.effects("c", Fetch)
    cluster.do("room c").live(0.6)
    assert cluster.state("c").heads[S].sequence == 1


def _turn(cluster: Cluster, late_s: float) -> None:
    """All happens as it comes but what c says of its disk, which is as late as that."""

    def comes(one: Waiting) -> bool:
        is_late = any(cluster._is_message(one, "c->a", kind) for kind in ("Ack", "Adopted"))
        return cluster._is_message(one, "*", "") and (not is_late or one.due <= cluster.now - late_s)

    for _ in range(4):
        cluster._let(comes)
        cluster.do("publish", "fetch", "sync")
    cluster.do("advance 0.05")


def test_R20_a_new_store_that_keeps_up_at_a_distance_is_taken_in() -> None:
    """Each of its acknowledgments is half a second late, while one stream after the other commits: it lacks
    something for longer than heads go untold, at every instant."""
    cluster = serving().do(*(f"submit a s{index} 1" for index in range(12))).live(0.3)
    cluster.do("crash c", "wipe c", "start c").forget()
    for turn in range(100):
        cluster.do(f"submit a s{turn % 12} {2 + turn // 12}")
        _turn(cluster, 0.5)
    assert len(cluster.effects("a", Commit)) > 90
    assert [bool(write.record.old) for write in cluster.effects("a", WriteRecord)] == [True, False]
    assert cluster.core("c").role is Role.BACKUP


def test_R20_what_a_new_store_lacked_before_it_fell_silent_is_not_all() -> None:
    """It is cut off when it lacks one stream; what it lacks of another when it is back is waited for, too."""
    cluster = serving().do("submit a s 1").live(0.3).do("crash c", "wipe c", "start c")
    followers = reign_of(cluster, "a").progress.followers
    for _ in range(40):
        _turn(cluster, 9.0)
    cluster.do("submit a s 2", "publish a", "sync a b", "deliver c->a Adopted", "deliver c->a Ack")
    for _ in range(4):
        _turn(cluster, 9.0)
    assert followers[NodeId("c")].awaited == {S: 2}
    cluster.do("cut a c", "submit a t 1").live(1.0).forget()
    cluster.do("full c", "mend a c").live(1.0)
    assert followers[NodeId("c")].newest(S) == 2
    assert not cluster.effects("a", WriteRecord)
    cluster.do("room c").live(1.0)
    assert cluster.core("c").role is Role.BACKUP
