"""R5, R11 and R24: the turns that a claim may take on its way, and how each of them ends."""

from __future__ import annotations

import pytest

from replicator.core.effects import Changed, EndTenure, StartTenure, Transfer, WritePromise
from replicator.core.events import RecordWritten, Tick
from replicator.core.messages import Claim, LeaseReturned, Probe, ProbeAnswer, Promised, Reason, Refusal
from replicator.model import Epoch, Incarnation, MemberRecord, NodeId, Promise, Role, StreamName
from tests.rules.cluster import PROBED, Cluster
from tests.rules.test_publishing import serving

STRANGER = Incarnation(b"somebody else's!")


def _claiming(*names: str) -> Cluster:
    """a has promised itself epoch 1, and its claims are on their way."""
    return Cluster(*names).do("grant a", *PROBED, "sync a")


def _bump(cluster: Cluster) -> None:
    """Something makes a claim a higher epoch."""
    cluster.core("a")._primary.claim_above("for the test")
    cluster.node("a").deliver(Tick())


def _yes(cluster: Cluster, name: str, sender: str) -> None:
    """*sender* would promise *name* what it asks for just now."""
    nonce = cluster.core(name)._claimant._nonce
    cluster.hear(name, sender, ProbeAnswer(nonce, True, 0, None))


def test_R11_a_claim_that_nobody_answers_is_told_again_and_then_given_up() -> None:
    """Within a bounded time, and with a reason; a new one comes while the grant stands."""
    cluster = _claiming("a", "b", "c").do("drop", "cut a b", "cut a c").forget().do("advance 0.4")
    assert len(cluster.sent("a", Claim)) == 2
    cluster.do("advance 0.2")
    assert cluster.effects("a", Changed)[0].reason == "no majority promised in time"
    cluster.do("mend a b", "mend a c").live(1.0)
    assert cluster.effects("a", StartTenure)


def test_R11_a_claim_is_told_again_to_those_alone_that_have_not_answered() -> None:
    """Of five b has promised already."""
    cluster = _claiming("a", "b", "c", "d", "e").do("deliver a->b", "sync b", "deliver b->a", "drop")
    cluster.forget().do("advance 0.31", "deliver a->*")
    assert cluster.sent("a", Claim)
    assert not any(cluster.effects("b", object))
    assert cluster.effects("c", WritePromise)


def test_R11_a_claim_that_is_refused_for_a_promise_is_lost() -> None:
    """One refused for a lease waits for it; the next goes above what the refusal told."""
    cluster = _claiming("a", "b", "c").do("drop").forget()
    cluster.hear("a", "b", Refusal(1, None, Reason.LEASE))
    assert cluster.core("a").role is Role.CANDIDATE
    cluster.hear("a", "b", Refusal(1, Promise(9, cluster.owner("b")), Reason.PROMISED))
    assert cluster.core("a").role is Role.BACKUP
    cluster.live(1.5)
    assert [tenure.epoch for tenure in cluster.effects("a", StartTenure)] == [10]


def test_R11_a_claim_above_a_stuck_member_that_is_lost_is_made_again() -> None:
    """The tenure stays, suspended, and goes on in the epoch that is won in the end."""
    cluster = serving()
    _bump(cluster)
    cluster.do(*PROBED, "sync a", "drop")
    cluster.hear("a", "b", Refusal(2, Promise(9, cluster.owner("b")), Reason.PROMISED))
    assert cluster.core("a").role is Role.PRIMARY
    assert not cluster.effects("a", EndTenure)
    cluster.live(1.5)
    assert [(tenure.epoch, tenure.unchanged) for tenure in cluster.effects("a", StartTenure)] == [(10, True)]


def test_R11_two_reasons_to_claim_above_are_one_claim() -> None:
    """The second comes while the promise of the first is on its way to the disk."""
    cluster = serving()
    _bump(cluster)
    cluster.do(*PROBED)
    _bump(cluster)
    cluster.live(1.0)
    assert [write.promise.epoch for write in cluster.effects("a", WritePromise)] == [2]
    assert [tenure.epoch for tenure in cluster.effects("a", StartTenure)] == [2]


def test_R20_a_grant_before_the_founding_waits_for_it() -> None:
    """Nobody else could do more with it: it is not given away (T17)."""
    cluster = Cluster("a", "b", "c", founded=False).do("grant a", "advance 0.2")
    assert not cluster.effects("a", Transfer)
    cluster.live(2.5)
    assert cluster.effects("a", StartTenure)


