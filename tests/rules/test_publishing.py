"""R12-R19: from a submission to its commit, and how what was lost on the way is mended."""

from __future__ import annotations

from replicator.core.effects import (
    Abort,
    Accept,
    AllowPublish,
    Commit,
    Fetch,
    Publish,
    Release,
    Standby,
    Supersede,
)
from replicator.core.events import Accepted, AcceptRefused, ManifestReceived, Published, Seen, Sent, Why
from replicator.core.messages import Ack, Acked, Behind, Claim, Heartbeat, Progress, Promised
from replicator.model import Epoch, Incarnation, NodeId, Position, StreamName
from tests.rules.cluster import Cluster
from tests.rules.test_fencing import manifest

S = StreamName("s")


def serving() -> Cluster:
    """a is primary of three."""
    return Cluster("a", "b", "c").with_primary("a").live(0.2).forget()


def test_R12_the_primary_broadcasts_and_stores_it_itself() -> None:
    """Broadcast first, then the own acceptance, in the epoch of the tenure, with growing sequences."""
    cluster = serving().do("submit a s 1", "settle", "submit a s 2", "settle")
    assert [publish.sequence for publish in cluster.effects("a", Publish)] == [1, 2]
    assert [accept.manifest.sequence for accept in cluster.effects("a", Accept)] == [1, 2]
    cluster.forget().do("submit a s 2", "settle")
    assert cluster.effects("a", Abort), "a sequence that does not grow is refused"
    assert not cluster.effects("a", Publish)


def test_R13_no_ack_before_it_is_durable() -> None:
    """The manifest is here, the disk has not answered: nothing is said."""
    cluster = serving().do("submit a s 1", "publish a")
    assert cluster.effects("c", Accept)
    assert not cluster.sent("c", Ack)
    cluster.do("sync c")
    order = cluster.order("c")
    assert order.index(Accepted) < order.index(Ack)
    (ack,) = cluster.sent("c", Ack)
    assert ack.acks[0].digest == cluster.state("c").heads[S].digest


def test_R14_a_majority_in_the_present_epoch_the_primary_included() -> None:
    """Two backups without the primary's own disk are not enough; nor is the primary alone."""
    cluster = serving().do("submit a s 1", "publish a", "sync b c", "deliver")
    assert not cluster.effects("a", Commit)
    cluster.do("sync a", "deliver")
    assert [commit.position for commit in cluster.effects("a", Commit)] == [Position(1, 1)]
    cluster.forget().do("cut a b", "cut a c", "submit a s 2", "settle")
    assert not cluster.effects("a", Commit)


def test_R14_acks_of_other_epochs_digests_and_incarnations_count_for_nothing() -> None:
    """An ack must name the epoch, the digest and come from the member's present incarnation."""
    cluster = serving().do("cut a b", "cut a c", "submit a s 1", "settle").forget()
    digest = cluster.state("a").heads[S].digest
    right = Acked("s", 1, 1, digest)
    cluster.hear("a", "b", Ack(7, (right,)))
    cluster.hear("a", "b", Ack(1, (Acked("s", 1, 1, bytes(32)),)))
    cluster.hear("a", "b", Ack(1, (Acked("s", 1, 9, digest),)))
    cluster.hear("a", "b", Ack(1, (right,)), incarnation=Incarnation(b"somebody else's!"))
    assert not cluster.effects("a", Commit)
    cluster.hear("a", "b", Ack(1, (right,)))
    assert len(cluster.effects("a", Commit)) == 1


def test_R14_an_ack_that_is_faster_than_the_own_publication_is_not_lost() -> None:
    """A backup may answer before the primary's own data path has reported what it broadcast."""
    cluster = serving().do("submit a s 1")
    made = manifest()
    cluster.hear("a", "b", Ack(1, (Acked("s", 1, 1, made.digest),)))
    cluster.node("a").deliver(Published(1, made, Epoch(1), 1))
    cluster.do("sync a")
    assert len(cluster.effects("a", Commit)) == 1


def test_R15_commit_points_are_hints_for_standby_and_retention() -> None:
    """Backups hear of a commit with the heartbeats and offer what they hold to a warm standby."""
    cluster = serving().do("submit a s 1").live(0.3)
    for name in ("b", "c"):
        assert [standby.head.sequence for standby in cluster.effects(name, Standby)] == [1]
        assert cluster.state(name).committed[S] == (1, 1)


def test_R15_a_standby_hears_of_a_deleted_stream() -> None:
    """A tombstone's commit is told like any other: what was loaded of the stream is of no use any longer."""
    cluster = serving().do("submit a s 1").live(0.3).forget().do("cut a c", "delete a s 2").live(0.3)
    (standby,) = cluster.effects("b", Standby)
    assert (standby.head.sequence, standby.head.tombstone) == (2, True)


