"""The traps T1-T28: the interleavings in which replication protocols are known to lose data, each by name.

Where a rule's own test walks into the trap already, the trap's test is that walk again; the others are
walked here. Traps without a test are in `NOT_WALKED`, each with its reason. Nodes are a, b and c.
"""

from __future__ import annotations

from replicator.core.effects import Abort, Accept, Commit, EndTenure, Fetch, StartTenure, WriteRecord
from replicator.core.events import ManifestReceived
from replicator.core.messages import Claim, Echo, Heartbeat
from replicator.model import Epoch, Incarnation, StreamName
from tests.rules import test_claiming, test_disk, test_fencing, test_lease, test_publishing
from tests.rules.cluster import PROBED, Cluster
from tests.rules.test_fencing import manifest
from tests.rules.test_publishing import serving

S, T = StreamName("s"), StreamName("t")

# By number: why no test here can walk into it, and what stands in its place.
NOT_WALKED = {
    16: "a stuck ROUTER identity is ZeroMQ's: tests/adapters/test_zeromq.py restarts peers under one name",
    23: "there is no unlink after a retirement: record and chunks go in one LMDB transaction, which the "
    "store's twin crashes between any two writes (tests/adapters/test_store_twin.py)",
}


def restored(cluster: Cluster, name: str) -> list[int]:
    """The sequences of `s` that *name*'s tenures began with."""
    return [head.sequence for t in cluster.effects(name, StartTenure) for head in t.heads if head.stream == S]


def chain(cluster: Cluster, name: str, stream: StreamName = S) -> list[bytes]:
    """The contents that the newest checkpoint of *name* was made from, itself first."""
    newest = cluster.node(name).disk.image.newest(stream)
    assert newest is not None
    content: bytes | None = cluster.history.content_of(cluster.state(name).heads[stream])
    contents = []
    while content is not None:
        contents.append(content)
        content = cluster.history.parents[content]
    return contents


def test_t01_an_old_epochs_value_on_a_majority() -> None:
    """Figure 8: 2 of epoch 1 is on a, another 2 of epoch 2 on b; what epoch 3 commits with a and c stays,
    whatever b then restores from b and c."""
    cluster = serving().do("submit a s 1").live(0.3).do("cut a b", "cut a c", "submit a s 2").live(0.8)
    cluster.do("revoke a", "grant b").live(1.5).do("cut b c", "submit b s 2").live(0.8)
    cluster.do("revoke b", "mend a c", "grant a").live(2.5).forget().do("submit a s 5").live(0.3)
    assert [commit.position.sequence for commit in cluster.effects("a", Commit)] == [5]
    committed = chain(cluster, "a")[0]
    cluster.do("cut a c", "mend b c", "revoke a").live(0.6).forget().do("grant b").live(2.5)
    assert restored(cluster, "b") == [5]
    assert committed in chain(cluster, "b")


def test_t02_the_largest_sequence() -> None:
    """A longer uncommitted line of an older epoch gives way to what was accepted in a newer one."""
    test_claiming.test_R7_the_highest_accepted_epoch_wins_not_the_highest_sequence()


def test_t03_committed_before_the_backups_know() -> None:
    """The primary dies before any heartbeat tells of the commit."""
    test_publishing.test_R15_recovery_never_trusts_a_commit_point()


def test_t04_newer_than_committed_is_restored_or_not() -> None:
    """2 is durable on b alone when a dies: restored if b is asked, and as rightly not if a and c answer."""
    for claimant, wanted in (("b", 2), ("c", 1)):
        cluster = serving().do("submit a s 1").live(0.3)
        cluster.do("cut a c", "submit a s 2", "publish a", "sync b", "crash a", "start a", "drop")
        cluster.do("mend a c", "cut a b", *(["cut b c"] if claimant == "c" else [])).forget()
        cluster.live(0.6).do(f"grant {claimant}").live(2.5)
        assert restored(cluster, claimant) == [wanted]


