"""R24-R26 and R28: who may call itself primary now, and what is refused at the door."""

from __future__ import annotations

import pytest

from replicator.core.config import EPOCH_JUMP_MAX, Config
from replicator.core.effects import Commit, EndTenure, Notice, SetLease, StartTenure, Transfer, WritePromise
from replicator.core.lease import Lender
from replicator.core.messages import (
    Claim,
    Echo,
    Heartbeat,
    HeartbeatAnswer,
    LeaseReturned,
    Probe,
    ProbeAnswer,
    Reason,
    Refusal,
)
from replicator.model import Epoch, NodeId, Owner, Process, Promise, Role
from tests.rules.cluster import Cluster

ME = Process(b"lender's process")
PRIMARY = Owner("a", b"a's  incarnation", b"the primary's pr")
OTHER = Owner("b", b"b's  incarnation", b"another process!")
CONFIG = Config(node="c", peers=frozenset({"a", "b"}))  # type: ignore[arg-type]


def test_R24_nothing_is_lent_without_a_fresh_echo() -> None:
    """T22: a question that does not prove that our answers arrive lends nothing; nor does an old proof."""
    lender = Lender(CONFIG, ME, None, 0.0)
    assert not lender.lend(PRIMARY, 0.3, None, 1.0)
    assert not lender.lend(PRIMARY, 0.3, Echo(ME, 0.5), 1.0)
    assert not lender.lend(PRIMARY, 0.3, Echo(Process(bytes(16)), 0.99), 1.0)
    assert lender.lend(PRIMARY, 0.3, Echo(ME, 0.9), 1.0)
    assert lender.blocks(OTHER, 1.29)
    assert not lender.blocks(OTHER, 1.31)


def test_R24_a_lease_is_lent_to_one_exact_owner() -> None:
    """Another owner, also the same node's next process, waits until it has passed."""
    lender = Lender(CONFIG, ME, None, 0.0)
    lender.lend(PRIMARY, 0.3, Echo(ME, 1.0), 1.0)
    assert not lender.lend(OTHER, 0.3, Echo(ME, 1.1), 1.1)
    restarted = Owner(PRIMARY.node, PRIMARY.incarnation, b"its next process")
    assert lender.blocks(restarted, 1.2)
    assert not lender.blocks(PRIMARY, 1.2)


def test_R24_no_question_may_ask_for_more_than_the_maximum() -> None:
    """The length comes with the question; one that asks for more is lent nothing, as it would count on all
    of it, while a restarted lender waits for the maximum only."""
    lender = Lender(CONFIG, ME, None, 0.0)
    assert not lender.lend(PRIMARY, CONFIG.lease_max_s + 0.01, Echo(ME, 1.0), 1.0)
    assert not lender.blocks(OTHER, 1.0)
    assert lender.lend(PRIMARY, CONFIG.lease_max_s, Echo(ME, 1.0), 1.0)


def test_R11_a_primary_that_hears_nobody_is_not_waited_for() -> None:
    """Its heartbeats arrive, the answers are lost: it cannot have the lease, and would give up much later."""
    assert not _claims_beside("its answers arrive")
    assert _claims_beside("its answers are lost")


def _claims_beside(what: str) -> bool:
    """Whether b, granted, claims while it hears heartbeats of a; which hears of b, or nobody."""
    cluster = Cluster("a", "b", "c").with_primary("a").live(0.2).do("cut a b", "cut a c", "grant b").forget()
    heard = Echo(cluster.owner("b").process, cluster.state("b").now)
    for question in range(100, 110):
        if what == "its answers arrive":
            heard = Echo(heard.process, cluster.state("b").now)
        cluster.hear("b", "a", Heartbeat(1, question, 0.3, heard, 0, ()))
        cluster.live(0.1)
    return bool(cluster.sent("b", Probe))


def test_R24_a_primary_without_a_majority_borrows_nothing() -> None:
    """The one follower that it still hears would keep its promise from whom a majority can follow: until
    the elector was followed, or the lapse was too long."""
    cluster = Cluster("a", "b", "c", "d", "e").with_primary("a").live(0.2)
    cluster.do("cut a b", "cut a c", "cut a d", "cut d b", "cut d c", "grant b").live(1.0)
    assert cluster.core("b").role is Role.PRIMARY
    assert not cluster.effects("a", EndTenure)


def test_R25_it_borrows_again_as_soon_as_it_hears_a_majority() -> None:
    """Nothing newer was promised: it goes on in the same epoch."""
    cluster = Cluster("a", "b", "c", "d", "e").with_primary("a").live(0.2)
    cluster.do("cut a b", "cut a c", "cut a d").live(0.6)
    assert cluster.lease_word("a") < cluster.state("a").now
    cluster.do("mend a c").live(0.15)
    assert cluster.lease_word("a") > cluster.state("a").now
    assert not cluster.effects("a", EndTenure)


