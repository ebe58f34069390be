"""A disk that went back in time: an older copy is put in its place while the node is down (R21, T19)."""

from __future__ import annotations

from replicator.core.effects import Accept, Commit, Fetch, Notice, RememberCounters, Send
from replicator.core.messages import Ack, Acked, Behind, Hello, Probe
from replicator.model import Incarnation, Process, Role, StreamName
from tests.rules.cluster import Cluster
from tests.simulation.image import Image

S = StreamName("s")
OLD, EMPTIED = Process(b"an earlier start"), "empty the data directory"


def copied(cluster: Cluster, name: str) -> Image:
    """What is on the node's disk now."""
    return cluster.node(name).disk.image.copy()


def put_back(cluster: Cluster, name: str, old: Image) -> Cluster:
    """The node is down, and up again with that disk."""
    cluster.do(f"crash {name}")
    cluster.node(name).disk.replace(old)
    return cluster.do(f"start {name}")


def went_back() -> Cluster:
    """b's disk is as it was one checkpoint ago, and c is cut off from a: without b nothing commits."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.3)
    old = copied(cluster, "b")
    cluster.do("submit a s 2").live(0.3)
    return put_back(cluster.do("cut a c"), "b", old).forget()


def test_R21_nothing_that_an_old_copy_says_counts() -> None:
    """Its acknowledgment would make a majority, and its probe would be answered: both are taken for nothing,
    and the peer says what it remembers, by which the node learns that its store is behind."""
    cluster = went_back().do("submit a s 3", "publish a", "sync a")
    head = cluster.state("a").heads[S]
    acked = Acked(head.stream, head.generation, head.sequence, head.digest)
    cluster.hear("a", "b", Ack(1, (acked,)), counter=cluster.state("b").counter)
    assert not cluster.effects("a", Commit)
    cluster.do("drop a->*").forget().do("grant b", "deliver b->a Probe")
    assert cluster.order("a")[-1] is Hello
    assert cluster.core("b").role is Role.CANDIDATE
    cluster.do("deliver a->b Hello")
    assert cluster.core("b").role is Role.FAULTY
    (told,) = [notice.text for notice in cluster.effects("b", Notice)]
    assert EMPTIED in told


def test_R21_an_old_copy_does_not_count_past_what_is_remembered() -> None:
    """However often it is started: what is published is not taken before the publisher is heard."""
    cluster = went_back()
    counter = cluster.state("b").counter
    for number in range(3):
        cluster.do(f"submit a t{number} 1", "publish a", "sync a b", "drop a->b", "crash b", "start b")
        assert cluster.state("b").counter == counter
    cluster.live(0.1)
    assert cluster.core("b").role is Role.FAULTY


def test_R21_what_a_peer_has_said_before_it_heard_more_compares_nothing() -> None:
    """A heartbeat was under way as b acknowledged more than its copy holds, and comes when that is started:
    nothing is taken before the peer has heard the new process, and no commit is lost for it."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.3)
    old = copied(cluster, "b")
    cluster.do("cut a c", "submit a s 2", "publish a", "drop a->b", "advance 0.07")
    cluster.do("sync a b", "deliver b->a Ack")
    put_back(cluster, "b", old).forget().do("deliver a->b Heartbeat")
    for number in range(3):
        cluster.do(f"submit a t{number} 1", "publish a", "sync a b", "drop a->b", "drop b->a")
    cluster.live(1.0)
    assert not cluster.effects("a", Commit)
    assert cluster.core("b").role is Role.FAULTY


def test_R21_what_is_lacking_is_not_fetched_before_the_teller_is_heard() -> None:
    """A late word of that would have an old copy count on, and the next start tell it."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.3)
    old = copied(cluster, "b")
    cluster.do("submit a s 2").live(0.3).do("cut a c", "cut a b", "submit a t 1", "publish a", "sync a")
    heads = (cluster.state("a").heads[StreamName("t")],)
    put_back(cluster, "b", old).forget()
    cluster.hear("b", "a", Behind(1, heads), counter=cluster.state("a").counter)
    assert not cluster.effects("b", Fetch)
    cluster.do("mend a b").live(1.0)
    assert cluster.core("b").role is Role.FAULTY


def test_R21_a_late_frame_of_a_replaced_disk_has_nobody_forget_the_disk_in_its_place() -> None:
    """R20: each incarnation of a node is remembered by itself, and none is told what is meant for another."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.3)
    replaced, counter = Incarnation(cluster.owner("b").incarnation), cluster.state("b").counter
    cluster.do("crash b", "wipe b", "start b").live(4.0).do("submit a s 2").live(0.3)
    old = copied(cluster, "b")
    cluster.do("submit a s 3").live(0.3)
    put_back(cluster.do("cut a c"), "b", old).forget()
    cluster.hear("a", "b", Probe(1), incarnation=replaced, counter=counter)
    cluster.do("submit a s 4", "publish a", "deliver a->b", "sync a b", "deliver b->a")
    cluster.hear("a", "b", Probe(1), incarnation=replaced, counter=counter)
    assert not cluster.effects("a", Commit)
    cluster.live(1.0)
    assert cluster.core("b").role is Role.FAULTY