def test_t05_an_abort_after_submission() -> None:
    """A deposed primary's checkpoint is what the next one restores: its ticket said unknown, not failed."""
    test_publishing.test_R17a_the_outcome_is_unknown_until_it_commits()


def test_t06_a_write_that_waits_while_the_fence_falls() -> None:
    """Asked for before the promise, written after it: refused."""
    test_fencing.test_R4_the_fence_is_checked_when_it_is_written()


def test_t07_heads_read_before_the_promise() -> None:
    """What is reported with a promise was read after it was durable."""
    test_fencing.test_R2_heads_are_read_after_the_promise_is_durable()


def test_t08_the_primary_counts_its_own_fenced_disk() -> None:
    """After promising another, its own disk takes nothing in its epoch."""
    test_fencing.test_R4_a_primarys_own_acceptance_is_fenced_too()


def test_t09_amnesia() -> None:
    """An empty disk under an old name promises nothing that counts."""
    test_disk.test_R20_a_wiped_founder_does_not_found_again()


def test_t10_recovery_in_place() -> None:
    """A wiped member's acks count for nothing before it has been replaced."""
    test_disk.test_R20_no_ack_of_a_joining_replica_counts()


def joining() -> Cluster:
    """c has lost its disk and joins again, but whatever it fetches does not come."""
    cluster = serving().do("submit a s 1").live(0.3).do("crash c", "wipe c", "start c").forget()
    for _ in range(60):
        cluster.do("advance 0.05", "deliver", "sync", "publish")
    return cluster


def test_t11_members_without_the_data() -> None:
    """No record with the new disk in it is proposed before that disk holds every stream."""
    cluster = joining()
    assert cluster.effects("c", Fetch)
    assert not cluster.effects("a", WriteRecord)
    cluster.live(2.0)
    assert [bool(write.record.old) for write in cluster.effects("a", WriteRecord)] == [True, False]
    assert cluster.state("c").heads[S].sequence == 1


def test_t12_a_change_before_the_own_epoch_has_adopted_anything() -> None:
    """A learner has caught up, but neither heads nor record are adopted in the epoch: nothing is proposed."""
    cluster = joining().live(0.1)
    reign = cluster.core("a")._primary.reign
    assert reign is not None
    version = reign.record.version
    for follower in reign.progress.followers.values():
        follower.lacking.clear()
    reign.membership.step(lambda: False)
    reign.membership._stored_version = -1
    for follower in reign.progress.followers.values():
        follower.record_version = -1
    reign.membership.step(lambda: True)
    assert reign.record.version == version


def test_t13_bit_rot() -> None:
    """What may have committed and cannot be read is waited for, its stream alone."""
    test_claiming.test_R8_an_unreadable_head_is_waited_for_its_stream_alone()


def test_t14_ids_of_a_clock_that_is_behind() -> None:
    """Sequences are the replicator's: one that is not above the restored one is refused, naming nothing."""
    cluster = serving().do("submit a s 7").live(0.3).do("crash a").live(0.6).do("grant b").live(1.0)
    assert restored(cluster, "b") == [7]
    cluster.forget().do("submit b s 4").live(0.3)
    assert len(cluster.effects("b", Abort)) == 1
    assert not cluster.effects("b", Commit)
    assert cluster.state("b").heads[S].sequence == 7


def test_t15_an_epoch_resumed() -> None:
    """A restarted process is another owner."""
    test_fencing.test_R1_a_restarted_process_is_another_owner()


def test_t17_a_leader_of_no_use() -> None:
    """It gives leadership away."""
    test_claiming.test_R11_one_that_cannot_lead_gives_leadership_away()


def test_t18_a_tombstone_dropped_early() -> None:
    """It stays until every member has it."""
    test_disk.test_R23_a_tombstone_is_forgotten_only_when_every_member_has_it()


def test_t19_a_disk_of_last_week() -> None:
    """A store behind what a peer remembers of it is faulty."""
    test_disk.test_R21_a_store_behind_what_a_peer_remembers_is_faulty()


