"""R5, R8, R11, R20, R22: what once kept a cluster with a healthy majority from going on, found by reading."""

from __future__ import annotations

import pytest
from msgspec import structs

from replicator.core.effects import Abandoned, AbandonRefused, Accept, Commit, StartTenure, Transfer
from replicator.core.events import Accepted, HeadRotten, Received
from replicator.core.messages import Behind, Claim, Echo, Hello, Probe, ProbeAnswer, Promised
from replicator.core.phase import Phase
from replicator.model import (
    Digest,
    Epoch,
    Incarnation,
    Member,
    MemberRecord,
    NodeId,
    Owner,
    Process,
    Promise,
    Role,
    Sequence,
    StreamName,
)
from tests.rules.cluster import PROBED, Cluster
from tests.rules.test_idle_streams import page_of, taken_over
from tests.rules.test_late_words import reign_of
from tests.rules.test_publishing import serving
from tests.simulation.image import chunk_digests

S = StreamName("s")


def test_R5_a_new_claim_is_told_to_all_at_once() -> None:
    """Also to one whose answer to the claim before was on its way."""
    cluster, claim = taken_over()
    cluster.hear("b", "c", page_of(cluster, claim, 0, "s"))  # and the other page never comes
    cluster.core("b")._primary.claim_above("for the test")
    cluster.forget().do("advance 0.07", *PROBED, "sync b")
    assert [each.epoch for each in cluster.sent("b", Claim)].count(3) == 2


def test_R11_rot_that_was_found_while_recovering_over_a_bump() -> None:
    """What is rotten is thrown away, so nobody finds it again while what was in flight drains."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.3)
    cluster.do("cut a b", "cut a c", "submit a s 2", "publish a", "sync a", "mend a b", "crash c").forget()
    primary, disk = cluster.core("a")._primary, cluster.node("a").disk
    primary.claim_above("for the test")
    for _ in range(9):
        cluster.do("advance 0.02", "deliver", "sync a b")
    assert not reign_of(cluster, "a").serving
    disk.damage(S)
    for digest in list(disk.image.damaged):
        disk.discard_chunk(digest)
    cluster.node("a").deliver(HeadRotten(S, Digest(cluster.state("a").heads[S].digest)))
    cluster.live(10.0)
    assert cluster.effects("a", StartTenure), primary.phase


def _withheld() -> Cluster:
    """a serves and withholds s: its head there is rotten, and c, which was not heard, may have it."""
    cluster = Cluster("a", "b", "c").with_primary("a").live(0.2)
    cluster.do("cut a b", "cut a c", "submit a s 1", "publish a", "sync a").live(0.6)
    cluster.do("crash a", "rot a s", "mend a b", "start a").live(1.2).forget().do("grant a").live(3.0)
    assert [[head.sequence for head in t.unavailable] for t in cluster.effects("a", StartTenure)] == [[1]]
    return cluster


def test_R8_what_is_dropped_while_serving_is_withheld_no_longer() -> None:
    """c comes and has nothing: the head never committed, and the engine may start the stream anew."""
    cluster = _withheld().do("mend a c").live(4.0)
    assert not reign_of(cluster, "a").recovery.unavailable
    cluster.do("submit a s 5").live(1.0)
    assert [commit.position.sequence for commit in cluster.effects("a", Commit)] == [5]


def test_R8_what_has_rotted_is_put_together_from_what_is_left_of_it() -> None:
    """a and c have lost a chunk each, not the same one, and told so in their promises: b, which has nothing,
    needs neither of them whole, nor another promise."""
    cluster = Cluster("a", "b", "c").with_primary("a").live(0.2)
    cluster.do("cut a b").node("a").engine.submit(S, Sequence(1), bytes(range(192)), deletes=False)
    cluster.live(0.3).do("crash a", "drop")
    newest = cluster.node("a").disk.image.newest(S)
    assert newest is not None
    first, *_, last = chunk_digests(newest.manifest)
    cluster.node("a").disk.discard_chunk(first)
    cluster.node("c").disk.discard_chunk(last)
    cluster.node("c").deliver(HeadRotten(S, Digest(newest.manifest.digest)))
    cluster.do("mend a b", "cut a c", "start a").live(1.5).forget().do("grant b").live(3.0)
    assert [accept.epoch for accept in cluster.effects("b", Accept)] == [2]
    assert [[head.sequence for head in t.heads] for t in cluster.effects("b", StartTenure)] == [[], [1]]


def test_R8_only_a_tombstone_takes_the_place_of_what_was_abandoned_for_nothing() -> None:
    """Not the abandoned one itself, if the store has accepted it after all."""
    cluster = _withheld()
    newest = cluster.node("a").disk.image.newest(S)
    assert newest is not None
    recovery = reign_of(cluster, "a").recovery
    cluster.do("abandon a s")
    assert S not in recovery.chosen
    cluster.node("a").deliver(Accepted(newest.manifest, recovery.epoch, 0))
    assert S in recovery.unavailable


def _rotten(when: str) -> Cluster:
    """a and b have committed 2 of s, c has 1; b recovers with c alone, and its own one is rotten."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.3)
    cluster.do("cut a c", "submit a s 2").live(0.2).do("crash a b", "drop")
    if when == "before":
        cluster.do("rot b s")
    cluster.do("start b").live(1.5).forget().do("grant b")
    cluster.do(*PROBED, "sync b")
    cluster.do("deliver *->* Claim", "sync c", "deliver c->b Promised", "sync b")
    if when == "after":
        cluster.do("rot b s")
    while not reign_of(cluster, "b").recovery.unavailable:
        cluster.do("advance 0.05", "fetch b")
    return cluster


