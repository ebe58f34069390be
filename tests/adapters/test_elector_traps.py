"""One test for each way in which PySyncObj, left to itself, would choose badly; named after the traps."""

from __future__ import annotations

import msgspec
import pytest

from replicator.adapters.elector import Letter
from replicator.adapters.raft import RequestVote, ResponseVote
from replicator.model import NodeId
from tests.adapters.elector_cluster import Cluster

FAILOVER_S = 0.95  # the longest election timeout, a few ticks and a repeated pre-vote


# ── elections ──


def test_stale_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a minute in which followers said nothing to each other, a failover takes one round."""
    cluster = Cluster(monkeypatch)
    leader = cluster.elect()
    cluster.run(60)
    cluster.kill(leader)
    cluster.run_until(lambda: bool(cluster.leaders()), limit_s=FAILOVER_S)


def test_no_pre_vote_a_rejoiner_deposes_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node cut off for long raises no term, and disturbs nobody when it is back."""
    cluster = Cluster(monkeypatch)
    leader = cluster.elect()
    lonely = cluster.followers()[0]
    terms = cluster.terms()
    cluster.isolate(lonely)
    cluster.run(10)
    assert cluster[lonely].leader is None
    cluster.heal()
    cluster.run(5)
    assert cluster.agreed() == leader
    assert cluster.terms() == terms
    assert len(cluster.history) == 1