def test_R15_recovery_never_trusts_a_commit_point() -> None:
    """T3: committed with b's help, and the primary died before anybody was told: it is restored."""
    cluster = serving().do("cut a c", "submit a s 1", "publish a", "sync a b", "deliver b->a")
    assert cluster.effects("a", Commit)
    cluster.do("crash a", "drop *").live(0.6)
    assert S not in cluster.state("b").committed
    cluster.do("grant c").live(1.5)
    assert cluster.state("c").heads[S].sequence == 1


def test_R16_the_window_follows_the_fastest_majority() -> None:
    """One backup's progress moves the window of three; the slow one does not hold it."""
    cluster = serving()
    before = 32
    cluster.node("b").deliver(Seen(NodeId("a"), Epoch(1), 20))
    cluster.do("settle")
    assert [allow.publish_index for allow in cluster.effects("a", AllowPublish)] == [before + 20]
    cluster.forget().node("c").deliver(Seen(NodeId("a"), Epoch(1), 5))
    cluster.do("settle")
    assert not cluster.effects("a", AllowPublish)


def test_R16_a_manifest_tells_how_far_the_publications_were_taken() -> None:
    """A checkpoint of one message needs no word of its own; what the manifest's sender may not say, is not
    heard."""
    cluster = serving()
    for epoch, index in ((2, 32), (1, 20)):
        owner = Incarnation(cluster.owner("a").incarnation)
        cluster.node("b").deliver(ManifestReceived(NodeId("a"), owner, Epoch(epoch), manifest(), index))
    cluster.do("settle")
    assert [allow.publish_index for allow in cluster.effects("a", AllowPublish)] == [32 + 20]


def test_R16_a_lost_word_of_progress_costs_an_interval() -> None:
    """Every `Progress` is lost and the window is used up: the next answers to heartbeats move it."""
    cluster = serving()
    for name in ("b", "c"):
        cluster.node(name).deliver(Seen(NodeId("a"), Epoch(1), 32))
    cluster.do("drop").forget().live(0.2)
    assert [allow.publish_index for allow in cluster.effects("a", AllowPublish)] == [64]


def test_R16_a_lost_tail_does_not_stop_the_window() -> None:
    """What two heartbeats tell of and nobody has seen is given up on: it is a fetch's part."""
    cluster = serving()
    for question in (901, 902):
        cluster.hear("c", "a", Heartbeat(1, question, 0.3, None, 40, ()))
    assert [progress.publish_index for progress in cluster.sent("c", Progress)] == [40]


def test_R16_a_window_that_is_lost_in_the_midst_of_a_checkpoint_does_not_stop_it() -> None:
    """The only backup misses 32 messages and is started again: told what has left, it says that it has
    missed them, with a heartbeat to spare for what may still be on its way (R18). No other epoch counts."""
    cluster = serving()
    cluster.node("b").deliver(Seen(NodeId("a"), Epoch(1), 5))
    cluster.do("settle", "cut a c", "crash b", "start b").live(0.4).forget()
    cluster.node("a").deliver(Sent(Epoch(2), 99))
    cluster.node("a").deliver(Sent(Epoch(1), 37))
    cluster.live(0.05)
    assert not cluster.effects("a", AllowPublish)
    cluster.live(0.2)
    assert [allow.publish_index for allow in cluster.effects("a", AllowPublish)] == [37 + 32]


def test_R17_latest_wins_and_the_one_in_flight_runs_to_its_commit() -> None:
    """T20: of four, the first commits, the last commits, and the two between give way to it."""
    cluster = serving().do(*(f"submit a s {sequence}" for sequence in (1, 2, 3, 4)))
    assert [publish.sequence for publish in cluster.effects("a", Publish)] == [1]
    assert [release.handle for release in cluster.effects("a", Release)] == [2, 3]
    assert not cluster.effects("a", Supersede)
    cluster.do("settle")
    assert [commit.position.sequence for commit in cluster.effects("a", Commit)] == [1, 4]
    superseded = cluster.effects("a", Supersede)
    assert [(each.handle, each.by.sequence) for each in superseded] == [(2, 4), (3, 4)]


def test_R17a_the_outcome_is_unknown_until_it_commits() -> None:
    """A deposed primary says unknown, never failed; the checkpoint may well be what is restored next."""
    cluster = serving().do("submit a s 1", "publish a", "sync a b c")  # all hold it, no ack has arrived
    cluster.do("cut a b", "cut a c").live(0.6)
    cluster.do("grant b").live(1.0)
    assert cluster.state("b").heads[S].sequence == 1
    cluster.do("mend a b", "mend a c").live(0.5)
    assert [abort.handle for abort in cluster.effects("a", Abort)] == [1]
    assert not cluster.effects("a", Commit)


def test_R18_what_a_broadcast_lost_is_fetched() -> None:
    """Neither b nor c saw the publication; they are told, they ask for it, and it commits."""
    cluster = serving().do("submit a s 1", "lose a").live(1.0)
    assert cluster.effects("b", Fetch)
    assert cluster.effects("c", Fetch)
    assert len(cluster.effects("a", Commit)) == 1
    assert cluster.state("b").heads[S].digest == cluster.state("a").heads[S].digest


