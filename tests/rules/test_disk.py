"""R20-R23: lost disks, failed disks, rotten chunks, and what may be thrown away."""

from __future__ import annotations

from msgspec import structs

from replicator.core.effects import (
    Abort,
    Accept,
    Changed,
    Commit,
    Fetch,
    ForgetTombstone,
    Notice,
    Release,
    StartTenure,
    Transfer,
    WritePromise,
    WriteRecord,
)
from replicator.core.events import DeleteAsked, StoreFailed, StoreRoom, Submitted
from replicator.core.messages import (
    Ack,
    Claim,
    Found,
    Founded,
    FoundStored,
    Hello,
    Probe,
    ProbeAnswer,
    Promised,
    Reason,
    Refusal,
)
from replicator.model import Epoch, Incarnation, Promise, Role, Sequence, StreamName
from tests.rules.cluster import Cluster

S = StreamName("s")


def test_R20_a_cluster_is_founded_by_all_before_any_epoch_is_promised() -> None:
    """With one founder missing nothing is founded and nothing promised; status says whom it waits for."""
    cluster = Cluster("a", "b", "c", founded=False).do("cut a c", "cut b c").live(2.0)
    assert cluster.core("a").role is Role.FOUNDING
    assert cluster.core("a").status()["waiting_for"] == "c"
    cluster.hear("b", "a", Claim(1, 1))
    assert not cluster.effects("b", WritePromise)
    cluster.do("mend a c", "mend b c").live(2.0)
    assert {cluster.core(name).role for name in "abc"} == {Role.BACKUP}
    assert len({cluster.state(name).record for name in "abc"}) == 1


def test_R20_the_record_is_durable_on_all_before_it_is_declared() -> None:
    """One founder's disk has not synced the proposal: no declaration; a half-founded cluster goes on."""
    cluster = Cluster("a", "b", "c", founded=False)
    for _ in range(12):
        cluster.do("advance 0.1", "deliver", "sync a b", "deliver")
    assert cluster.sent("a", Found)
    assert cluster.sent("b", FoundStored)
    assert not cluster.sent("a", Founded)
    cluster.live(1.5)
    assert cluster.sent("a", Founded)


def test_R27_a_founder_that_missed_the_declaration_never_goes_back_to_an_older_record() -> None:
    """It hears the newest record from one peer and an older one from another while the first is written:
    the newer one stays, on its disk too."""
    cluster = Cluster("a", "b", "c", founded=False)
    for _ in range(12):
        cluster.do("advance 0.1", "deliver *->* Found", "sync a b c", "drop")
        cluster.hear("a", "b", Hello(False, None, "", ""))
        cluster.hear("a", "c", Hello(False, None, "", ""))
    record = cluster.node("c").disk.image.record
    assert record is not None
    assert not cluster.state("c").founded
    newer = structs.replace(record, version=record.version + 2)
    for told in (newer, record):
        cluster.hear("c", "b", Founded(told))
    cluster.do("sync c")
    assert cluster.node("c").disk.image.record == cluster.state("c").record == newer


def test_R20_a_wiped_founder_does_not_found_again() -> None:
    """T9: the new incarnation finds a cluster and is joining: it promises nothing that counts."""
    cluster = Cluster("a", "b", "c").with_primary("a")
    cluster.do("crash c", "wipe c", "cut a c", "start c").live(1.2).forget()
    assert cluster.core("c").role is Role.JOINING
    cluster.hear("c", "b", Probe(5))
    cluster.do("crash a", "grant b").live(2.0)
    assert not cluster.effects("b", StartTenure), "b and a new c are no majority of the old disks"


def test_R20_a_joining_replica_catches_up_and_is_put_in_its_old_place() -> None:
    """R27's replace-in-place: a joint record, every head on both majorities, the final record; it counts."""
    cluster = Cluster("a", "b", "c").with_primary("a")
    cluster.do("submit a s 1").live(0.3)
    cluster.do("crash c", "wipe c").forget()
    cluster.do("start c").live(3.0)
    assert cluster.core("c").role is Role.BACKUP
    assert [(change.old, change.new) for change in cluster.effects("c", Changed)] == [
        (Role.FOUNDING, Role.JOINING),
        (Role.JOINING, Role.BACKUP),
    ]
    records = [write.record for write in cluster.effects("a", WriteRecord)]
    assert [bool(record.old) for record in records] == [True, False]
    assert cluster.state("c").heads[S].sequence == 1
    cluster.forget().do("crash b", "submit a s 2").live(0.5)
    assert len(cluster.effects("a", Commit)) == 1, "its acknowledgments count now"