@pytest.mark.parametrize("seconds", [0.6, 2.0, 5.0])
def test_no_stickiness_a_stopped_follower_deposes_nobody(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """SIGSTOP and SIGCONT of a follower change nothing, whatever arrived for it meanwhile."""
    cluster = Cluster(monkeypatch)
    cluster.elect()
    for name in cluster.followers() * 3:
        cluster.stall(name, seconds)
        cluster.run(seconds + 1)
    assert len(cluster.history) == 1


def test_no_stickiness_a_restarted_follower_deposes_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not hear the leader asks in vain, even one that has just forgotten its vote."""
    cluster = Cluster(monkeypatch)
    leader = cluster.elect()
    deaf, restarted = cluster.followers()
    cluster.cut(leader, deaf)
    cluster.run(3)
    for _ in range(10):
        cluster.kill(restarted)
        cluster.start(restarted)
        cluster.run(1.1)
    assert cluster.leaders() == [leader]
    assert len(cluster.history) == 1


def test_ping_pong_over_one_cut_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """When one follower loses the leader whom the other still hears, the leader stays."""
    cluster = Cluster(monkeypatch)
    leader = cluster.elect()
    cluster.cut(leader, cluster.followers()[0])
    cluster.run(30)
    assert cluster.leaders() == [leader]
    assert len(cluster.history) == 1


@pytest.mark.parametrize("both_ways", [True, False])
def test_zombie_leader_cut_off(monkeypatch: pytest.MonkeyPatch, both_ways: bool) -> None:
    """A leader that hears no majority is revoked within the fallback time, before another is granted."""
    cluster = Cluster(monkeypatch)
    leader = cluster.elect()
    cluster.run(1)
    for other in cluster.followers():
        cluster.cut(other, leader, both_ways=both_ways)
    assert cluster.run_until(lambda: not cluster[leader].leading) < 0.45
    cluster.run_until(lambda: bool(cluster.leaders()), limit_s=1.5)
    cluster.heal()
    cluster.run(5)
    assert len(cluster.history) == 3


@pytest.mark.parametrize("seconds", [1.5, 5.0])
def test_zombie_leader_stopped(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """A leader stopped until another was granted is revoked as soon as it runs, and follows."""
    cluster = Cluster(monkeypatch)
    old = cluster.elect()
    cluster.run(1)
    cluster.freeze(old)
    new = cluster.elect()
    cluster.run(seconds)
    cluster.thaw(old)
    assert cluster.run_until(lambda: not cluster[old].leading) < 0.01
    cluster.run(3)
    assert cluster.agreed() == new
    assert len(cluster.history) == 3


def test_two_leaders_in_a_term_cost_only_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a journal a vote may be given twice; the two leaders depose each other and one is elected."""
    cluster = Cluster(monkeypatch)
    leader = cluster.elect()
    cluster.run(1)
    other = cluster.followers()[0]
    cluster[other]._raft.set_term(cluster[leader].term - 1)
    cluster[other]._raft.stand(0)
    for voter in cluster.names:
        if voter != other:
            vote = Letter(True, False, ResponseVote(cluster[leader].term))
            cluster[other].receive(voter, msgspec.msgpack.encode(vote))
    assert cluster.leaders() == sorted([leader, other])
    assert cluster[leader].term == cluster[other].term
    cluster.run(0.2)
    assert len(cluster.leaders()) <= 1
    cluster.elect(limit_s=1.5)
    changes = len(cluster.history)
    cluster.run(5)
    assert len(cluster.history) == changes


def test_votes_are_counted_without_looking_at_the_voter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeated messages never make a majority."""
    cluster = Cluster(monkeypatch, "abcde")
    cluster.repeat = 1.0
    for name in "cde":
        cluster.kill(name)
    cluster["a"]._raft.stand(0)
    cluster.run(5)
    assert cluster.leaders() == []
    for _ in range(3):
        vote = Letter(True, False, ResponseVote(cluster["a"].term))
        cluster["a"].receive(NodeId("b"), msgspec.msgpack.encode(vote))
    assert cluster.leaders() == []


def test_split_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two whose patience ends in the same moment do not stand against each other."""
    for seed in range(10):
        cluster = Cluster(monkeypatch, seed=seed)
        cluster.kill(cluster.elect())
        for name in cluster.followers():
            cluster[name]._deadline = cluster.now + 0.5
            cluster[name]._heard_at = cluster.now
        cluster.sent.clear()
        cluster.run_until(lambda: bool(cluster.leaders()))  # noqa: B023
        assert len({sender for sender, _, payload in cluster.sent if b"request_vote" in payload}) == 1


@pytest.mark.parametrize("seed", range(5))
def test_a_lost_round_is_repeated_soon(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """When the votes are lost, the next round does not wait for a leader's whole timeout."""
    cluster = Cluster(monkeypatch, seed=seed)
    cluster.kill(cluster.elect())
    candidate, voter = cluster.followers()
    cluster[voter].set_electable(False)
    cluster.sent.clear()
    cluster.run_until(lambda: any(b"request_vote" in payload for _, _, payload in cluster.sent))
    cluster.isolate(candidate)
    cluster.run(0.01)
    cluster.heal()
    cluster.run_until(lambda: cluster.leaders() == [candidate], limit_s=0.45)


def test_a_late_request_deposes_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vote asked for in a higher term is refused by the leader and by those who hear it."""
    cluster = Cluster(monkeypatch)
    leader = cluster.elect()
    cluster.run(1)
    request = msgspec.msgpack.encode(Letter(True, False, RequestVote(99, 1, 0)))
    asker = cluster.followers()[0]
    for name in cluster.names:
        if name != asker:
            cluster[name].receive(NodeId(asker), request)
    cluster.run(1)
    assert cluster.agreed() == leader
    assert max(cluster.terms()) < 99


def test_terms_restart_at_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart of all, terms start again: they are no epoch. A grant comes all the same."""
    cluster = Cluster(monkeypatch)
    for _ in range(3):
        cluster[cluster.elect()].transfer(None)
        cluster.run(1)
    before = max(cluster.terms())
    for name in cluster.names:
        cluster.kill(name)
    for name in cluster.names:
        cluster.start(name)
    cluster.elect(limit_s=1.0)
    assert max(cluster.terms()) < before


def test_term_zero_is_no_handicap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A restarted node that alone can lead learns the present term by asking, not by counting."""
    cluster = Cluster(monkeypatch)
    leader = cluster.elect()
    voter, restarted = cluster.followers()
    for name in cluster.names:
        cluster[name]._raft.set_term(1_000_000)
    cluster[voter].set_electable(False)
    cluster.kill(leader)
    cluster.kill(restarted)
    cluster.start(restarted)
    assert cluster.elect(limit_s=1.5) == restarted
    assert cluster[restarted].term == 1_000_001


def test_a_term_that_nobody_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node (and its voter) left in a higher term joins the healthy leader again; the leader stays."""
    cluster = Cluster(monkeypatch, "abcde")
    leader = cluster.elect()
    for name in cluster.followers()[:2]:
        cluster[name]._raft.set_term(cluster[leader].term + 5)
    cluster.run(2)
    assert cluster.agreed() == leader
    assert len(cluster.history) == 1


def test_a_stale_leader_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower names nobody once the leader has been silent for its timeout."""
    cluster = Cluster(monkeypatch)
    leader = cluster.elect()
    cluster.kill(leader)
    rest = cluster.followers()
    cluster.kill(rest[1])
    cluster.run(1)
    assert cluster[rest[0]].leader is None


# ── stalls ──


@pytest.mark.parametrize("seconds", [0.21, 0.3])
def test_stall_guard_for_a_busy_leader(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """A leader busy for less than an election timeout is not deposed, by nobody and not by itself."""
    cluster = Cluster(monkeypatch, leader_fallback_s=0.25)
    leader = cluster.elect()
    for _ in range(20):
        cluster.stall(leader, seconds)
        cluster.run(seconds + 0.5)
    assert len(cluster.history) == 1


@pytest.mark.parametrize("seconds", [0.25, 0.83, 3.0])
def test_stall_guard_for_busy_followers(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Followers that are busy, also all at the same time, do not depose a healthy leader."""
    cluster = Cluster(monkeypatch)
    cluster.elect()
    for _ in range(10):
        for name in cluster.followers():
            cluster.stall(name, min(seconds, 0.28))  # longer, and the leader hears no majority
        cluster.run(1)
        cluster.stall(cluster.followers()[0], seconds)
        cluster.run(seconds + 1)
    assert len(cluster.history) == 1


def test_stall_guard_when_all_were_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """When all nodes of a machine stood still at once, the leader goes on without an election."""
    cluster = Cluster(monkeypatch)
    leader = cluster.elect()
    for _ in range(5):
        for name in cluster.names:
            cluster.stall(name, 10)
        cluster.run(15)
    assert cluster.agreed() == leader
    assert len(cluster.history) == 1


def test_stall_guard_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes whose every tick is late elect a leader nevertheless, and an isolated late leader steps down."""
    cluster = Cluster(monkeypatch, tick_interval_s=0.25)
    leader = cluster.elect(limit_s=5)
    cluster.isolate(leader)
    cluster.run_until(lambda: not cluster[leader].leading, limit_s=3)


def test_a_tick_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """PySyncObj's poll gets no time, in whatever state."""
    cluster = Cluster(monkeypatch)
    waits: list[float] = []
    for name in cluster.names:
        monkeypatch.setattr(cluster[name]._raft._object._poller, "poll", waits.append)
    cluster.elect()
    cluster.run(1)
    assert set(waits) == {0}