def _probing_against_b() -> Cluster:
    """b is primary and unheard at a, which the elector has named; then they hear each other again."""
    cluster = Cluster("a", "b", "c").with_primary("b").live(0.2)
    cluster.do("cut a b").live(0.6).forget().do("grant a", "mend a b")
    assert cluster.core("a").role is Role.CANDIDATE
    while not cluster.core("a")._lender.blocks(cluster.owner("a"), cluster.state("a").now):
        cluster.do("advance 0.02", "deliver a->b", "deliver b->a Heartbeat")
        assert cluster.core("a").role is Role.CANDIDATE
    return cluster


def test_R11_a_primary_that_is_heard_again_ends_the_probing() -> None:
    """It is alive, so nothing is claimed."""
    cluster = _probing_against_b().live(0.4)
    assert "a primary of a higher epoch is alive" in [each.reason for each in cluster.effects("a", Changed)]
    assert not cluster.effects("a", WritePromise)


def test_R24_who_has_lent_while_it_probed_claims_nothing() -> None:
    """The other's yes makes a majority of answers, but its own word to b stands against it now."""
    cluster = _probing_against_b()
    _yes(cluster, "a", "c")
    assert not cluster.effects("a", WritePromise)


def test_R24_a_restarted_claimant_waits_for_what_it_may_have_lent() -> None:
    """As long as that takes it keeps the grant, and promises not even itself."""
    cluster = Cluster("a", "b", "c").with_primary("b").live(0.2)
    cluster.do("crash b", "crash a", "start a").forget().do("grant a").live(0.9)
    assert not cluster.effects("a", WritePromise)
    cluster.live(1.0)
    assert cluster.effects("a", StartTenure)
    assert not cluster.effects("a", Transfer)


def test_R20_a_candidate_that_is_replaced_promises_itself_nothing() -> None:
    """The newest record names another store in its place: it gives the grant away in the end (T17)."""
    cluster = Cluster("a", "b", "c").do("cut a b", "cut a c", "grant a")
    record = cluster.state("a").record
    assert record is not None
    others = tuple(member for member in record.members if member.node != "a")
    cluster.node("a").deliver(RecordWritten(MemberRecord(2, others), Epoch(0), True, 9))
    cluster.do("advance 0.4")
    for sender in ("b", "c"):
        _yes(cluster, "a", sender)
    assert not cluster.effects("a", WritePromise)
    cluster.do("advance 2.5")
    assert cluster.effects("a", Transfer)


def test_R11_a_parked_probe_stays_parked_while_the_lease_lasts() -> None:
    """Another end of waiting changes nothing for it."""
    cluster = Cluster("a", "b", "c").with_primary("a").forget()
    cluster.hear("c", "b", Probe(77))
    cluster.hear("c", "b", LeaseReturned(7))
    assert [answer.would for answer in cluster.sent("c", ProbeAnswer)] == [False]


def test_R2_each_promise_is_told_to_the_one_it_was_given_to() -> None:
    """Two claims wait for the same disk: both promises are told, each once it is durable."""
    cluster = Cluster("a", "b", "c")
    cluster.hear("c", "a", Claim(1, 1))
    cluster.hear("c", "b", Claim(2, 1))
    cluster.do("sync c")
    assert [promised.epoch for promised in cluster.sent("c", Promised)] == [1, 2]


def test_R26_a_lease_that_was_never_lent_cannot_be_given_back() -> None:
    """The owner of a promise ends before it has asked for anything: nothing else is freed by it."""
    cluster = Cluster("a", "b", "c").with_primary("a").live(0.2)
    lender = cluster.core("c")._lender
    until, lender.owner = lender.until, cluster.owner("b")
    cluster.hear("c", "a", LeaseReturned(cluster.state("a").promised_epoch))
    assert lender.until == until > cluster.state("c").now


def test_R20_a_new_set_of_members_is_told_to_those_that_have_promised() -> None:
    """d, which is down, learns of it with its promise."""
    cluster = Cluster("a", "b", "c", "d", "e").with_primary("a").live(0.2).do("crash d", "crash e")
    _bump(cluster)  # so that d has promised nothing in the epoch
    cluster.live(0.5).do("wipe e", "start e").forget().live(3.0)
    assert cluster.core("e").role is Role.BACKUP
    record = cluster.state("a").record
    assert record is not None
    assert record.find(cluster.node("e").name).incarnation == cluster.owner("e").incarnation  # type: ignore[union-attr]
    cluster.do("start d").live(2.0)
    assert cluster.state("d").record == record