def test_R8_what_was_adopted_is_abandoned_in_the_next_epoch() -> None:
    """Within the epoch nothing older can take its place, so there the operator is told to ask again."""
    cluster = _rotten("after").do("abandon b s")
    (refused,) = cluster.effects("b", AbandonRefused)
    assert "ask again after that" in refused.reason
    cluster.live(5.0).do("abandon b s").live(5.0)
    (abandoned,) = cluster.effects("b", Abandoned)
    assert abandoned.instead is not None
    assert (abandoned.head.sequence, abandoned.instead.sequence) == (2, 1)
    assert [head.sequence for head in cluster.effects("b", StartTenure)[-1].heads] == [1]


def test_R8_what_was_abandoned_stays_so() -> None:
    """For the older one that takes its place: a late promise that speaks of it again does not undo it."""
    cluster = _rotten("before").do("abandon b s")
    recovery = reign_of(cluster, "b").recovery
    assert recovery.chosen[S].sequence == 1
    cluster.do("start a")
    while not recovery.has_heard(cluster.state("a").id):
        cluster.do("advance 0.05", "deliver b->a Claim", "sync a", "deliver a->b Promised")
    assert recovery.chosen[S].sequence == 1
    cluster.live(5.0)
    assert [head.sequence for head in cluster.effects("b", StartTenure)[-1].heads] == [1]


def test_R8_what_the_own_store_is_asked_to_accept_is_not_abandoned() -> None:
    """It is readable again: a is back, and served what it had committed."""
    cluster = _rotten("before").do("start a")
    while not cluster.effects("b", Accept):
        cluster.do("advance 0.05", "deliver b->a Claim", "sync a", "deliver a->b Promised", "fetch b")
    cluster.do("abandon b s")
    (refused,) = cluster.effects("b", AbandonRefused)
    assert refused.reason.startswith("there is nothing to abandon")
    cluster.live(5.0)
    assert [head.sequence for head in cluster.effects("b", StartTenure)[-1].heads] == [2]


def test_R20_who_is_no_member_by_the_newest_record_does_not_lead() -> None:
    """c knows a joint record of epoch 1 that nobody adopted; a and b adopted the old one again in epoch 2."""
    cluster = Cluster("a", "b", "c").do("crash a b c", "wipe c")
    ids = {name: cluster.node(name).disk.image.incarnation for name in "abc"}
    old, image = cluster.node("a").disk.image.record, cluster.node("c").disk.image
    assert old is not None
    members = tuple(Member(name, ids[name]) for name in "abc")
    image.record, image.record_epoch, image.founded = MemberRecord(2, members, old.members), Epoch(1), True
    for name in "ab":
        cluster.node(name).disk.image.record_epoch = Epoch(2)
        cluster.node(name).disk.image.promise = Promise(2, Owner("b", ids["b"], b"b/0".ljust(16, b"\0")))
    cluster.do("start a b c").live(1.2).do("grant c").live(5.0)
    assert cluster.core("c").role is not Role.PRIMARY


