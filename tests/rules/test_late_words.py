"""Words that come late, twice or from the wrong one, each to the machine that must not take them."""

from __future__ import annotations

from replicator.core.effects import (
    Abort,
    Accept,
    Commit,
    Fetch,
    ForgetTombstone,
    HeldByAll,
    Notice,
    StartTenure,
    StoredLocally,
    WriteRecord,
)
from replicator.core.events import (
    AcceptRefused,
    Fetched,
    FetchFailed,
    Published,
    RecordWritten,
    ResignAsked,
    StoreRoom,
    Submitted,
    Why,
)
from replicator.core.messages import (
    Ack,
    Acked,
    Adopt,
    Adopted,
    Behind,
    Echo,
    Forget,
    Heartbeat,
    LeaseReturned,
    Members,
    MembersAccepted,
    ProbeAnswer,
    Progress,
    Promised,
    Reason,
    Refusal,
    StatusRequest,
)
from replicator.core.reign import Reign
from replicator.core.state import head_of
from replicator.model import Digest, Epoch, Incarnation, MemberRecord, NodeId, Role, Sequence, StreamName
from tests.rules.cluster import Cluster
from tests.rules.test_fencing import manifest
from tests.rules.test_publishing import serving

S = StreamName("s")
STRANGER = Incarnation(b"somebody else's!")


def behind() -> Cluster:
    """c has not got what a and b have committed, and has begun to fetch it."""
    cluster = serving().do("cut a c", "submit a s 1").live(0.2).do("mend a c")
    while not cluster.effects("c", Fetch):
        cluster.do("advance 0.02", "deliver")
    return cluster


def reign_of(cluster: Cluster, name: str) -> Reign:
    """The reign of a primary."""
    reign = cluster.core(name)._primary.reign
    assert reign is not None
    return reign


def test_R3_what_a_backup_hears_as_a_primary_is_not_for_it() -> None:
    """Answers to a reign that is over, or never was here: nothing is done, and nothing said."""
    cluster = serving()
    record = cluster.state("b").record
    assert record is not None
    for word in (
        Ack(1, (Acked("s", 1, 1, bytes(32)),)),
        Adopted(1, bytes(32)),
        MembersAccepted(1, 1),
        Progress(1, 9),
        Refusal(1, None, Reason.UNKNOWN_HEADS),
        Promised(1, 1, 0, 1, (), record, 0, cluster.core("c")._lender.echo(0.0)),
    ):
        cluster.hear("b", "c", word)
    cluster.node("b").deliver(Published(1, manifest(), Epoch(1), 1))
    cluster.node("b").deliver(ResignAsked())
    assert not cluster.effects("b", object)


def test_R3_nothing_is_forgotten_returned_or_adopted_on_the_word_of_another() -> None:
    """Only the owner of the promised epoch says so."""
    cluster = serving().do("submit a s 1").live(0.3).do("cut a c", "delete a s 2").live(0.3).forget()
    head = cluster.state("b").heads[S]
    acked = Acked("s", head.generation, head.sequence, head.digest)
    cluster.hear("b", "c", Heartbeat(1, 1, 0.3, Echo(cluster.owner("b").process, cluster.now), 0, ()))
    cluster.forget().hear("b", "c", Forget(1, (acked,)))
    cluster.hear("b", "c", Adopt(1, bytes(32), 0, 1, ()))
    cluster.hear("b", "c", Behind(1, (head_of(manifest(StreamName("unheard of")), Epoch(1)),)))
    cluster.hear("b", "c", LeaseReturned(1))
    assert not cluster.effects("b", object)
    assert cluster.state("b").heads[S] == head
    assert cluster.core("b")._backup.hears_primary()


def test_R14_an_early_ack_counts_for_the_store_that_sent_it() -> None:
    """c acknowledged before the publication was reported here, and has a new store since (I10)."""
    cluster = serving().do("submit a s 1")
    flight = reign_of(cluster, "a").window.flights[S]
    cluster.hear("a", "c", Ack(1, (Acked("s", 1, 1, bytes(32)),)))
    assert len(flight.early) == 1
    follower = reign_of(cluster, "a").progress.followers[NodeId("c")]
    follower.replica = (NodeId("c"), STRANGER)
    cluster.do("publish a")
    assert not flight.early
    assert follower.acked == {}


def test_R12_a_publication_of_what_is_no_longer_in_flight_is_not_accepted() -> None:
    """It is reported twice, the second time after the commit: the primary asks its store for nothing."""
    cluster = serving().do("submit a s 1").live(0.3)
    (published,) = [e for _, who, v, e in cluster.trace.entries if isinstance(e, Published) and v == "handle"]
    cluster.forget().node("a").deliver(published)
    assert not cluster.effects("a", object)


def test_R17a_a_checkpoint_of_an_ended_tenure_is_refused() -> None:
    """Its ticket is told at once, on a node that leads no longer too; what it wrote is released."""
    cluster = serving()
    for handle, (name, epoch) in enumerate((("a", 9), ("b", 1)), start=7):
        cluster.node(name).engine.unreleased.add(handle)
        cluster.node(name).deliver(Submitted(Epoch(epoch), S, Sequence(1), handle, 1))
        assert [abort.reason for abort in cluster.effects(name, Abort)] == ["the tenure has ended"]


def test_R19_a_stale_refusal_of_a_forgotten_stream_is_answered_with_nothing() -> None:
    """The tombstone was forgotten while an older manifest waited for the store."""
    cluster = serving()
    cluster.node("b").deliver(AcceptRefused(manifest(), Epoch(1), Why.STALE))
    assert not cluster.effects("b", object)