def test_R21_the_stores_of_a_node_that_are_remembered_are_few() -> None:
    """However often its disk is replaced: the last that have spoken, and the member's, which may be back."""
    cluster = Cluster("a", "b", "c").with_primary("a").live(0.3)
    old = copied(cluster, "b")
    cluster.do("submit a s 1").live(0.3)
    counter = cluster.state("b").counter
    for number in range(9):
        cluster.hear("a", "b", Probe(1), incarnation=Incarnation(b"disk no. %07d" % number), counter=number)
    known = cluster.state("a").remembered[cluster.node("b").name]
    assert [each for _, each in known] == [counter, 6, 7, 8]
    put_back(cluster, "b", old).live(1.0)
    assert cluster.core("b").role is Role.FAULTY


def test_R21_whoever_has_spoken_is_told_how_far_the_store_is() -> None:
    """Not the primary alone: c has probed, and notices an old copy though it was never more than a backup."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.3)
    old = copied(cluster, "b")
    cluster.do("cut a c", "submit a s 2").live(0.3)
    assert cluster.state("b").counter > old.counter
    cluster.hear("b", "c", Probe(1), counter=cluster.state("c").counter)
    cluster.do("deliver b->c")
    told = cluster.state("c").remembered[cluster.node("b").name][-1][1]
    assert told == cluster.state("b").counter
    put_back(cluster.do("crash a"), "b", old)
    cluster.hear("b", "c", Probe(2), counter=cluster.state("c").counter, remembered=told)
    assert cluster.core("b").role is Role.FAULTY


def test_R21_an_old_copy_stays_faulty_until_it_is_emptied() -> None:
    """The verdict is on its disk: a process that hears nobody knows it, and says at once what helps."""
    cluster = went_back().live(0.3)
    assert cluster.core("b").role is Role.FAULTY
    cluster.do("submit a s 3").live(1.0).do("crash b", "cut a b", "cut b c").forget().do("start b")
    assert cluster.core("b").role is Role.FAULTY
    assert [EMPTIED in notice.text for notice in cluster.effects("b", Notice)] == [True]
    cluster.do("mend a b", "mend b c", "mend a c").live(1.0)
    assert not cluster.effects("b", Accept)
    assert not cluster.effects("b", Send)
    cluster.do("crash b", "wipe b", "start b").live(4.0)
    assert cluster.core("b").role is Role.BACKUP


def test_R21_the_newest_store_is_not_taken_for_an_old_one() -> None:
    """A restart changes nothing of what a store has told, and of a new store nothing is remembered."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.3)
    changes = (["start b"], ["wipe b", "start b"], ["crash a", "start a", "start b", "grant a"])
    for sequence, words in enumerate(changes, 2):
        cluster.do("crash b", *words).live(4.0).forget()
        cluster.do("cut a c", f"submit a s {sequence}").live(0.2).do("mend a c").live(1.0)
        assert cluster.effects("a", Commit)
        assert [cluster.core(name).role for name in "bc"] == [Role.BACKUP] * 2
    for name in "abc":
        told = cluster.effects(name, RememberCounters)
        assert not any(cluster.node(name).name in effect.counters for effect in told)


def test_R21_what_was_overtaken_counts_and_what_is_late_accuses_nobody() -> None:
    """An older frame of the process that told the newest counter says what is true; one of its predecessor is
    lost, and answered by what is remembered, which is no more than the store holds."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.3).forget()
    cluster.do("cut a c", "submit a s 2", "publish a", "sync a b")
    (ack,) = cluster.sent("b", Ack)
    cluster.hear("a", "b", ack, process=OLD)
    assert not cluster.effects("a", Commit)
    cluster.do("deliver a->b")
    assert cluster.core("b").role is Role.BACKUP
    cluster.hear("a", "b", ack)
    assert cluster.effects("a", Commit)


def test_R21_a_peer_that_hears_for_the_first_time_is_told_what_was_found_on_the_disk() -> None:
    """As long as nobody has said what it remembers, the counter does not grow for it; to others it does."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.3)
    cluster.do("crash b", "cut b c", "start b").live(0.1)
    opened = cluster.core("b").counters(cluster.node("c").name)[0]
    cluster.do("submit a s 2").live(0.3)
    assert cluster.core("b").counters(cluster.node("a").name)[0] == cluster.state("b").counter > opened
    assert cluster.core("b").counters(cluster.node("c").name)[0] == opened
    cluster.hear("b", "c", Probe(1), remembered=None)  # it had another store of b's in mind
    assert cluster.core("b").counters(cluster.node("c").name)[0] == opened
