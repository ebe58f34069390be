"""R1-R4: one owner per epoch, promises before answers, and nothing of the past."""

from __future__ import annotations

from msgspec import structs

from replicator.core.effects import Accept, WritePromise, WriteRecord
from replicator.core.events import Accepted, AcceptRefused, ManifestReceived, PromiseWritten, Received, Why
from replicator.core.messages import (
    Ack,
    Adopt,
    Claim,
    Echo,
    Heartbeat,
    Members,
    Probe,
    Promised,
    Reason,
    Refusal,
)
from replicator.model import Epoch, Manifest, MemberRecord, Process, Promise
from tests.rules.cluster import PROBED, Cluster


def manifest(stream: str = "s", epoch: int = 1, sequence: int = 1) -> Manifest:
    """A checkpoint without chunks, so that nothing has to be fetched."""
    digest = f"{stream}/{epoch}/{sequence}".encode().ljust(32, b"\0")
    return Manifest(stream, 1, epoch, sequence, (), b"", False, False, digest)


def test_R1_an_epoch_is_promised_to_one_owner_only() -> None:
    """The same epoch asked for by another node is refused, and the refusal says who has it."""
    cluster = Cluster("a", "b", "c")
    cluster.hear("c", "a", Claim(1, 1))
    cluster.do("sync c").forget()
    cluster.hear("c", "b", Claim(1, 1))
    cluster.do("sync c")
    (refusal,) = cluster.sent("c", Refusal)
    assert refusal.reason is Reason.PROMISED
    assert refusal.promised == Promise(1, cluster.owner("a"))
    assert not cluster.sent("c", Promised)


def test_R1_a_restarted_process_is_another_owner() -> None:
    """T15: after a restart the same node asking for its old epoch is refused like anybody."""
    cluster = Cluster("a", "b", "c").with_primary("a")
    cluster.do("crash a", "start a").live(1.5).forget()
    cluster.hear("c", "a", Claim(1, 9), counter=cluster.state("a").counter)
    cluster.do("sync c")
    assert [refusal.reason for refusal in cluster.sent("c", Refusal)] == [Reason.PROMISED]


def test_R1_the_very_same_claim_again_is_promised_again() -> None:
    """A claim that is repeated because its answer was lost is answered the same."""
    cluster = Cluster("a", "b", "c")
    cluster.hear("c", "a", Claim(1, 1))
    cluster.do("sync c")
    cluster.hear("c", "a", Claim(1, 1))
    assert len(cluster.sent("c", Promised)) == 2
    assert len(cluster.effects("c", WritePromise)) == 1


def test_R2_a_promise_is_durable_before_it_is_told() -> None:
    """Nothing is answered while the promise is on its way to the disk (T7)."""
    cluster = Cluster("a", "b", "c")
    cluster.hear("c", "a", Claim(1, 1))
    assert cluster.effects("c", WritePromise)
    assert not cluster.sent("c", Promised)
    cluster.do("sync c")
    order = cluster.order("c")
    assert order.index(PromiseWritten) < order.index(Promised)


def overtaken() -> Cluster:
    """c has accepted s, its acceptance of t waits for the disk, and b's claim overtakes it."""
    cluster = Cluster("a", "b", "c").with_primary("a")
    cluster.do("submit a s 1", "publish a", "sync c", "submit a t 1", "publish a").forget()
    cluster.now += 0.4  # the lease that c lent has passed
    cluster.hear("c", "b", Claim(5, 1))
    return cluster.do("sync c")


def test_R2_heads_are_read_after_the_promise_is_durable() -> None:
    """T7: the report holds what was accepted before the promise, and nothing of what came after it."""
    (told,) = overtaken().sent("c", Promised)
    assert [head.stream for head in told.heads] == ["s"]


