"""R8, R12, R22: what rots before it has committed keeps nobody from serving."""

from __future__ import annotations

from msgspec import structs

from replicator.core.effects import Accept, CancelFetch, Commit, Fetch, Publish, StartTenure
from replicator.core.events import HeadRotten, StoreRoom
from replicator.core.messages import Behind
from replicator.core.state import head_of
from replicator.model import Digest, Epoch, StreamName
from tests.rules.cluster import Cluster
from tests.rules.test_fencing import manifest
from tests.rules.test_late_words import reign_of

S, T = StreamName("s"), StreamName("t")


def test_R12_what_was_adopted_does_not_go_out_again_when_it_rots() -> None:
    """In flight over a bump, held by its primary alone, and rotten: published again it would be another
    checkpoint of the same order, which the own store refuses. A newer epoch finds it missing instead."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.3)
    cluster.do("cut a b", "cut a c", "submit a s 2", "publish a", "sync a", "mend a b", "crash c").forget()
    primary = cluster.core("a")._primary
    primary.claim_above("for the test")
    for _ in range(9):
        cluster.do("advance 0.02", "deliver", "sync a b")
    assert primary.reign is not None
    assert primary.reign.epoch == 2
    assert not primary.reign.serving
    cluster.do("rot a s")
    while not primary.reign.serving:
        cluster.do("advance 0.01", "settle")
    cluster.node("a").deliver(HeadRotten(S, Digest(cluster.state("a").heads[S].digest)))  # and once more
    cluster.live(4.0)
    assert not cluster.effects("a", Publish)
    (tenure,) = cluster.effects("a", StartTenure)
    assert not tenure.unchanged
    assert [head.sequence for head in tenure.unavailable] == [2]  # c, not heard, might hold it
    cluster.do("mend a c", "start c").live(3.0)
    assert [head.sequence for head in cluster.effects("a", StartTenure)[-1].heads] == [1]


def test_R8_a_dropped_head_is_no_ancestor_of_what_comes() -> None:
    """The only copy never committed and is rotten; dropped, it does not keep lower sequences out."""
    cluster = Cluster("a", "b").with_primary("a")
    cluster.node("b").deliver(StoreRoom(True))
    cluster.do("full b", "submit a s 9").live(0.3).do("crash a", "rot a s", "start a", "room b")
    cluster.node("b").deliver(StoreRoom(False))
    cluster.live(0.8).forget().do("grant a").live(3.0)
    (tenure,) = cluster.effects("a", StartTenure)
    assert tenure.heads == tenure.unavailable == ()
    cluster.do("submit a s 1").live(0.5)
    assert [commit.position.sequence for commit in cluster.effects("a", Commit)] == [1]
    assert [head.sequence for head in (cluster.state("a").heads[S], cluster.state("b").heads[S])] == [1, 1]


def test_R8_a_head_that_rots_after_its_adoption_is_dropped_in_the_next_epoch() -> None:
    """Adopted, it cannot be dropped any longer in its epoch; in a newer one it provably never committed."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.3)
    cluster.do("cut a c", "cut a b", "submit a s 2", "publish a", "sync a").live(1.0)
    cluster.do("crash a", "mend a b", "start a").live(0.8).forget().do("grant a")
    reign = cluster.core("a")._primary.reign
    while reign is None or not reign.recovery.holds(S):
        cluster.do("advance 0.02", "deliver", "sync a b")
        reign = cluster.core("a")._primary.reign
    cluster.do("rot a s").live(2.0)
    tenures = cluster.effects("a", StartTenure)
    assert [[head.sequence for head in tenure.unavailable] for tenure in tenures] == [
        [2],
        [2],
    ]  # c may hold it
    cluster.do("mend a c").live(3.0)
    assert [head.sequence for head in cluster.effects("a", StartTenure)[-1].heads] == [1]


def test_R8_rot_that_was_dropped_gives_way_to_the_head_in_its_place() -> None:
    """The only copy of a newer head rots at b and is dropped for an older one: b, still looking for a good
    copy of it, fetches what it is told to hold."""
    cluster = Cluster("a", "b").with_primary("b").do("submit b s 1").live(0.3)
    cluster.do("cut a b", "submit b s 2", "publish b", "sync b").live(0.2)
    cluster.do("crash b", "start b", "mend a b").live(0.9).forget().do("rot b s", "grant a")
    for _ in range(100):
        if cluster.sent("a", Behind):
            break
        cluster.do("advance 0.02", "deliver", "sync", "fetch a")
    assert cluster.sent("a", Behind)
    assert StreamName("s") in cluster.state("b").fetching
    cluster.do("deliver a->b Behind")
    assert cluster.effects("b", CancelFetch)
    cluster.live(1.0)
    (tenure,) = cluster.effects("a", StartTenure)
    assert [head.sequence for head in tenure.heads] == [1]


def test_R22_rot_that_is_found_when_the_store_is_opened_is_mended() -> None:
    """Adopted in the epoch and found unreadable after a restart: nothing newer comes, and it is fetched."""
    cluster = Cluster("a", "b").with_primary("a").do("submit a s 1").live(0.3)
    cluster.node("b").disk.damage(S)
    cluster.do("crash b", "start b").forget()
    assert not cluster.state("b").heads[S].readable
    cluster.live(1.0)
    assert cluster.effects("b", Fetch)
    assert cluster.state("b").heads[S].readable
    assert not cluster.node("b").disk.image.damaged


def test_R22_what_cannot_be_mended_leaves_its_place_to_others() -> None:
    """One fetch at a time, and nobody has the first of two rotten heads: the other one has its turn."""
    cluster = Cluster("a", "b").with_primary("a").do("submit a t 1").live(0.3)
    state = cluster.state("b")
    state.config = structs.replace(state.config, fetches_max=1)
    state.heads[S] = head_of(manifest(), Epoch(0))
    cluster.node("b").deliver(HeadRotten(S, Digest(manifest().digest)))
    cluster.do("rot b t").live(3.0)
    assert not state.heads[S].readable
    assert state.heads[T].readable


def _hear(cluster: Cluster, name: str) -> None:
    """The late promise of one more reaches a, and nothing else happens."""
    cluster.do(f"mend a {name}")
    while not reign_of(cluster, "a").recovery.has_heard(cluster.state(name).id):
        cluster.do("advance 0.05", f"deliver a->{name} Claim", f"sync {name}", f"deliver {name}->a Promised")


def test_R8_what_the_own_store_is_asked_to_accept_is_not_chosen_anew() -> None:
    """Dropped for an older one, which is on its way to the own disk: a late promise brings nothing back."""
    cluster = Cluster("a", "b", "c", "d", "e").with_primary("a").do("submit a s 1").live(0.3)
    cluster.do(*(f"cut a {name}" for name in "bcde"), "submit a s 2", "publish a", "sync a").live(1.0)
    cluster.do("crash a", "rot a s", "mend a b", "mend a c", "start a").live(0.8).forget().do("grant a")
    while cluster.core("a")._primary.reign is None:
        cluster.do("advance 0.02", "deliver", "sync a b c")
    recovery = reign_of(cluster, "a").recovery
    assert list(recovery.unavailable) == [S]
    _hear(cluster, "d")
    for _ in range(40):
        if not cluster.effects("a", Accept):
            cluster.do("advance 0.05", "fetch a")
    _hear(cluster, "e")
    assert {accept.manifest.sequence for accept in cluster.effects("a", Accept)} == {1}
    cluster.live(2.0)
    assert [head.sequence for head in cluster.effects("a", StartTenure)[-1].heads] == [1]
