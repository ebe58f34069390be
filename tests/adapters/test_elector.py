"""What the elector promises: one leader soon, kept while it is healthy, given away when asked."""

from __future__ import annotations

import random
import statistics
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from replicator.adapters.elector import LETTER_BYTES_MAX, Letter, PySyncObjElector
from replicator.adapters.ports import Elector
from replicator.adapters.raft import TimeoutNow
from replicator.errors import ReplicatorError, SettingsError
from replicator.model import NodeId
from tests.adapters.elector_cluster import Cluster

FAST = {
    "election_timeout_min_s": 0.15,
    "election_timeout_max_s": 0.3,
    "append_interval_s": 0.03,
    "leader_fallback_s": 0.15,
    "tick_interval_s": 0.01,
}


def nothing() -> None:
    """A callback."""


def alone(**settings: Any) -> PySyncObjElector:
    return PySyncObjElector(
        NodeId("a"),
        frozenset(),
        send=lambda to, payload: False,
        on_grant=nothing,
        on_revoke=nothing,
        **settings,
    )


def test_it_is_an_elector() -> None:
    """The driver needs no more than the Protocol of ports."""
    elector: Elector = alone()
    assert elector.tick_interval_s == 0.02
    elector.close()


@pytest.mark.parametrize("names", ["ab", "abc", "abcde"])
def test_a_started_cluster_grants_one_node(monkeypatch: pytest.MonkeyPatch, names: str) -> None:
    """After a start one node is granted within the longest timeout and a bit, and it stays the one."""
    cluster = Cluster(monkeypatch, names)
    leader = cluster.elect(limit_s=1.0)
    cluster.run(60)
    assert [(node, granted) for _, node, granted in cluster.history] == [(leader, True)]
    assert cluster.leaders() == [leader]


@pytest.mark.parametrize(("timers", "median_s", "worst_s"), [({}, 0.6, 0.95), (FAST, 0.25, 0.36)])
def test_a_dead_leader_is_replaced_in_one_round(
    monkeypatch: pytest.MonkeyPatch, timers: dict[str, Any], median_s: float, worst_s: float
) -> None:
    """Kill to grant takes one election timeout of the quickest survivor, and a single grant."""
    took = []
    for seed in range(40):
        cluster = Cluster(monkeypatch, seed=seed, **timers)
        leader = cluster.elect()
        cluster.run(1 + cluster.random.random())
        cluster.kill(leader)
        took.append(cluster.run_until(lambda: bool(cluster.leaders())))  # noqa: B023
        cluster.elect()
        assert len(cluster.history) == 2
    assert statistics.median(took) < median_s
    assert max(took) < worst_s


def test_a_minority_grants_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of five that hear only each other elect nobody, and raise no term."""
    cluster = Cluster(monkeypatch, "abcde")
    leader = cluster.elect()
    rest = [name for name in "abcde" if name != leader]
    for name in [leader, *rest[:2]]:
        cluster.kill(name)
    term = max(cluster.terms())
    cluster.run(20)
    assert cluster.leaders() == []
    assert cluster.terms() == [term, term]


@pytest.mark.parametrize("seed", range(12))
def test_after_faults_all_agree_again(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Whatever was cut, lost, repeated, stalled, restarted, given away: soon after, one leader for good."""
    names = "abc" if seed % 2 else "abcde"
    cluster = Cluster(monkeypatch, names, seed=seed)
    chance = random.Random(seed)
    for _ in range(12):
        node, other = chance.sample(names, 2)
        fault = chance.randrange(7)
        if fault == 0 and not cluster.hosts[NodeId(node)].frozen:
            cluster.stall(node, chance.uniform(0, 3))
        elif fault == 1:
            cluster.cut(node, other, both_ways=chance.random() < 0.5)
        elif fault == 2:
            cluster.isolate(node)
        elif fault == 3:
            cluster.heal()
        elif fault == 4:
            cluster.kill(node)
            cluster.start(node)
        elif fault == 5:
            cluster.loss, cluster.repeat = chance.choice([0.0, 0.1, 0.5]), chance.choice([0.0, 0.5])
        else:
            cluster[node].transfer(chance.choice([None, NodeId(other)]))
        cluster.run(chance.uniform(0, 1.5))
    cluster.heal()
    cluster.loss = cluster.repeat = 0.0
    cluster.run(3)  # the longest stall ends
    cluster.elect(limit_s=3)
    changes = len(cluster.history)
    cluster.run(5)
    assert len(cluster.history) == changes


