"""R5-R11: from a grant to a tenure, without fencing a healthy primary and without losing what committed."""

from __future__ import annotations

from msgspec import structs

from replicator.core.effects import (
    Abort,
    Accept,
    AdoptHeads,
    Commit,
    EndTenure,
    Fetch,
    Publish,
    StartTenure,
    Transfer,
    WritePromise,
)
from replicator.core.events import FetchFailed
from replicator.core.messages import (
    HEADS_PER_PAGE,
    Adopt,
    Adopted,
    Claim,
    Heartbeat,
    Hello,
    LeaseReturned,
    Probe,
    ProbeAnswer,
    Promised,
    Reason,
)
from replicator.core.quorum import could_have_committed, is_quorum
from replicator.core.state import head_of
from replicator.model import Digest, Epoch, Head, Incarnation, Member, MemberRecord, NodeId, Role, StreamName
from tests.rules.cluster import PROBED, Cluster
from tests.rules.test_fencing import manifest

S = StreamName("s")


def test_R5_a_claim_that_cannot_succeed_fences_nobody() -> None:
    """T28: b is granted while a holds the lease: it probes, is refused, and has promised itself nothing."""
    cluster = Cluster("a", "b", "c").with_primary("a").forget()
    cluster.do("grant b", "settle")
    cluster.hear("b", "c", ProbeAnswer(2, False, 1, Reason.LEASE))
    assert not cluster.effects("b", WritePromise)
    cluster.live(0.5)
    assert cluster.core("a").role is Role.PRIMARY
    assert cluster.state("b").promise == cluster.state("a").promise


def test_R5_nothing_is_promised_before_a_majority_would_promise() -> None:
    """T28: b hears nobody but c, which lends the lease to a: b asks, and promises not even itself."""
    cluster = Cluster("a", "b", "c").with_primary("a").live(0.2)
    cluster.do("cut a b").live(0.6).forget().do("grant b").live(1.0)
    assert cluster.sent("b", Probe)
    assert not cluster.effects("b", WritePromise)


def test_R5_the_epoch_is_one_above_the_highest_seen_anywhere() -> None:
    """Also above what only a probe's answer told, and it is promised to oneself before it is asked for."""
    cluster = Cluster("a", "b", "c")
    cluster.hear("c", "b", Claim(41, 1))
    cluster.do("sync c").forget()
    cluster.now += 2.0
    cluster.do("cut a b", "grant a", "settle")
    (promise,) = cluster.effects("a", WritePromise)
    assert promise.promise.epoch == 42
    order = cluster.order("a")
    assert order.index(WritePromise) < order.index(Claim)


def test_R6_heads_come_in_pages_with_everything_that_R7_needs() -> None:
    """More streams than fit one page are told in several, none twice, tombstones among them."""
    cluster = Cluster("a", "b", "c")
    for index in range(HEADS_PER_PAGE + 5):
        made = manifest(f"s{index}")
        cluster.state("c").heads[StreamName(made.stream)] = head_of(made, Epoch(1))
    cluster.hear("c", "a", Claim(3, 1))
    cluster.do("sync c")
    cluster.hear("c", "a", Claim(3, 1, page=1))
    pages = cluster.sent("c", Promised)
    assert [page.page for page in pages] == [0, 1]
    assert len({head.stream for page in pages for head in page.heads}) == HEADS_PER_PAGE + 5
    assert all(page.record == cluster.state("c").record for page in pages)


def test_R7_the_highest_accepted_epoch_wins_not_the_highest_sequence() -> None:
    """T2: an uncommitted 13 of epoch 1 gives way to a 12 that was accepted in epoch 3."""
    cluster = Cluster("a", "b", "c").with_primary("a")
    cluster.do("submit a s 1").do("settle").live(0.1)
    cluster.do("cut a b", "cut a c", "submit a s 7", "settle").live(0.8)  # 7 is on a only
    cluster.do("grant b").live(1.5)
    cluster.do("submit b s 2").live(0.3)
    assert cluster.state("c").heads[StreamName("s")].sequence == 2
    cluster.do("mend a b", "mend a c", "cut b a", "cut b c").live(1.0).forget()
    cluster.do("grant a").live(2.5)
    (tenure,) = cluster.effects("a", StartTenure)
    assert [head.sequence for head in tenure.heads] == [2]
    assert all(head.accepted_epoch == tenure.epoch for head in tenure.heads)