def test_R27_a_primary_that_a_change_would_leave_out_undoes_it() -> None:
    """c's old disk is back before the record that names its new one alone, and c becomes primary by it: it
    stays a member, so that any two of the three go on."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.3)
    old = cluster.node("c").disk.image
    cluster.do("crash c", "wipe c", "start c")
    while not (joint := cluster.state("a").record) or not joint.old:
        cluster.do("settle", "advance 0.01")
    cluster.do("deliver a->b Members", "sync a b", "drop", "crash a", "crash c")
    cluster.node("c").disk.replace(old)
    cluster.do("start c").live(1.2).do("grant c", "start a").live(3.0)
    assert cluster.core("c").role is Role.PRIMARY
    for name in "abc":
        record = cluster.node(name).disk.image.record
        assert record is not None
        assert (record.version, record.members, record.old) == (joint.version + 1, joint.old, ())
    cluster.forget().do("crash a", "submit c s 2").live(0.5)
    assert len(cluster.effects("c", Commit)) == 1


def test_R20_one_that_has_missed_a_change_of_members_promises_to_whom_it_does_not_know() -> None:
    """d was cut off while c's lost disk was replaced; with a and b gone the new c cannot do without it."""
    cluster = Cluster("a", "b", "c", "d", "e").with_primary("a").do("submit a s 1").live(0.3)
    cluster.do(*(f"cut d {name}" for name in "abce"), "crash c", "wipe c", "start c").live(3.0)
    assert cluster.core("c").role is Role.BACKUP
    old = cluster.state("d").record
    cluster.do("crash a", "crash b", "mend d c", "mend d e").live(0.6).forget()
    cluster.hear("d", "c", Probe(77))
    assert [answer.reason for answer in cluster.sent("d", ProbeAnswer)] == [Reason.NOT_MEMBER]
    cluster.do("drop d->c ProbeAnswer", "grant c").live(3.0)
    (tenure,) = cluster.effects("c", StartTenure)
    assert [head.sequence for head in tenure.heads] == [1]
    assert cluster.state("d").record != old


def test_R20_a_new_store_that_only_refuses_is_claimed_above() -> None:
    """c's new store is known to be a member where the primary's record does not name it yet, and has
    promised the epoch to itself: it is told of by its refusals alone (R11)."""
    cluster = Cluster("a", "b", "c").with_primary("a").live(0.2)
    stranger = Incarnation(bytes(16))
    cluster.do("cut a c", "cut b c").live(2.0).forget()
    promised = Promise(1, structs.replace(cluster.owner("c"), incarnation=stranger))
    refusal = Refusal(1, promised, Reason.PROMISED)
    for _ in range(40):
        cluster.hear("a", "c", refusal, incarnation=stranger)
        cluster.do("advance 0.05", "deliver a->b", "deliver b->a", "sync a b")
    assert any("c promised a higher epoch" in notice.text for notice in cluster.effects("a", Notice))


def test_R20_no_ack_of_a_joining_replica_counts() -> None:
    """T10: with b down, the acks of a joining c commit nothing."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("crash b")
    cluster.do("crash c", "wipe c", "start c").live(0.25).forget()
    cluster.do("submit a s 1").live(1.5)
    assert not cluster.effects("a", Commit)


def test_R21_after_a_failed_write_nothing_is_written_or_acknowledged() -> None:
    """Fail-stop until the process has restarted and read its store again."""
    cluster = Cluster("a", "b", "c").with_primary("a").live(0.2)
    cluster.node("c").deliver(StoreFailed("fdatasync: input/output error"))
    assert cluster.core("c").role is Role.FAULTY
    assert any("restart" in notice.text for notice in cluster.effects("c", Notice))
    cluster.forget().do("submit a s 1").live(0.5)
    assert not cluster.effects("c", Accept)
    assert not cluster.sent("c", Ack)
    cluster.hear("c", "b", Claim(9, 1))
    assert not cluster.sent("c", Promised)
    assert cluster.effects("a", Commit), "the others go on"


def test_R21_a_faulty_replica_keeps_nothing_of_the_engine_s() -> None:
    """R17a: what is in flight, what waits, and what was on its way here when the tenure ended: the payloads
    are released, each once, and no outcome stays open."""
    cluster = Cluster("a", "b", "c").with_primary("a").live(0.2).forget()
    cluster.do("submit a s 1", "submit a s 2", "submit a t 1")
    cluster.node("a").deliver(StoreFailed("fdatasync: input/output error"))
    assert cluster.core("a").role is Role.FAULTY
    handles = sorted(release.handle for release in cluster.effects("a", Release))
    assert len(handles) == 3
    assert sorted(abort.handle for abort in cluster.effects("a", Abort)) == handles
    cluster.forget().node("a").engine.unreleased.update((71, 72))
    cluster.node("a").deliver(Submitted(Epoch(1), StreamName("s"), Sequence(3), 71, 100))
    cluster.node("a").deliver(DeleteAsked(Epoch(1), StreamName("t"), Sequence(2), 72))
    ended = [Abort(handle, "the tenure has ended") for handle in (71, 72)]
    assert cluster.effects("a", Abort) == ended
    assert cluster.effects("a", Release) == [Release(71), Release(72)]
    assert cluster.order("a")[-3:] == [DeleteAsked, Abort, Release], "and nothing else is done"


def test_R11_a_faulty_replica_gives_a_grant_away() -> None:
    """T17: it can do nothing with leadership until its process has been started again."""
    cluster = Cluster("a", "b", "c").forget()
    cluster.node("a").deliver(StoreFailed("no"))
    cluster.do("grant a")
    assert cluster.effects("a", Transfer) == [Transfer(None)]


def test_R21_a_store_behind_what_a_peer_remembers_is_faulty() -> None:
    """T19: last week's copy of the directory is noticed before it promises anything."""
    cluster = Cluster("a", "b", "c").with_primary("a")
    counter = cluster.state("c").counter
    cluster.hear("c", "b", Probe(1), remembered=counter + 1)
    assert cluster.core("c").role is Role.FAULTY
    cluster.forget().hear("c", "b", Claim(9, 1))
    assert not cluster.effects("c", WritePromise)