def test_R11_who_is_lent_nothing_for_long_lets_another_try() -> None:
    """The elector may go on naming it for as long as answers come in; the tenure stays meanwhile."""
    cluster = Cluster("a", "b", "c", "d", "e").with_primary("a").live(0.2)
    cluster.do("cut a b", "cut a c", "cut a d").live(2.2)
    assert not cluster.effects("a", Transfer)
    cluster.live(0.3)
    assert cluster.effects("a", Transfer)[0].to == "e"
    assert not cluster.effects("a", EndTenure)


def test_R11_whom_the_elector_names_no_longer_has_let_another_try() -> None:
    """To give leadership away once more would keep it from standing when the other is gone."""
    cluster = Cluster("a", "b", "c", "d", "e").with_primary("a").live(0.2)
    cluster.do("cut a b", "cut a c", "cut a d").live(1.0)
    cluster.do("revoke a").live(1.6)
    assert not cluster.effects("a", Transfer)
    assert not cluster.effects("a", EndTenure)


def test_R24_a_lease_that_is_too_long_is_refused_with_the_reason() -> None:
    """Nodes whose settings differ say so, once, instead of a tenure that never becomes active."""
    cluster = Cluster("a", "b", "c").with_primary("a").live(0.2).forget()
    epoch = cluster.state("a").promised_epoch
    echo = cluster.core("b")._lender.echo(cluster.state("b").now)
    for question in (100, 101):
        cluster.hear("b", "a", Heartbeat(epoch, question, 1.5, echo, 0, ()))
    answers = [a.lends for a in cluster.sent("b", HeartbeatAnswer) if a.question in (100, 101)]
    assert answers == [False, False]
    notices = [notice.text for notice in cluster.effects("b", Notice)]
    assert len(notices) == 1
    assert "REPLICATOR_LEASE_MAX_S" in notices[0]


def test_R24_a_restarted_lender_waits_the_maximum() -> None:
    """What it lent is forgotten with the process: nobody else is promised before it has surely passed."""
    lender = Lender(CONFIG, ME, PRIMARY, 10.0)
    assert lender.blocks(OTHER, 10.9)
    assert not lender.blocks(PRIMARY, 10.9)
    assert not lender.blocks(OTHER, 11.0)


def test_R24_a_lender_restarted_with_another_maximum_waits_the_longer_one() -> None:
    """What was lent under the settings of then passes before anybody else is promised: another profile on a
    restarted node makes no second active tenure."""
    shorter = Lender(CONFIG, ME, PRIMARY, 10.0, lent_s=5.0)
    assert shorter.blocks(OTHER, 14.9)
    assert not shorter.blocks(OTHER, 15.0)
    assert Lender(CONFIG, ME, PRIMARY, 10.0, lent_s=0.5).blocks(OTHER, 10.9)


def test_R24_the_lease_counts_from_when_the_question_was_sent() -> None:
    """An answer that comes late prolongs from the sending, less the margin for clock rates."""
    cluster = Cluster("a", "b", "c").with_primary("a").live(0.3).do("cut a b")
    cluster.do("drop *").forget()
    cluster.do("advance 0.06")
    sent_at = cluster.node("a").clock.local(cluster.now)
    cluster.do("advance 0.05", "settle")
    config = cluster.state("a").config
    deadline = cluster.lease_word("a")
    assert deadline <= sent_at + config.lease_s - config.lease_margin_s
    assert config.lease_margin_s >= 2 * config.clock_rate_bound * config.lease_s


def test_R24_the_lenders_refuse_longer_than_the_holder_believes() -> None:
    """Cut off, the primary's word runs out before any backup promises another."""
    cluster = Cluster("a", "b", "c").with_primary("a").live(0.3)
    deadline = cluster.lease_word("a")
    cluster.do("cut a b", "cut a c", "grant b").forget()
    while not cluster.effects("c", WritePromise):
        cluster.do("advance 0.01", "settle")
    assert cluster.node("a").clock.local(cluster.now) >= deadline


def test_R24_a_primary_is_a_lender_to_itself() -> None:
    """While it holds its lease it promises nobody else; after that its word is cleared first."""
    cluster = Cluster("a", "b", "c").with_primary("a").live(0.2).forget()
    cluster.hear("a", "b", Claim(9, 1))
    assert [refusal.reason for refusal in cluster.sent("a", Refusal)] == [Reason.LEASE]
    cluster.do("cut a b", "cut a c").live(0.5).forget()
    cluster.hear("a", "b", Claim(9, 1))
    order = cluster.order("a")
    assert order.index(SetLease) < order.index(WritePromise)
    assert cluster.lease_word("a") == 0.0


def test_R25_suspended_without_the_lease_and_resumed_with_it() -> None:
    """A short hiccup: no commit is reported meanwhile, the same tenure goes on, and what waited commits."""
    cluster = Cluster("a", "b", "c").with_primary("a").live(0.3)
    cluster.do("submit a s 1", "publish a", "sync a b c")
    cluster.do("cut a b", "cut a c").live(0.6)
    assert not cluster.core("a").status()["active"]
    assert not cluster.effects("a", Commit)
    cluster.do("mend a b", "mend a c").live(0.5)
    assert cluster.core("a").status()["active"]
    assert [commit.position.epoch for commit in cluster.effects("a", Commit)] == [1]
    assert not cluster.effects("a", EndTenure)