def test_R8_what_is_chosen_is_fetched_before_it_is_served() -> None:
    """A winner that lacks the newest checkpoint brings it here, from whoever has it, and verifies it."""
    cluster = Cluster("a", "b", "c").with_primary("a")
    cluster.do("cut a b", "submit a s 1").live(0.2)
    cluster.do("crash a").live(0.6).forget()
    cluster.do("grant b").live(1.0)
    (fetch,) = cluster.effects("b", Fetch)
    assert fetch.sources == ("c",)
    assert fetch.verify
    assert fetch.urgent  # nobody commits meanwhile: nobody's time is to be spared
    order = cluster.order("b")
    assert order.index(Fetch) < order.index(StartTenure)
    assert cluster.effects("b", StartTenure)[0].heads[0].sequence == 1


def _only_holder_gone() -> Cluster:
    """A checkpoint that a and c hold; a is gone, c's copy is rotten, b never had it."""
    cluster = Cluster("a", "b", "c").with_primary("a")
    cluster.do("cut a b", "submit a s 1").live(0.2)
    return cluster.do("crash a", "rot c s").live(0.6)


def test_R8_a_bounded_number_is_fetched_at_a_time_until_all_are_held() -> None:
    """A late promise comes while what was fetched is being written: the only place goes to the next stream,
    nothing is fetched twice, and all are held in the end."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("cut a c", "cut b c")
    cluster.do("submit a s 1", "submit a t 1", "submit a u 1").live(0.6)
    state = cluster.state("c")
    state.config = structs.replace(state.config, fetches_max=1)
    cluster.do("mend a c", "mend b c", "crash a", "start a", "drop").live(1.2)
    cluster.forget().do("grant c", *PROBED, "sync c")
    cluster.do("deliver *->* Claim", "sync a b", "deliver b->c Promised", "fetch c")
    cluster.do("deliver a->c Promised", "sync c", "fetch c")
    cluster.live(1.5)
    assert [fetch.stream for fetch in cluster.effects("c", Fetch)] == ["s", "t", "u"]
    assert cluster.effects("c", StartTenure)


def test_R8_an_unreadable_head_is_waited_for_its_stream_alone() -> None:
    """T13, T26: nobody can read it and it may have committed: the tenure starts without it and says so."""
    cluster = _only_holder_gone().forget()
    cluster.do("grant b").live(6.0)
    tenures = cluster.effects("b", StartTenure)
    assert tenures, "the other streams must not wait"
    assert [head.stream for head in tenures[-1].unavailable] == ["s"]
    assert tenures[-1].heads == ()
    cluster.do("submit b s 9").live(0.3)
    assert cluster.effects("b", Abort), "nothing may replace what was not restored"


def test_R8_during_a_change_one_set_is_enough_for_doubt() -> None:
    """The old set alone committed before the joint record, the new one alone after the final one: a head is
    dropped only if neither can have held it, although every quorum of the joint record needs both (R27)."""
    members = [Member(node, node.encode() * 16) for node in "abc"]
    record = MemberRecord(2, (*members[:2], Member("c", b"C" * 16)), tuple(members))
    a, new, lost = (NodeId("a"), Incarnation(b"a" * 16)), Incarnation(b"C" * 16), Incarnation(b"c" * 16)
    for of_c in (new, lost):
        two_of_one_set = {a, (NodeId("c"), of_c)}
        assert not is_quorum(two_of_one_set, record)
        assert could_have_committed(two_of_one_set, record)
    assert not could_have_committed({a}, record)
    assert not could_have_committed({(NodeId("c"), new), (NodeId("c"), lost)}, record)


def test_R8_the_operator_can_abandon_what_nobody_can_read() -> None:
    """The one exception of I3: named, explicit, durable; the stream is free again afterwards."""
    cluster = _only_holder_gone()
    cluster.do("grant b").live(6.0)
    cluster.do("abandon b s").live(3.0).forget()
    cluster.do("submit b s 9").live(0.5)
    assert [commit.position.sequence for commit in cluster.effects("b", Commit)] == [9]


def test_R9_nothing_is_served_before_a_majority_has_adopted_it() -> None:
    """T1: the restored head is accepted again under the new epoch by a majority, then the tenure starts."""
    cluster = Cluster("a", "b", "c").with_primary("a")
    cluster.do("submit a s 1").live(0.2)
    cluster.do("crash a").live(0.6).forget()
    cluster.do("grant b")
    while not cluster.sent("b", Adopt):
        cluster.do("advance 0.05", "deliver", "sync")
    assert not cluster.effects("b", StartTenure)
    cluster.live(0.5)
    heads = cluster.state("c").heads[StreamName("s")], cluster.state("b").heads[StreamName("s")]
    assert [head.accepted_epoch for head in heads] == [2, 2]
    assert cluster.effects("b", StartTenure)[0].heads[0].accepted_epoch == 2


def test_R10_idle_streams_are_adopted_by_one_record() -> None:
    """Whatever the number of streams, one bulk record each; what differs is an exception."""
    cluster = Cluster("a", "b", "c").with_primary("a")
    for index in range(20):
        cluster.do(f"submit a s{index} 1")
    cluster.live(0.3)
    cluster.do("cut a c", "submit a s3 2").live(0.2)
    cluster.do("crash a", "mend a c").live(0.6).forget()
    cluster.do("grant b").live(1.0)
    (own,) = cluster.effects("b", AdoptHeads)
    (theirs,) = cluster.effects("c", AdoptHeads)
    assert own.exceptions == frozenset()
    assert theirs.exceptions == {"s3"}
    assert cluster.sent("c", Adopted)
    assert cluster.state("c").heads[StreamName("s3")].sequence == 2
    assert {head.accepted_epoch for head in cluster.state("c").heads.values()} == {2}


def test_R10_the_first_acceptance_drops_differing_heads() -> None:
    """A head of a dead branch does not survive the first acceptance of its stream in the new epoch."""
    cluster = Cluster("a", "b", "c").with_primary("a")
    cluster.do("cut a b", "cut a c", "submit a s 5", "settle").live(0.8)
    cluster.do("grant b").live(1.0)
    cluster.do("submit b s 1").live(0.2)
    cluster.do("mend a b", "mend a c").live(1.5)
    head = cluster.state("a").heads[StreamName("s")]
    assert (head.sequence, head.accepted_epoch) == (1, 2)


def test_R11_a_parked_probe_is_answered_when_the_lease_is_given_back() -> None:
    """No timer has to run out: the resigning owner's word releases the probe."""
    cluster = Cluster("a", "b", "c").with_primary("a").forget()
    me = cluster.owner("b")
    cluster.hear("c", "b", Probe(77))
    assert [(answer.would, answer.reason) for answer in cluster.sent("c", ProbeAnswer)] == [
        (False, Reason.LEASE)
    ]
    cluster.hear("c", "a", LeaseReturned(cluster.state("a").promised_epoch))
    assert [answer.would for answer in cluster.sent("c", ProbeAnswer)] == [False, True]
    assert me == cluster.owner("b")