def test_R11_a_bump_that_comes_to_nothing_leaves_the_tenure_as_it_was() -> None:
    """Nobody answers for a while, and what called for it is gone: the grant is not given away."""
    cluster = serving().do("submit a s 1").live(0.3).forget().do("cut a b", "cut a c")
    cluster.state("a").draw = lambda: 0.0
    cluster.core("a")._primary.claim_above("for the test")
    cluster.live(2.3)
    assert not cluster.effects("a", Transfer)
    cluster.do("mend a b", "mend a c").live(0.5).do("submit a s 2").live(0.3)
    assert cluster.core("a").role is Role.PRIMARY
    _bump(cluster)
    cluster.live(1.0)
    assert cluster.core("a").role is Role.PRIMARY
    assert cluster.core("a")._primary.tenure.epoch == 2


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_R11_an_engine_that_leaves_during_a_claim_gives_the_grant_away(steps: int) -> None:
    """Nobody would take the tenure that is being claimed."""
    cluster = Cluster("a", "b", "c").do("grant a")
    cluster.do(*["deliver a->* Probe", "deliver *->a ProbeAnswer", "sync a"][: steps + steps // 2])
    phase = cluster.core("a")._claimant.phase
    cluster.do("engine a gone")
    assert phase.value == ("probing", "probing", "claiming")[steps]
    assert cluster.effects("a", Transfer) == [Transfer(None)]
    cluster.live(1.0)
    assert not cluster.effects("a", StartTenure)


def test_R5_during_a_bump_nobody_is_asked_before_the_own_promise_is_durable() -> None:
    """The heartbeats of the epoch that still reigns tell a follower without a report the claim again."""
    cluster = serving().do("submit a s 1").live(0.3).do("cut a c", "resign a").live(0.8)
    cluster.do("mend a c").forget().do("drop")
    _bump(cluster)
    cluster.do("advance 0.07", "deliver a->b", "deliver b->a", "advance 0.25")
    promise = cluster.state("a").promise
    assert promise is not None
    assert all(claim.epoch <= promise.epoch for claim in cluster.sent("a", Claim))


def _without_c() -> Cluster:
    """a is primary without c, which is down, and holds what c has never heard of."""
    cluster = Cluster("a", "b", "c").do("crash c").with_primary("a").live(0.2).do("submit a s 1").live(0.3)
    cluster.state("a").draw = lambda: 0.0
    return cluster.forget()


def test_R11_a_late_promise_is_taken_after_a_bump_that_came_to_nothing() -> None:
    """The reign goes on in its epoch, and who comes back into it is told everything, as ever (R10, R18)."""
    cluster = _without_c().do("cut a b")
    cluster.core("a")._primary.claim_above("for the test")
    cluster.live(2.3).do("mend a b").live(0.5).do("start c").live(1.0)
    assert not cluster.effects("a", EndTenure)
    assert StreamName("s") in cluster.state("c").heads
    assert cluster.core("a").status()["lacking"] == {"b": 0, "c": 0}


def test_R11_a_promise_of_a_claim_that_was_lost_is_no_report_to_the_reign_below_it() -> None:
    """It tells what was held in another epoch than the primary's; nor is anybody asked for it any longer."""
    cluster = _without_c().do("cut a b")
    _bump(cluster)
    _yes(cluster, "a", "b")
    cluster.do("sync a")
    cluster.hear("a", "b", Refusal(2, Promise(9, cluster.owner("b")), Reason.PROMISED))
    reign, record = cluster.core("a")._primary.reign, cluster.state("b").record
    assert reign is not None
    assert record is not None
    known = reign.progress.followers[NodeId("b")].report
    cluster.hear("a", "b", Promised(2, 2, 0, 1, (), record, 0, cluster.core("b")._lender.echo(0.0)))
    cluster.forget().do("advance 0.25")
    assert reign.progress.followers[NodeId("b")].report is known
    assert not cluster.sent("a", Claim)


def test_R25_one_lapse_may_hold_many_claims() -> None:
    """Each claim above is promised to oneself and then lost, and none prolongs what the engine waits for."""
    cluster = serving().do("submit a s 1").live(0.3).forget()
    _bump(cluster)
    for _ in range(140):
        cluster.do("advance 0.05", *["drop * Promised", "deliver", "sync"] * 4)
    assert len(cluster.effects("a", WritePromise)) > 2
    assert [end.reason for end in cluster.effects("a", EndTenure)] == ["the lease lapsed for too long"]