def test_R20_a_word_of_another_store_of_a_member_counts_for_nothing() -> None:
    """Neither its member record nor its adoption (I10)."""
    cluster = serving()
    follower = reign_of(cluster, "a").progress.followers[NodeId("c")]
    before = follower.record_version
    cluster.hear("a", "c", MembersAccepted(1, 9), incarnation=STRANGER)
    cluster.hear("a", "c", Adopted(1, bytes(32)), incarnation=STRANGER)
    assert follower.record_version == before


def test_R10_an_adoption_of_other_heads_than_reported_counts_for_nothing() -> None:
    """The digest names what a follower has adopted."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.3)
    follower = reign_of(cluster, "a").progress.followers[NodeId("c")]
    before, follower.adopted = (dict(follower.acked), dict(follower.bulk)), False
    cluster.hear("a", "c", Adopted(1, bytes(32)))
    assert (follower.acked, follower.bulk) == before
    assert not follower.adopted


def test_R27_a_record_written_in_another_epoch_is_not_adopted_in_this_one() -> None:
    """Nor does an older record that is written late replace what is known."""
    cluster = serving()
    record, membership = cluster.state("a").record, reign_of(cluster, "a").membership
    assert record is not None
    stored = membership._stored_version
    older = MemberRecord(0, record.members[:1])
    cluster.node("a").deliver(RecordWritten(older, Epoch(0), True, 99))
    assert cluster.state("a").record == record
    cluster.node("a").deliver(RecordWritten(record, Epoch(7), True, 99))
    assert membership._stored_version == stored


def test_R27_a_promise_of_one_that_is_no_member_is_no_report() -> None:
    """A configured peer that the member record does not name: it is told nothing and counts for nothing."""
    cluster = serving()
    reign, record = reign_of(cluster, "a"), cluster.state("a").record
    assert record is not None
    del reign.progress.followers[NodeId("c")]
    echo = cluster.core("c")._lender.echo(cluster.now)
    nonce = cluster.core("a")._claimant._nonce
    cluster.hear("a", "c", Promised(1, nonce, 0, 1, (), record, 0, echo))
    assert not cluster.effects("a", object)
    assert NodeId("c") not in reign.progress.followers


def test_R27_the_same_record_is_written_once_and_no_older_one() -> None:
    """However often it is told; written for another epoch it is not told as accepted in this one."""
    cluster = serving()
    record = cluster.state("b").record
    assert record is not None
    newer = MemberRecord(record.version + 1, record.members)
    for told in (newer, newer, record):
        cluster.hear("b", "a", Members(1, told))
    assert [write.record for write in cluster.effects("b", WriteRecord)] == [newer]
    cluster.forget().node("b").deliver(RecordWritten(record, Epoch(0), True, 99))
    assert not cluster.sent("b", MembersAccepted)


def test_R28_what_is_not_for_the_core_is_left_to_others() -> None:
    """A question for the driver, and one from a node that is no peer."""
    cluster = serving()
    cluster.hear("b", "a", StatusRequest(1))
    assert not cluster.effects("b", object)


def test_R21_a_disk_says_once_that_it_is_full() -> None:
    """Said again it is no news."""
    cluster = serving()
    for full in (True, True, False, False):
        cluster.node("b").deliver(StoreRoom(full))
    assert len(cluster.effects("b", Notice)) == 2


def test_R5_only_a_yes_makes_a_majority() -> None:
    """A no for whatever reason is no yes, and none to an older question is one either."""
    cluster = Cluster("a", "b", "c").do("cut a b", "cut a c", "grant a")
    for node in ("b", "c"):
        cluster.hear("a", node, ProbeAnswer(1, False, 0, Reason.JUMP))
        cluster.hear("a", node, ProbeAnswer(0, True, 0, None))
    assert cluster.core("a").role is Role.CANDIDATE
    assert not cluster.effects("a", StartTenure)
    cluster.hear("a", "b", ProbeAnswer(1, True, 0, None))
    assert cluster.state("a").promising is not None


def test_R23_a_tombstone_that_is_none_any_longer_is_not_forgotten() -> None:
    """The stream was created again before the word to forget it came."""
    cluster = serving().do("submit a s 1").live(0.3).forget()
    head = cluster.state("b").heads[S]
    cluster.hear("b", "a", Forget(1, (Acked("s", 1, 1, head.digest), Acked("never", 1, 1, head.digest))))
    assert not cluster.effects("b", ForgetTombstone)
    assert cluster.state("b").heads[S] == head


def test_R14_what_is_said_to_be_held_by_all_was_committed_here() -> None:
    """The primary is among the holders it names."""
    cluster = serving().do("submit a s 1").live(0.3)
    assert [held.holders for held in cluster.effects("a", HeldByAll)] == [("a", "b", "c")]
    assert len(cluster.effects("a", Commit)) == len(cluster.effects("a", StoredLocally)) == 1


def test_R18_a_late_word_of_an_older_fetch_does_not_end_a_newer_one() -> None:
    """Its end was on its way when the stream was asked for anew, even for the same: that fetch goes on."""
    cluster = behind()
    state, older = cluster.state("c"), cluster.state("c").fetching[S]
    state.cancel_fetch(S)
    assert state.fetch(S, Digest(older.digest), None, older.sources)
    newer = state.fetching[S]
    cluster.node("c").deliver(FetchFailed(older.number, S))
    cluster.node("c").deliver(Fetched(older.number, S, manifest()))
    assert state.fetching == {S: newer}
    assert cluster.core("c")._backup._wanted[S][1] == newer.digest
    assert not cluster.effects("c", Accept)
    cluster.live(0.3)
    assert not cluster.core("c").is_behind