def test_R18_a_fetch_runs_to_its_end_while_newer_ones_come() -> None:
    """T20: a slow backup finishes what it fetches, then takes the newest; else it never acknowledges any."""
    cluster = serving().do("submit a s 1", "lose a", "sync a")
    cluster.hear("c", "a", Behind(1, (cluster.state("a").heads[S],)))
    fetches = cluster.effects("c", Fetch)
    me = cluster.owner("a")
    for sequence in (2, 3):
        cluster.node("c").deliver(
            ManifestReceived(NodeId("a"), Incarnation(me.incarnation), Epoch(1), manifest(sequence=sequence))
        )
    assert cluster.effects("c", Fetch) == fetches
    cluster.do("fetch c", "sync c")
    assert [accept.manifest.sequence for accept in cluster.effects("c", Accept)] == [1, 3]


def test_R19_what_is_repeated_or_stale_changes_nothing() -> None:
    """The same manifest again is answered with the head's ack; an older one with nothing."""
    cluster = serving().do("submit a s 1", "settle", "submit a s 2", "settle").forget()
    me, head = cluster.owner("a"), cluster.state("c").heads[S]
    newest = cluster.node("c").disk.image.newest(S)
    assert newest is not None
    for each in (newest.manifest, manifest(sequence=1)):
        cluster.node("c").deliver(ManifestReceived(NodeId("a"), Incarnation(me.incarnation), Epoch(1), each))
    assert not cluster.effects("c", Accept)
    acks = [acked for ack in cluster.sent("c", Ack) for acked in ack.acks]
    assert acks == [Acked("s", 1, 2, head.digest)]
    assert cluster.state("c").heads[S] == head


def test_R19_every_message_may_come_twice() -> None:
    """A run in which each control message is handed in again gives the same disks."""
    cluster = serving()
    cluster.do("submit a s 1").live(0.3)
    image = {name: dict(cluster.state(name).heads) for name in "abc"}
    for name in "abc":
        peers = [peer for peer in "abc" if peer != name]
        for peer in peers:
            for message in list(cluster.sent(peer, object)):
                cluster.hear(name, peer, message)  # type: ignore[arg-type]
    cluster.live(0.3)
    assert {name: dict(cluster.state(name).heads) for name in "abc"} == image
    assert cluster.state("a").promise == cluster.state("c").promise
    assert len(cluster.effects("a", Commit)) == 1


def test_publications_of_another_node_than_the_owner_are_ignored() -> None:
    """R3: only the owner of the promised epoch publishes in it, whatever the manifest says."""
    cluster = serving()
    me = cluster.owner("b")
    cluster.node("c").deliver(
        ManifestReceived(NodeId("b"), Incarnation(me.incarnation), Epoch(1), manifest())
    )
    assert not cluster.effects("c", Accept)
    cluster.hear("c", "b", Claim(1, 3))
    assert cluster.state("c").promise == cluster.state("a").promise


def test_R18_a_promise_that_comes_again_hides_nothing_that_is_lacking() -> None:
    """A claim told twice is answered twice with the same heads; what was published in between is not among
    them and would never be told, so that a commit which needs this backup waits for ever."""
    cluster = Cluster("a", "b", "c").with_primary("a")
    cluster.do("submit a s 1").live(0.3)
    cluster.do("crash a").live(0.8).do("grant b").live(0.5)
    (page,) = [page for page in cluster.sent("c", Promised) if page.epoch == 2]
    assert [head.sequence for head in page.heads] == [1]
    cluster.do("cut b c", "submit b s 2", "settle")
    cluster.hear("b", "c", page)
    cluster.do("mend b c").live(0.6)
    assert cluster.state("c").heads[StreamName("s")].sequence == 2
    assert [commit.position.sequence for commit in cluster.effects("b", Commit)] == [2]


def test_R18_what_a_follower_lacks_that_was_not_heard_is_not_known() -> None:
    """Status does not say that it lacks nothing: it says so once it has told what it holds."""
    cluster = Cluster("a", "b", "c").do("cut a c").with_primary("a").live(0.3)
    assert cluster.core("a").status()["lacking"] == {"b": 0, "c": None}
    cluster.do("submit a s 1").live(0.2)
    assert cluster.core("a").status()["lacking"] == {"b": 0, "c": None}
    cluster.do("mend a c").live(0.5)
    assert cluster.core("a").status()["lacking"] == {"b": 0, "c": 0}


def test_R12_what_was_accepted_while_it_went_out_again_is_stored() -> None:
    """A full disk has room again: of two acceptances the first finds chunks lacking, so the checkpoint goes
    out again, and the second succeeds meanwhile. The third is stale: the checkpoint is held, and commits."""
    cluster = serving().do("submit a s 1", "publish a")
    primary = cluster.core("a")._primary
    flight = primary.window.flights[StreamName("s")]
    manifest = flight.manifest
    assert manifest is not None
    cluster.node("a").deliver(AcceptRefused(manifest, Epoch(1), Why.INCOMPLETE))
    cluster.do("sync a").live(0.3)
    assert [commit.position.sequence for commit in cluster.effects("a", Commit)] == [1]
