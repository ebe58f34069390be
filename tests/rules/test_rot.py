"""R8, R12, R22: what rots before it has committed keeps nobody from serving."""

from __future__ import annotations

from msgspec import structs

from replicator.core.effects import (
    Abandoned,
    AbandonRefused,
    Abort,
    Accept,
    CancelFetch,
    Commit,
    Fetch,
    Publish,
    StartTenure,
)
from replicator.core.events import HeadRotten, StartedWithout, StoreRoom, Tick
from replicator.core.messages import Behind
from replicator.core.phase import Phase
from replicator.core.state import head_of
from replicator.core.tenure import PAUSE_S
from replicator.model import Digest, Epoch, StreamName
from tests.rules.cluster import PROBED, Cluster
from tests.rules.test_fencing import manifest
from tests.rules.test_late_words import reign_of
from tests.rules.test_publishing import serving

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


def test_R22_two_that_cannot_read_the_same_do_not_keep_each_other_busy() -> None:
    """Each asks the other, too, which finds out once more what it knows; neither has room for what c has."""
    cluster = serving().do("submit a s 1").live(0.3).do("cut a b", "rot a s", "rot b s", "full a", "full b")
    cluster.do("mend a b")
    for _ in range(100):
        cluster.do("advance 0.01", "deliver", "fetch", "sync")
    fetches = cluster.effects("a", Fetch) + cluster.effects("b", Fetch)
    assert 2 <= len(fetches) <= 4
    cluster.do("room a", "room b").live(2.0)
    assert [cluster.state(name).heads[S].readable for name in "ab"] == [True, True]


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


def _started_without(cluster: Cluster, name: str, stream: StreamName = S) -> None:
    """The worker gives up what it could not restore in the tenure that its engine is about to get."""
    epoch = cluster.core(name)._primary.tenure.epoch
    assert epoch is not None
    digest = Digest(cluster.state(name).heads[stream].digest)
    cluster.node(name).deliver(StartedWithout(epoch, stream, digest))


def _given_up() -> Cluster:
    """b serves; its head of s, adopted already, turned out to be rotten when it was to be restored, and the
    others are gone but for a c that cannot read it either."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.5)
    cluster.do("crash a").live(0.5).do("grant b").live(1.5).do("rot b s", "rot c s").live(2.0)
    _started_without(cluster, "b")
    return cluster


def test_R8_nothing_commits_over_a_head_that_the_engine_could_not_be_given() -> None:
    """The stream waits as if its rot had been known before the claim; mended, it comes in a new tenure."""
    cluster = _given_up().do("submit b s 2").live(2.0)
    assert ["R8" in abort.reason for abort in cluster.effects("b", Abort)] == [True]
    assert not cluster.effects("b", Commit)
    assert len(cluster.effects("b", StartTenure)) == 1
    cluster.do("start a").live(4.0)
    _, tenure = cluster.effects("b", StartTenure)
    assert ([head.sequence for head in tenure.heads], tenure.unchanged) == ([1], False)
    cluster.do("submit b s 2").live(0.5)
    assert [commit.position.sequence for commit in cluster.effects("b", Commit)] == [2]


def test_R8_a_head_that_is_mended_in_vain_is_brought_ever_more_seldom() -> None:
    """It can be read, it seems, and is given up each time: the others' tenures would last for a moment."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1", "submit a t 1").live(0.5)
    cluster.do("resign a", "grant b").live(1.5)
    for stream, pauses in ((S, (1.0, 2.0, 4.0)), (T, (1.0,))):
        for pause_s in pauses:
            _started_without(cluster.forget(), "b", stream)
            cluster.live(pause_s - 0.1)
            assert not cluster.effects("b", StartTenure)
            cluster.live(0.8)
            assert len(cluster.effects("b", StartTenure)) == 1
    cluster.do("submit b s 2").live(0.5)
    _started_without(cluster.forget(), "b")
    cluster.live(1.5)
    assert len(cluster.effects("b", StartTenure)) == 1, "of another head nothing is known"


def test_R8_a_word_of_a_tenure_that_has_ended_withholds_nothing() -> None:
    """The next one starts with the head, or gives it up itself."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.5)
    digest = Digest(cluster.state("a").heads[S].digest)
    cluster.node("a").deliver(StartedWithout(Epoch(9), S, digest))
    cluster.do("submit a s 2").live(0.5)
    assert [commit.position.sequence for commit in cluster.effects("a", Commit)] == [1, 2]


def test_R8_what_goes_on_unchanged_goes_on_without_what_was_given_up() -> None:
    """It is given up between a claim above and the tenure that goes on: the engine has not got it by then."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.5).forget()
    primary = cluster.core("a")._primary
    primary.claim_above("for the test")
    cluster.node("a").deliver(Tick())
    cluster.do(*PROBED, "sync a", "deliver a->b Claim", "sync b")
    cluster.do("deliver b->a Promised")
    assert primary.phase is Phase.RECOVERING
    _started_without(cluster, "a")
    cluster.live(0.5)
    (tenure,) = cluster.effects("a", StartTenure)
    assert tenure.unchanged
    assert [[head.stream for head in heads] for heads in (tenure.heads, tenure.unavailable)] == [[], [S]]
    cluster.live(2.0)
    _, tenure = cluster.effects("a", StartTenure)
    assert ([head.stream for head in tenure.heads], tenure.unchanged) == ([S], False)


def test_R8_what_the_engine_could_not_be_given_may_be_abandoned() -> None:
    """Adopted, it can have no older one in its place: a deletion follows it. What can be read is kept."""
    cluster = _given_up().do("abandon b s", "abandon b s").live(2.0)
    assert {(each.head.sequence, each.instead) for each in cluster.effects("b", Abandoned)} == {(1, None)}
    assert [head.tombstone for head in cluster.effects("b", StartTenure)[-1].heads] == [True]
    cluster.do("submit b s 3").live(0.5)
    assert [commit.position.sequence for commit in cluster.effects("b", Commit)][-1:] == [3]
    cluster.do("resign b", "grant c").live(1.0)
    _started_without(cluster, "c")
    cluster.do("abandon c s")
    assert "it can be read" in cluster.effects("c", AbandonRefused)[0].reason


def test_R8_what_all_can_read_and_nobody_can_restore_may_be_abandoned() -> None:
    """Its bytes are what was written, and are not what was hashed. After some vain tenures there are few for
    its sake; abandoned, the stream begins anew in the next, whatever pause was on."""
    cluster = serving().do("submit a s 1").live(0.5).forget()
    for _ in range(9):
        _started_without(cluster, "a")
        cluster.live(20.0)
    tenures = len(cluster.effects("a", StartTenure))
    assert tenures == len(PAUSE_S) - 1
    cluster.live(PAUSE_S[-1] - 60.0)
    assert len(cluster.effects("a", StartTenure)) == tenures
    assert not cluster.effects("a", AbandonRefused)
    cluster.do("abandon a s").live(2.0)
    assert [each.head.sequence for each in cluster.effects("a", Abandoned)] == [1]
    assert len(cluster.effects("a", StartTenure)) == tenures + 1
    cluster.do("submit a s 3").live(0.5)
    assert [commit.position.sequence for commit in cluster.effects("a", Commit)][-1:] == [3]
    assert not cluster.core("a")._primary.tenure._given_up