def test_R11_a_granted_replica_keeps_trying() -> None:
    """A grant is a level: the first claim finds no majority, a later one does, without a new grant."""
    cluster = Cluster("a", "b", "c")
    cluster.do("cut a b", "cut a c", "grant a").live(2.0)
    assert not cluster.effects("a", StartTenure)
    cluster.do("mend a b", "mend a c").live(1.5)
    assert cluster.effects("a", StartTenure)


def test_R11_one_that_cannot_lead_gives_leadership_away() -> None:
    """T17: granted without an engine: it says so instead of sitting on the grant."""
    cluster = Cluster("a", "b", "c").do("engine a gone", "settle").forget()
    cluster.do("grant a").live(0.5)
    assert cluster.effects("a", Transfer)
    assert not cluster.effects("a", WritePromise)


def test_R11_a_member_stuck_at_a_higher_promise_is_claimed_above() -> None:
    """T28: c alone promised more; the primary goes on in a newer epoch, unchanged, and loses no ticket."""
    cluster = Cluster("a", "b", "c").with_primary("a")
    cluster.do("submit a s 1").live(0.2)
    cluster.do("cut a c").live(0.6)
    cluster.hear("c", "b", Claim(5, 1))
    cluster.do("sync c", "drop *", "mend a c").forget()
    cluster.live(0.3).do("submit a s 2").live(3.0)
    tenures = cluster.effects("a", StartTenure)
    assert [tenure.unchanged for tenure in tenures] == [True]
    assert tenures[0].epoch > 5
    assert not cluster.effects("a", Abort)
    assert [commit.position.sequence for commit in cluster.effects("a", Commit)] == [2]
    assert [end.epoch for end in cluster.effects("a", EndTenure)] == [1]
    assert cluster.effects("c", WritePromise)
    assert cluster.effects("a", Publish)
    assert cluster.sent("a", Heartbeat)


def test_heads_are_compared_by_checkpoint_not_by_epoch() -> None:
    """Adoption raises the accepted epoch; it is the same checkpoint still."""
    first = Head("s", 1, 1, 4, 1, bytes(32))
    assert first.same_as(Head("s", 1, 1, 4, 9, bytes(32)))
    assert not first.same_as(Head("s", 1, 1, 5, 1, bytes(32)))
    assert not first.same_as(None)