def test_t20_conflation_without_end() -> None:
    """What is in flight runs to its commit, and what is fetched to its end."""
    test_publishing.test_R17_latest_wins_and_the_one_in_flight_runs_to_its_commit()
    test_publishing.test_R18_a_fetch_runs_to_its_end_while_newer_ones_come()


def test_t21_a_poisoned_epoch() -> None:
    """An epoch jumps by a bounded step only."""
    test_lease.test_R28_an_epoch_may_jump_by_a_bounded_step_only()


def test_t22_heard_but_deaf() -> None:
    """A primary that hears nobody is lent nothing."""
    test_lease.test_R24_nothing_is_lent_without_a_fresh_echo()


def test_t24_two_epochs_interleaved_at_one_backup() -> None:
    """Manifests of a deposed and of the present primary come in turn: each is judged by its own epoch."""
    cluster = serving()
    cluster.now += 0.4
    cluster.hear("c", "b", Claim(5, 1))
    cluster.do("sync c")
    cluster.hear("c", "b", Heartbeat(5, 1, 0.3, Echo(cluster.owner("c").process, cluster.now), 0, ()))
    cluster.forget()
    for sender, epoch, sequence in (("a", 1, 1), ("b", 5, 1), ("a", 1, 2), ("b", 5, 2)):
        me = cluster.owner(sender)
        published = manifest(epoch=epoch, sequence=sequence)
        cluster.node("c").deliver(
            ManifestReceived(cluster.node(sender).name, Incarnation(me.incarnation), Epoch(epoch), published)
        )
        cluster.do("sync c")
    assert [accept.epoch for accept in cluster.effects("c", Accept)] == [5, 5]
    assert cluster.state("c").heads[S].position == manifest(epoch=5, sequence=2).position


def test_t25_an_adoption_cut_short() -> None:
    """b adopts both streams by itself and dies: heads of two epochs are mixed, each stream is still right."""
    cluster = serving().do("submit a s 1", "submit a t 1").live(0.3)
    cluster.do("cut a c", "submit a s 2").live(0.2).do("crash a", "grant b")
    committed = {stream: chain(cluster, "b", stream)[0] for stream in (S, T)}
    for _ in range(40):  # b wins its epoch, but what it then says reaches nobody
        cluster.do("advance 0.05", *PROBED)
        cluster.do("deliver *->* Claim", "sync c", "deliver *->* Promised", "sync b")
    assert cluster.state("b").heads[T].accepted_epoch == 2
    assert cluster.state("c").heads[T].accepted_epoch == 1
    cluster.do("crash b", "start b", "start a", "drop", "mend a c").live(1.2)
    cluster.forget().do("grant c").live(2.5)
    assert restored(cluster, "c") == [2]
    for stream, content in committed.items():
        assert content in chain(cluster, "c", stream)


def test_t26_the_only_holder_dies() -> None:
    """What nobody can read now is waited for."""
    test_claiming.test_R8_an_unreadable_head_is_waited_for_its_stream_alone()


def test_t27_late_acknowledgments_of_a_zombie() -> None:
    """a's acks were sent before b's claim and arrive after it: b restores what they are for, and a reports
    nothing once it has been told that its tenure is over."""
    cluster = serving().do("submit a s 1", "publish a", "sync a b c", "pause a").live(0.6)
    cluster.do("grant b").live(1.5)
    assert restored(cluster, "b") == [1]
    cluster.do("resume a").live(1.0)
    kinds = [kind for kind in cluster.order("a") if kind in (Commit, EndTenure)]
    assert kinds in ([EndTenure], [Commit, EndTenure])


def test_t28_a_failed_claimant() -> None:
    """A claim that a lease stands against fences nobody."""
    test_claiming.test_R5_a_claim_that_cannot_succeed_fences_nobody()


def test_every_trap_has_a_test_or_a_reason() -> None:
    """T1 to T28, none twice."""
    walked = [int(name[6:8]) for name in globals() if name.startswith("test_t") and name[6:8].isdigit()]
    assert sorted([*walked, *NOT_WALKED]) == list(range(1, 29))