@pytest.mark.parametrize("says_it", [ProbeAnswer, Promised])
def test_R20_the_newest_record_may_be_heard_at_any_time(says_it: type[ProbeAnswer | Promised]) -> None:
    """It names another store of c, whatever those that do not know it say."""
    cluster = Cluster("a", "b", "c").live(0.3).do("grant c")
    record, echo = cluster.state("c").record, Echo(cluster.owner("a").process, 0.0)
    assert record is not None
    members = tuple(
        structs.replace(each, incarnation=each.node.encode().ljust(16)) for each in record.members
    )
    newest = MemberRecord(2, members)
    if says_it is ProbeAnswer:
        (probe, _) = cluster.sent("c", Probe)
        cluster.hear("c", "a", ProbeAnswer(probe.nonce, True, 0, None, newest, 1))
    else:
        cluster.do(*PROBED, "sync c")
        (claim, _) = cluster.sent("c", Claim)
        cluster.hear("c", "a", Promised(claim.epoch, claim.nonce, 0, 1, (), newest, 1, echo))
    assert cluster.effects("c", Transfer) == [Transfer(None)]
    assert cluster.core("c").role is Role.BACKUP


def test_R20_a_learner_is_asked_anew_for_what_it_began_to_tell() -> None:
    """Pages that came before it was followed were compared with heads that are older by now."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.3).do("crash c").live(1.5)
    state, process = cluster.state("a"), Process(b"c/2".ljust(16, b"\0"))
    new = Incarnation(b"c#2".ljust(16, b"\0"))
    assert state.record is not None
    first, last = (
        Promised(1, 77, page, 2, heads, state.record, 1, Echo(process, 0.0))
        for page, heads in enumerate([(state.heads[S],), ()])
    )

    def hear(message: Promised | Hello) -> None:
        cluster.node("a").deliver(Received(NodeId("c"), new, process, 0, 0, message))

    hear(first)
    cluster.do("submit a s 2").live(0.2).forget()
    hear(Hello(False, None, "", ""))
    assert cluster.sent("a", Claim)
    hear(last)
    follower = reign_of(cluster, "a").progress.followers[NodeId("c")]
    assert follower.replica[1] == new
    assert follower.report is None, "that was not all of it"
    hear(first)
    assert follower.report is not None
    assert S in follower.lacking


def test_R22_what_is_wanted_in_the_place_of_rot_stays_wanted() -> None:
    """Rot that is found to be gone forgets its own fetch, not the one that came after it."""
    cluster = serving().do("submit a s 1").live(0.3).do("advance 0.01", "rot c s")
    cluster.do("submit a s 2", "publish a", "sync a b c")
    cluster.do("deliver", "sync", "deliver", "submit a s 3", "lose a", "sync a b")
    cluster.hear("c", "a", Behind(1, (cluster.state("a").heads[S],)))
    cluster.forget().do("advance 0.5", "fetch c")
    assert [accept.manifest.sequence for accept in cluster.effects("c", Accept)] == [3]


def test_R11_a_tenure_that_goes_on_unchanged_restores_nothing_that_rots_meanwhile() -> None:
    """The only copy that can be reached rots before the new epoch serves: it is withheld."""
    cluster = Cluster("a", "b", "c").with_primary("a").live(0.2)
    cluster.do("cut a b", "submit a s 1").live(0.2).do("crash c", "mend a b").forget()
    cluster.core("a")._primary.claim_above("for the test")
    while cluster.core("a")._primary.phase is not Phase.RECOVERING:
        cluster.do("advance 0.02", *PROBED, "sync a b")
        cluster.do("deliver *->* Claim", "sync b", "deliver *->* Promised")
    cluster.do("rot a s").live(3.0)
    tenure = cluster.effects("a", StartTenure)[0]
    assert tenure.unchanged
    assert [head.sequence for head in tenure.unavailable] == [1]
    assert tenure.heads == ()