def test_R3_the_past_is_refused_and_learns_what_is_promised() -> None:
    """Claims, heartbeats, publications and adoptions below the promised epoch change nothing."""
    cluster = Cluster("a", "b", "c")
    cluster.hear("c", "b", Claim(7, 1))
    cluster.do("sync c").forget()
    before = cluster.state("c").promise
    cluster.hear("c", "a", Claim(6, 1))
    cluster.hear("c", "a", Heartbeat(6, 1, 0.3, Echo(cluster.owner("c").process, cluster.now), 0, ()))
    me = cluster.owner("a")
    cluster.node("c").deliver(
        ManifestReceived(cluster.node("a").name, me.incarnation, Epoch(6), manifest(epoch=6))  # type: ignore[arg-type]
    )
    cluster.do("sync c")
    refusals = cluster.sent("c", Refusal)
    assert [refusal.epoch for refusal in refusals] == [6, 6, 6]
    assert {refusal.promised for refusal in refusals} == {before}
    assert not cluster.effects("c", Accept)
    assert not cluster.effects("c", WritePromise)


def test_R3_adoption_and_members_of_the_past_are_ignored() -> None:
    """A deposed primary's bulk adoption or newer member record is neither stored nor answered."""
    cluster = Cluster("a", "b", "c").with_primary("a")
    record = cluster.state("a").record
    assert record is not None
    cluster.now += 0.4
    cluster.hear("c", "b", Claim(7, 1))
    cluster.do("sync c").forget()
    cluster.hear("c", "a", Members(1, structs.replace(record, version=record.version + 1)))
    cluster.hear("c", "a", Adopt(1, bytes(32), 0, 1, ()))
    assert cluster.order("c") == [Received, Received]


def test_R4_the_fence_is_checked_when_it_is_written() -> None:
    """T6: asked for in time, but a promise overtakes it on the way to the disk: refused there, no ack."""
    cluster = overtaken()
    handled = [event for _, who, verb, event in cluster.trace.entries if who == "c" and verb == "handle"]
    accepted = [event.manifest.stream for event in handled if isinstance(event, Accepted)]
    refused = [(e.manifest.stream, e.why) for e in handled if isinstance(e, AcceptRefused)]
    assert accepted == ["s"]
    assert refused == [("t", Why.FENCED)]
    assert all(acked.stream != "t" for ack in cluster.sent("c", Ack) for acked in ack.acks)


def test_R4_a_primarys_own_acceptance_is_fenced_too() -> None:
    """T8: after promising another, the old primary's own disk takes nothing more in its epoch."""
    cluster = Cluster("a", "b", "c").with_primary("a")
    cluster.do("cut a b", "cut a c").live(0.6).forget()
    cluster.hear("a", "b", Claim(5, 1))
    cluster.do("sync a")
    assert cluster.state("a").promise == Promise(5, cluster.owner("b"))
    cluster.do("submit a s 1", "publish a", "sync a")
    assert cluster.state("a").heads == {}
    assert not cluster.effects("a", Accept)


def test_R4_accepting_in_an_epoch_implies_promising_it() -> None:
    """A publication of an epoch that is not promised yet is not accepted."""
    cluster = Cluster("a", "b", "c")
    me = cluster.owner("a")
    cluster.node("c").deliver(
        ManifestReceived(cluster.node("a").name, me.incarnation, Epoch(3), manifest(epoch=3))  # type: ignore[arg-type]
    )
    assert not cluster.effects("c", Accept)


def test_a_probe_is_not_a_promise() -> None:
    """R5's question leaves no trace on the disk, whoever asks it."""
    cluster = Cluster("a", "b", "c")
    cluster.hear("c", "a", Probe(1), process=Process(b"another process!"))
    cluster.do("sync c")
    assert cluster.state("c").promise is None
    assert not cluster.effects("c", WritePromise)


def test_R4_no_record_and_no_forgetting_in_an_epoch_that_is_over_here() -> None:
    """A primary that claims above stuck members has promised itself more: a change of members that was under
    way goes on in the new epoch, for nothing may be written or told in the old one any longer."""
    cluster = Cluster("a", "b", "c").with_primary("a").live(0.3)
    state = cluster.state("a")
    record = state.record
    assert record is not None
    cluster.core("a")._primary.claim_above("for the test")
    cluster.do("advance 0.07", *PROBED, "sync a").forget()
    assert state.promised_epoch == 2
    state.record = MemberRecord(record.version, record.members, record.members)  # as if one were under way
    cluster.do("advance 0.1")
    assert cluster.sent("a", Heartbeat), "it goes on asking"
    assert not cluster.effects("a", WriteRecord)
    assert not cluster.sent("a", Members)
