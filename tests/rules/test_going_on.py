"""R5, R8, R11, R20, R22: what once kept a cluster with a healthy majority from going on, found by reading."""

from __future__ import annotations

from replicator.core.effects import Accept, StartTenure
from replicator.core.events import HeadRotten, Received
from replicator.core.messages import Behind, Claim, Echo, Hello, Promised
from replicator.model import Digest, Incarnation, NodeId, Process, StreamName
from tests.rules.cluster import Cluster
from tests.rules.test_idle_streams import page_of, taken_over
from tests.rules.test_late_words import reign_of
from tests.rules.test_publishing import serving

S = StreamName("s")


def test_R5_a_new_claim_is_told_to_all_at_once() -> None:
    """Also to one whose answer to the claim before was on its way."""
    cluster, claim = taken_over()
    cluster.hear("b", "c", page_of(cluster, claim, 0, "s"))  # and the other page never comes
    cluster.core("b")._primary.claim_above("for the test")
    cluster.forget().do("advance 0.07", "deliver *->* Probe", "deliver *->* ProbeAnswer", "sync b")
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