def test_R8_a_stream_that_was_withheld_takes_nothing_before_a_tenure_has_restored_it() -> None:
    """It becomes readable while the tenure is open: what is submitted to it then has no ancestor there."""
    cluster = _only_holder_gone()
    cluster.do("grant b").live(6.0)
    cluster.do("mend a b", "start a")
    while (reign := cluster.core("b")._primary.reign) is not None and reign.recovery.unavailable:
        cluster.do("advance 0.02", "deliver", "sync", "fetch")
    cluster.forget().do("submit b s 9")
    assert [abort.reason for abort in cluster.effects("b", Abort)]
    assert not cluster.effects("b", Publish)
    cluster.live(2.0)
    (tenure,) = cluster.effects("b", StartTenure)
    assert [head.sequence for head in tenure.heads] == [1]


def _adopted_all_but_s() -> tuple[Cluster, Promised]:
    """b has claimed and fetched s since, c was told to adopt all but s; the page is c's report."""
    cluster = Cluster("a", "b", "c").with_primary("a")
    cluster.do("cut a b", "submit a s 1").live(0.2)
    cluster.do("crash a", "cut b a").live(0.6)
    cluster.do("grant b")
    while not cluster.sent("b", Adopt):
        cluster.do("advance 0.02", "deliver", "sync")
    (page,) = [page for page in cluster.sent("c", Promised) if page.epoch == 2]
    cluster.do("sync b", "fetch b", "sync b")  # now b holds s itself, and c has adopted all but s
    assert cluster.state("b").heads[S].accepted_epoch == 2
    return cluster, page


def _s_is_not_counted(cluster: Cluster) -> None:
    """Whatever c was told, s was excepted, and its answer makes no tenure of it."""
    (adopt,) = {(adopt.digest, adopt.exceptions) for adopt in cluster.sent("b", Adopt)}
    cluster.hear("b", "c", Adopted(2, adopt[0]))
    assert adopt[1] == ("s",)
    assert not cluster.effects("b", StartTenure)


def test_R10_an_adoption_counts_only_for_what_it_was_told_to_cover() -> None:
    """The same report twice, looked at before and after a stream was fetched: its exception stays one."""
    cluster, page = _adopted_all_but_s()
    cluster.hear("b", "c", page)
    _s_is_not_counted(cluster)


def test_R11_a_stream_that_was_withheld_makes_a_bumped_tenure_another_one() -> None:
    """The tenure began without a stream that nobody could read; claimed above, an older checkpoint of it is
    chosen because the newest provably never committed: the engine gets a tenure that is not unchanged."""
    cluster = Cluster("a", "b", "c").with_primary("a")
    primary = cluster.core("a")._primary
    primary.tenure.withheld.add(StreamName("s"))
    cluster.forget()
    primary.claim_above("for the test")
    cluster.live(0.6)
    (tenure,) = cluster.effects("a", StartTenure)
    assert not tenure.unchanged


def test_R8_what_the_own_store_is_asked_to_accept_is_dropped_no_longer() -> None:
    """Fetched, and on its way to a slow disk, when nobody else can be asked any longer: dropped for an older
    one it would become the head all the same, under which nothing older is ever accepted."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.3)
    cluster.do("cut a b", "cut a c", "submit a s 2", "publish a", "sync a").live(0.6)
    cluster.do("mend a b", "mend a c").do("crash a", "start a").live(1.2).forget()
    cluster.do("grant b", *PROBED, "sync b")
    cluster.do("deliver *->* Claim", "sync a c", "deliver a->b Promised", "deliver c->b Promised")
    reign = cluster.core("b")._primary.reign
    assert reign is not None
    assert reign.recovery.chosen[StreamName("s")].sequence == 2
    cluster.do("fetch b")
    assert [accept.manifest.sequence for accept in cluster.effects("b", Accept)] == [2]
    stream, digest = StreamName("s"), Digest(reign.recovery.chosen[StreamName("s")].digest)
    for _ in range(5):
        cluster.state("b").fetch(stream, digest, None, ())  # as the mending of rot may
        cluster.node("b").deliver(FetchFailed(cluster.state("b").fetching[stream].number, stream))
    assert reign.recovery.chosen[StreamName("s")].sequence == 2
    cluster.live(0.5)
    (tenure,) = cluster.effects("b", StartTenure)
    assert [head.sequence for head in tenure.heads] == [2]


def test_R10_an_adoption_counts_for_what_it_covered_whoever_spoke_since() -> None:
    """A frame of c's former incarnation comes between the same report told twice: what c was told stays."""
    cluster, page = _adopted_all_but_s()
    hello = Hello(False, None, "c:1", "")
    cluster.hear("b", "c", hello, incarnation=Incarnation(bytes(16)))
    cluster.hear("b", "c", hello)
    cluster.hear("b", "c", page)
    assert len(cluster.sent("b", Adopt)) > 1
    _s_is_not_counted(cluster)