def test_R21_a_full_primary_gives_leadership_away_and_goes_on_with_room() -> None:
    """T17: it refuses new checkpoints, keeps what it has, and hands over to one that has room."""
    cluster = Cluster("a", "b", "c").with_primary("a").live(0.2)
    cluster.node("a").deliver(StoreRoom(True))
    cluster.do("full a").forget().do("submit a s 1").live(0.3)
    assert cluster.effects("a", Transfer)
    assert cluster.core("a").role is Role.BACKUP
    cluster.do("room a")
    cluster.node("a").deliver(StoreRoom(False))
    assert cluster.core("a").status()["full"] is False


def test_R22_a_rotten_head_is_fetched_from_another_replica() -> None:
    """It says so in promises meanwhile, and says nothing once the good copy is written."""
    cluster = Cluster("a", "b", "c").with_primary("a")
    cluster.do("submit a s 1").live(0.3).forget()
    cluster.do("rot c s")
    assert cluster.state("c").heads[S].readable is False
    (fetch,) = cluster.effects("c", Fetch)
    assert fetch.sources[0] == "a"
    assert fetch.verify
    cluster.live(0.5)
    assert cluster.state("c").heads[S].readable is True


def test_R22_a_claimant_does_not_serve_its_own_rot() -> None:
    """The chosen head is rotten here and good elsewhere: it is fetched before the tenure starts."""
    cluster = Cluster("a", "b", "c").with_primary("a")
    cluster.do("submit a s 1").live(0.3)
    cluster.do("crash a", "cut b c", "rot b s").live(0.6).forget()
    cluster.do("mend b c", "grant b").live(2.0)
    assert cluster.effects("b", Fetch)
    assert [head.sequence for head in cluster.effects("b", StartTenure)[0].heads] == [1]
    assert cluster.state("b").heads[S].readable


def test_R23_a_tombstone_is_forgotten_only_when_every_member_has_it() -> None:
    """T18: c is away, so it stays; when c has it too, all forget it."""
    cluster = Cluster("a", "b", "c").with_primary("a")
    cluster.do("submit a s 1").live(0.3)
    cluster.do("cut a c", "delete a s 2").live(0.5)
    assert cluster.effects("a", Commit)[-1].position.sequence == 2
    assert not cluster.effects("a", ForgetTombstone)
    assert cluster.state("a").heads[S].tombstone
    cluster.do("mend a c").live(1.5)
    for name in "abc":
        assert cluster.effects(name, ForgetTombstone)
        assert S not in cluster.state(name).heads


def test_R23_a_deleted_stream_begins_a_new_generation_and_no_new_sequences() -> None:
    """Created again, it goes on above the tombstone; a sequence below it is refused."""
    cluster = Cluster("a", "b", "c").with_primary("a")
    cluster.do("submit a s 4", "settle", "cut a c", "delete a s 5", "settle").forget()
    cluster.do("submit a s 6", "settle")
    head = cluster.state("a").heads[S]
    assert (head.generation, head.sequence, head.tombstone) == (2, 6, False)


def test_a_hello_is_answered_with_what_exists() -> None:
    """A node that has heard nothing yet learns of the cluster from any member."""
    cluster = Cluster("a", "b", "c").forget()
    cluster.hear("b", "c", Hello(False, None, "", ""))
    (hello,) = cluster.sent("b", Hello)
    assert hello.founded
    assert hello.record == cluster.state("b").record


def test_R20_a_joining_replica_takes_its_place_while_commits_go_on() -> None:
    """Its acknowledgements are always one checkpoint behind: it lacks nothing but what is on its way."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.3)
    cluster.do("crash c", "wipe c", "start c")
    for sequence in range(2, 150):
        cluster.do(f"submit a s {sequence}", "publish a", "sync a b", "deliver b->a", "sync a")
        cluster.do("deliver c->a Ack", "advance 0.03", "deliver", "sync", "fetch c", "sync c")
        cluster.do("deliver c->a Hello", "deliver c->a Promised", "deliver c->a Adopted")
        cluster.do("deliver c->a MembersAccepted", "deliver c->a HeartbeatAnswer")
    record = cluster.state("a").record
    assert record is not None
    assert len(cluster.effects("a", Commit)) > 100
    assert (record.version, cluster.core("c").role) == (3, Role.BACKUP)