@pytest.mark.parametrize("seed", range(12))
def test_any_partial_mesh_with_a_majority_settles(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """With links cut at random, a node that still hears a majority leads, and nobody takes turns."""
    names = "abcde"
    chance = random.Random(seed)
    cluster = Cluster(monkeypatch, names, seed=seed)
    cluster.elect()
    hub = chance.choice(names)
    kept = set(chance.sample([name for name in names if name != hub], 2))
    for one in names:
        for other in names:
            if one < other and {one, other} - kept != {hub} and chance.random() < 0.6:
                cluster.cut(one, other, both_ways=chance.random() < 0.5)
    cluster.run(8)
    changes = len(cluster.history)
    cluster.run(8)
    assert cluster.leaders()
    assert len(cluster.history) == changes


# ── giving leadership away ──


def test_transfer_gives_leadership_to_the_named_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transfer takes a few messages, not an election timeout, and the old leader is revoked."""
    cluster = Cluster(monkeypatch, "abcde")
    leader = cluster.elect()
    cluster.run(1)
    target = cluster.followers()[2]
    cluster[leader].transfer(NodeId(target))
    assert cluster.run_until(lambda: cluster.leaders() == [target], limit_s=0.01)
    assert [entry[1:] for entry in cluster.history] == [(leader, True), (leader, False), (target, True)]


def test_transfer_to_nobody_in_particular_finds_a_successor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a name the leader picks a node that answers."""
    cluster = Cluster(monkeypatch)
    leader = cluster.elect()
    cluster.run(1)
    cluster.kill(cluster.followers()[0])
    cluster.run(0.5)
    cluster[leader].transfer(None)
    cluster.run_until(lambda: cluster.leaders() == cluster.followers()[:1] or leader not in cluster.leaders())
    assert cluster.elect(limit_s=0.05) != leader


def test_transfer_right_after_the_win_steps_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """PySyncObj denies a target that has not answered yet: the leader leaves, and another one follows."""
    cluster = Cluster(monkeypatch)
    cluster.run_until(lambda: bool(cluster.leaders()))
    (leader,) = cluster.leaders()
    cluster[leader].transfer(None)
    assert not cluster[leader].leading
    assert cluster.run_until(lambda: bool(cluster.leaders()), limit_s=0.9)
    assert cluster.leaders() != [leader]


def test_transfer_to_a_node_that_died_just_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the target does not take over, the leader steps down and somebody else is elected."""
    cluster = Cluster(monkeypatch)
    leader = cluster.elect()
    cluster.run(1)
    target = cluster.followers()[0]
    cluster.kill(target)
    cluster[leader].transfer(NodeId(target))
    cluster.run_until(lambda: not cluster[leader].leading, limit_s=0.25)
    assert cluster.elect(limit_s=1.0) not in (leader, target)


def test_transfer_by_a_follower_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that does not lead has nothing to give away; transfer never raises."""
    cluster = Cluster(monkeypatch)
    cluster["a"].transfer(None)
    leader = cluster.elect()
    for name in cluster.followers():
        cluster[name].transfer(NodeId(leader))
        cluster[name].transfer(NodeId("unknown"))
    cluster.run(5)
    assert [entry[1:] for entry in cluster.history] == [(leader, True)]


def test_an_unelectable_node_votes_but_never_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of three cannot lead: the third is elected by their votes; without it nobody leads."""
    cluster = Cluster(monkeypatch)
    cluster["a"].set_electable(False)
    cluster["b"].set_electable(False)
    assert cluster.elect() == "c"
    cluster.run(1)
    cluster["c"].transfer(NodeId("a"))
    cluster.run(5)
    assert cluster.elect() == "c"
    cluster.kill("c")
    cluster.run(10)
    assert cluster.leaders() == []
    cluster["b"].set_electable(True)
    assert cluster.elect(limit_s=1.0) == "b"
    assert {node for _, node, granted in cluster.history if granted} == {"b", "c"}


def test_who_is_behind_lets_others_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that lacks what others hold is elected only when none of them stands (R8: less to fetch)."""
    for seed in range(10):
        cluster = Cluster(monkeypatch, seed=seed)
        leader = cluster.elect()
        behind, best = cluster.followers()
        cluster[behind].set_behind(True)
        cluster.run(1)
        cluster.kill(leader)
        assert cluster.elect(limit_s=1.0) == best
        cluster.run(1)
        assert cluster.leaders() == [best]
        cluster.kill(best)
        cluster.start(leader)
        cluster[leader].set_electable(False)
        assert cluster.elect(limit_s=3.0) == behind


def test_a_node_named_before_it_has_heard_its_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has just started stands when it is told to: no heartbeat has to come first."""
    cluster = Cluster(monkeypatch)
    leader = cluster.elect()
    target = cluster.followers()[0]
    cluster.run(1)
    cluster.kill(target)
    cluster.run(0.05)
    cluster.start(target)
    cluster.run_until(lambda: cluster[target]._now > 0)
    assert cluster[target].term == 0  # it has heard nobody
    cluster[leader].transfer(NodeId(target))
    assert cluster.run_until(lambda: cluster.leaders() == [target], limit_s=0.1)


def test_only_the_leader_can_name_a_successor_and_only_an_electable_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever else says "stand now" is not heeded, and a node that cannot lead does not stand."""
    cluster = Cluster(monkeypatch)
    leader = cluster.elect()
    cluster.run(1)
    one, other = cluster.followers()
    word = msgspec.msgpack.encode(Letter(True, False, TimeoutNow(cluster[leader].term)))
    cluster[one].receive(NodeId(other), word)
    cluster[one].set_electable(False)
    cluster[one].receive(NodeId(leader), word)
    cluster.run(1)
    assert len(cluster.history) == 1
    assert cluster.agreed() == leader


def test_a_leader_made_unelectable_hands_over_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leadership goes to an electable node, not to one that would have to give it away again."""
    cluster = Cluster(monkeypatch)
    leader = cluster.elect()
    unable, able = cluster.followers()
    cluster[unable].set_electable(False)
    cluster.run(1)
    cluster[leader].set_electable(False)
    cluster.run_until(lambda: cluster.leaders() == [able], limit_s=0.01)


def test_a_candidate_made_unelectable_does_not_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """Votes that come in after the word count for nothing."""
    cluster = Cluster(monkeypatch)
    cluster.run_until(lambda: any(b"request_vote" in payload for _, _, payload in cluster.sent))
    candidate = cluster.sent[-1][0]
    cluster[candidate].set_electable(False)
    assert cluster.elect() != candidate
    assert candidate not in {node for _, node, _ in cluster.history}


# ── edges and ends ──


def test_timers_that_do_not_fit_are_refused() -> None:
    """PySyncObj asserts its relations; we answer with an error that names the timers."""
    with pytest.raises(SettingsError, match="raftMinTimeout"):
        alone(election_timeout_min_s=0.1, append_interval_s=0.08)
    assert issubclass(SettingsError, ReplicatorError)


def test_a_lost_send_is_only_a_lost_message(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A send that raises neither reaches PySyncObj nor the control thread."""
    cluster = Cluster(monkeypatch, "ab")

    def broken(to: NodeId, payload: bytes) -> bool:
        raise OSError("no such socket")

    monkeypatch.setattr(cluster["a"], "_send", broken)
    cluster.run(3)
    assert cluster.leaders() == []
    assert "send failed" in caplog.text


@given(payload=st.binary(max_size=2 * LETTER_BYTES_MAX))
def test_any_bytes_are_taken_or_dropped(payload: bytes) -> None:
    """Nothing that comes from a peer raises."""
    elector = PySyncObjElector(
        NodeId("a"),
        frozenset({NodeId("b")}),
        send=lambda to, payload: True,
        on_grant=nothing,
        on_revoke=nothing,
    )
    elector.tick(1.0)
    elector.receive(NodeId("b"), payload)
    elector.receive(NodeId("stranger"), payload)
    elector.tick(1.02)
    elector.close()
