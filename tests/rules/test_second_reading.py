"""R6, R9, R18, R23: what a reading of the core found."""

from __future__ import annotations

from replicator.core.effects import Accept, CancelFetch, Commit, Fetch, StartTenure
from replicator.core.events import Fetched, ManifestReceived
from replicator.core.messages import Behind, Claim, Forget
from replicator.core.recovery import Recovery
from replicator.model import (
    Epoch,
    NodeId,
    Sequence,
    StreamName,
)  # fmt: skip
from tests.rules.cluster import PROBED, Cluster
from tests.rules.test_idle_streams import page_of
from tests.rules.test_late_words import reign_of
from tests.rules.test_publishing import serving

S, T = StreamName("s"), StreamName("t")


def _asked_of_the_store(cluster: Cluster) -> Recovery:
    """b recovers with a's promise; s was unavailable, is fetched from a at last, the own store has been
    asked to accept it, and then c's late promise comes, with a head of a higher order."""
    cluster.forget().do("grant b", *PROBED, "sync b")
    cluster.do("deliver *->* Claim", "sync a", "deliver a->b Promised")
    recovery = reign_of(cluster, "b").recovery
    assert recovery.chosen[S].sequence == 2
    cluster.do("crash a", "start c")
    while not recovery.unavailable:
        cluster.do("advance 0.05", "fetch b")
    cluster.do("start a")
    while not cluster.effects("b", Accept):
        cluster.do("advance 0.05", "fetch b")
    while not recovery.has_heard(cluster.state("c").id):
        cluster.do("advance 0.05", "deliver b->c Claim", "sync c", "deliver c->b Promised")
    return recovery


def test_R9_what_is_served_is_what_a_majority_has_adopted() -> None:
    """A late promise of a higher order does not pass for what the own store was asked to accept."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.3)
    cluster.do("cut a b", "cut a c", "submit a s 2", "publish a", "sync a", "crash a").live(1.2)  # a: (1, 2)
    cluster.do("grant c", *PROBED, "sync c")
    cluster.do("deliver *->* Claim", "sync b", "deliver b->c Promised", "sync c")  # c: (2, 1), b: (1, 1)
    cluster.do("crash c", "drop", "start a", "mend a b", "mend a c").live(1.2)
    _asked_of_the_store(cluster)
    for _ in range(200):
        if cluster.effects("b", StartTenure):
            break
        cluster.do("advance 0.01", "deliver", "sync", "fetch")
    (tenure,) = cluster.effects("b", StartTenure)
    for head in tenure.heads:
        assert sum(cluster.state(n).heads[S].order == (tenure.epoch, head.sequence) for n in "abc") >= 2


def test_R9_a_recovery_does_not_wait_for_what_it_no_longer_fetches() -> None:
    """The same with a higher sequence: it would wait for ever."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.3)
    cluster.do("cut a b", "cut b c", "submit a s 2").live(0.2)
    cluster.do("submit a s 3", "publish a", "sync c", "crash a", "drop")  # a: 2, b: 1, c: 3
    cluster.do("crash c", "start a", "mend a b", "mend b c").live(1.2)
    _asked_of_the_store(cluster)
    cluster.do("sync b").live(10.0)
    assert cluster.effects("b", StartTenure)


def test_R6_pages_of_two_processes_are_no_report() -> None:
    """Heads in another order after a restart: page 0 of one and page 1 of the other miss t."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.3)
    cluster.do("cut a b", "cut b c", "submit a t 1").live(0.2)
    assert [commit.stream for commit in cluster.effects("a", Commit)] == ["s", "t"]
    cluster.do("crash a", "mend b c").live(0.6).forget()
    cluster.do("grant b", *PROBED, "sync b")
    cluster.do("deliver *->* Claim", "sync c", "drop c->b Promised")
    claim = cluster.sent("b", Claim)[0]
    cluster.hear("b", "c", page_of(cluster, claim, 0, "s"))
    cluster.do("crash c", "start c")
    cluster.hear("b", "c", page_of(cluster, claim, 1, "s"))
    reign = cluster.core("b")._primary.reign
    assert reign is None or T in reign.recovery.chosen


def test_R23_a_mending_does_not_bring_back_what_was_deleted() -> None:
    """Chunks of a rotten head come after its stream has been deleted everywhere (I11)."""
    cluster = serving().do("submit a s 1").live(0.3)
    b = cluster.node("b")
    newest = b.disk.image.newest(S)
    assert newest is not None
    chunks = dict(cluster.node("a").disk.image.chunks)
    cluster.do("rot b s", "delete a s 2", "publish a", "sync", "deliver", "sync", "deliver")
    while not cluster.sent("a", Forget):
        cluster.do("advance 0.01", "deliver", "sync")
    fetch = cluster.effects("b", Fetch)[-1]
    cluster.do("deliver", "sync").forget()
    assert all(S not in cluster.state(name).heads for name in "abc")
    b.disk.put_chunks(S, Epoch(1), Sequence(newest.manifest.sequence), chunks.items())
    b.deliver(Fetched(fetch.number, S, newest.manifest))
    cluster.do("sync b")
    assert S not in cluster.state("b").heads


def test_R23_a_late_frame_does_not_bring_back_what_was_deleted() -> None:
    """It was published, or told, before the deletion, and comes when that is forgotten everywhere (I11)."""
    cluster = serving().do("submit a s 1").live(0.3)
    b, head, image = cluster.node("b"), cluster.state("a").heads[S], cluster.node("b").disk.image
    (retained,), chunks = image.streams[S], dict(image.chunks)
    cluster.do("delete a s 2").live(0.5).forget()
    assert all(S not in cluster.state(name).heads for name in "abc")
    b.disk.put_chunks(S, Epoch(1), Sequence(1), chunks.items())
    b.deliver(ManifestReceived(NodeId("a"), cluster.state("a").id[1], Epoch(1), retained.manifest, 1))
    cluster.hear("b", "a", Behind(1, (head,)))
    assert not cluster.effects("b", Accept)
    assert not cluster.effects("b", Fetch)
    cluster.do("submit a s 3").live(0.3)
    assert cluster.state("b").heads[S].sequence == 3


def test_R18_what_takes_the_place_of_rot_is_fetched_to_its_end() -> None:
    """Told again what is lacking, a backup does not begin anew with what it is fetching."""
    cluster = Cluster("a", "b").with_primary("b").do("submit b s 1").live(0.3)
    cluster.do("cut a b", "submit b s 2", "publish b", "sync b").live(0.2)
    cluster.do("crash b", "start b", "mend a b").live(0.9).forget().do("rot b s", "grant a")
    while not cluster.sent("a", Behind):
        cluster.do("advance 0.02", "deliver", "sync", "fetch a")
    cluster.do("deliver a->b Behind")
    assert len(cluster.effects("b", CancelFetch)) == 1
    cluster.hear("b", "a", cluster.sent("a", Behind)[0])
    assert len(cluster.effects("b", CancelFetch)) == 1