def test_R25_a_newer_promise_on_a_majority_ends_it_for_good() -> None:
    """b has taken over: the old primary's tenure ends, it becomes a backup and follows."""
    cluster = Cluster("a", "b", "c").with_primary("a").live(0.2)
    cluster.do("cut a b", "cut a c", "grant b").live(1.5)
    assert cluster.effects("b", StartTenure)
    cluster.do("mend a b", "mend a c").live(0.5)
    assert len(cluster.effects("a", EndTenure)) == 1
    assert cluster.core("a").role is Role.BACKUP
    assert cluster.state("a").promise == cluster.state("b").promise


def test_R25_a_revoke_alone_ends_nothing() -> None:
    """The elector may flap; only when it steadily names another does the primary hand over."""
    cluster = Cluster("a", "b", "c").with_primary("a").live(0.2)
    cluster.do("revoke a").live(1.0)
    assert not cluster.effects("a", EndTenure)
    cluster.do("grant a").live(3.0)
    assert not cluster.effects("a", EndTenure)
    cluster.do("revoke a").live(3.0)
    assert len(cluster.effects("a", EndTenure)) == 1


def test_R25_a_lapse_longer_than_the_limit_ends_it() -> None:
    """Alone for too long: the engine is told that it is over."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("cut a b", "cut a c").live(7.0)
    assert len(cluster.effects("a", EndTenure)) == 1
    assert cluster.core("a").role is not Role.PRIMARY


def test_R26_a_primary_that_resigns_gives_the_lease_back_at_once() -> None:
    """Guard closed, lease given back, leadership transferred, in this order; another may start at once."""
    cluster = Cluster("a", "b", "c").with_primary("a").live(0.2).forget()
    cluster.do("resign a")
    order = cluster.order("a")
    assert order.index(SetLease) < order.index(EndTenure) < order.index(LeaseReturned)
    assert order.index(LeaseReturned) < order.index(Transfer)
    cluster.do("revoke a", "grant b", "settle")
    cluster.do("advance 0.06", "settle")
    assert cluster.effects("b", StartTenure), "nobody waited for a timer"


def test_R28_an_epoch_may_jump_by_a_bounded_step_only() -> None:
    """T21: an absurd epoch is refused, and no word brings the next claim nearer to it than by one step."""
    cluster = Cluster("a", "b", "c")
    cluster.hear("c", "b", Claim(EPOCH_JUMP_MAX + 2, 1))
    assert [refusal.reason for refusal in cluster.sent("c", Refusal)] == [Reason.JUMP]
    cluster.hear("c", "b", Heartbeat(2**61, 1, 0.3, None, 0, ()))
    cluster.hear("c", "b", Refusal(1, None, Reason.PROMISED))
    cluster.hear("c", "b", Refusal(1, Promise(2**61, OTHER), Reason.PROMISED))
    cluster.hear("c", "b", ProbeAnswer(0, would=False, epoch=EPOCH_JUMP_MAX + 1, reason=Reason.PROMISED))
    assert not cluster.effects("c", WritePromise)
    assert cluster.state("c").epoch_seen <= 5 * EPOCH_JUMP_MAX


@pytest.mark.parametrize("is_lost", [True, False])
def test_R28_who_was_away_for_very_many_epochs_follows(is_lost: bool) -> None:
    """A node that knows of no epoch of a cluster that has had more of them than one may jump, as its disk is
    new or it was never there."""
    cluster = Cluster("a", "b", "c").do("crash a b c", *["wipe c"] * is_lost)
    owner = Owner(NodeId("b"), cluster.node("b").disk.image.incarnation, Process(bytes(16)))
    for name in "ab":
        cluster.node(name).disk.image.promise = Promise(Epoch(2 * EPOCH_JUMP_MAX), owner)
    cluster.do("start a b").live(1.2).with_primary("a").do("submit a s 1", "start c").live(3.0)
    assert cluster.core("c").role is Role.BACKUP
    assert len(cluster.state("c").heads) == 1


def test_R28_a_claim_that_jumped_too_far_for_one_peer_leaves_nobody_behind() -> None:
    """One word brings a node as near to an absurd epoch as it may jump; what it claims above that, and has
    promised itself, is too far for the others until they have heard of it."""
    cluster = Cluster("a", "b", "c").with_primary("a").live(0.3)
    cluster.hear("c", "b", ProbeAnswer(0, would=False, epoch=2**61, reason=Reason.PROMISED))
    cluster.do("crash a", "grant c").live(3.0)
    assert cluster.core("c").role is Role.PRIMARY
    assert cluster.state("b").promise == cluster.state("c").promise


def test_R28_a_stranger_is_not_heard() -> None:
    """A message of a node that is not configured as a peer changes nothing and is not answered."""
    cluster = Cluster("a", "b", "c", "d")
    cluster.state("c").config = Config(node="c", peers=frozenset({"a", "b"}))  # type: ignore[arg-type]
    cluster.forget().hear("c", "d", Claim(1, 1))
    cluster.do("settle")
    assert not cluster.effects("c", WritePromise)
    assert not cluster.sent("c", HeartbeatAnswer)
