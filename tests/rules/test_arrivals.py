"""R18: what is on its way is not fetched besides, as long as something comes."""

from __future__ import annotations

from msgspec import structs

from replicator.core.effects import Accept, Commit, Fetch
from replicator.core.events import ManifestReceived, Seen
from replicator.core.messages import Behind, Heartbeat, HeartbeatAnswer
from replicator.model import Epoch, Head, NodeId
from tests.rules.cluster import Cluster
from tests.rules.test_publishing import serving


def _told(cluster: Cluster, index: int) -> Head:
    """b hears how much a has published, all of it on its way still; a head of it."""
    cluster.live(0.3).do("cut a b")
    head = next(iter(cluster.state("a").heads.values()))
    cluster.hear("b", "a", Heartbeat(1, 99, 0.3, None, index, ()))
    return structs.replace(head, stream="large", sequence=1, digest=b"not yet here".ljust(32))


def _fetches(cluster: Cluster, head: Head) -> bool:
    """Whether b, told once more that it lacks the head, fetches it."""
    cluster.forget().hear("b", "a", Behind(1, (head,)))
    return bool(cluster.effects("b", Fetch))


def _comes(cluster: Cluster, index: int) -> None:
    """One in the midst of a large checkpoint."""
    cluster.node("b").deliver(Seen(NodeId("a"), Epoch(1), index))


def _window_moves_to(cluster: Cluster) -> int:
    """Up to where b waits for nothing, told twice by heartbeats that 40 have been published."""
    for beat in range(2):
        cluster.forget().hear("b", "a", Heartbeat(1, 200 + beat, 0.3, None, 40, ()))
    return cluster.sent("b", HeartbeatAnswer)[-1].seen_index


def test_R18_small_ones_between_do_not_make_a_slow_link_a_fast_one() -> None:
    """Large publications take 0.5 s, as was learnt; twenty small ones later a large checkpoint begins."""
    cluster = serving().do("submit a s 1").live(0.1)
    small, incarnation = cluster.effects("b", Accept)[-1].manifest, cluster.state("a").id[1]
    head = _told(cluster, 10)
    for index in range(3, 11):
        cluster.do("advance 0.5")
        _comes(cluster, index)
    for index in range(11, 31):
        came = ManifestReceived(NodeId("a"), incarnation, Epoch(1), small, index)
        cluster.node("b").deliver(came)
        cluster.hear("b", "a", Heartbeat(1, 100 + index, 0.3, None, index, ()))
    cluster.hear("b", "a", Heartbeat(1, 200, 0.3, None, 35, ()))
    head = structs.replace(head, stream="next")
    for _ in range(5):
        assert not _fetches(cluster, head)
        cluster.do("advance 0.1")
    cluster.do("advance 1.6")
    assert _fetches(cluster, head)


def test_R18_what_is_on_its_way_is_not_fetched_besides() -> None:
    """A link that takes 0.5 s for a publication: only the first such pause is taken for a loss."""
    cluster = serving().do("submit a s 1")
    head = _told(cluster, 40)
    for index in range(3, 40):
        head = structs.replace(head, stream=f"large-{index}")
        fetched = []
        for _ in range(5):
            fetched.append(_fetches(cluster, head))
            cluster.do("advance 0.1")
        assert any(fetched) == (index == 3)
        _comes(cluster, index)
    cluster.do("advance 1.9")
    assert not _fetches(cluster, head)
    cluster.do("advance 0.2")
    assert _fetches(cluster, head)


def test_R16_what_is_on_its_way_is_not_given_up_while_large_ones_come() -> None:
    """They take 0.5 s each: the window moves with what comes, or after twice that without anything."""
    cluster = serving().do("submit a s 1")
    _told(cluster, 40)
    seen = []
    for index in range(3, 12):
        cluster.do("advance 0.5")
        _comes(cluster, index)
        cluster.forget().hear("b", "a", Heartbeat(1, 100 + index, 0.3, None, 40, ()))
        seen.append(cluster.sent("b", HeartbeatAnswer)[-1].seen_index)
    assert seen == list(range(3, 12))
    for seconds, given_up in ((0.9, 11), (0.2, 40)):
        cluster.do(f"advance {seconds}")
        assert _window_moves_to(cluster) == given_up


def test_R16_the_window_does_not_stand_still_for_longer_than_is_waited_for_anything() -> None:
    """Three long pauses have taught that a large publication takes 80 s; then the link is a fast one, and all
    that is out is lost."""
    cluster = serving().do("submit a s 1")
    _told(cluster, 40)
    for index, pause_s in ((3, 1), (4, 15), (5, 90)):
        cluster.do(f"advance {pause_s}")
        _comes(cluster, index)
    for seconds, given_up in ((19.9, 5), (0.2, 40)):
        cluster.do(f"advance {seconds}")
        assert _window_moves_to(cluster) == given_up


def test_R18_from_what_comes_after_it_was_given_up_is_learnt() -> None:
    """One publication at a time, each on its way for 0.5 s from the first on: two of them are fetched."""
    cluster = serving().do("submit a s 1")
    head = _told(cluster, 2)
    fetched = 0
    for index in range(3, 20):
        head = structs.replace(head, stream=f"large-{index}")
        asked = []
        for beat in range(5):
            cluster.hear("b", "a", Heartbeat(1, 100 * index + beat, 0.3, None, index, ()))
            asked.append(_fetches(cluster, head))
            cluster.do("advance 0.1")
        fetched += any(asked)
        _comes(cluster, index)
        cluster.state("b").fetching.clear()  # as they come, each
    assert fetched <= 2


def test_R18_what_was_lost_is_fetched_while_others_come() -> None:
    """Everything that had been published when it was first missed has come: it has not."""
    cluster = serving().do("submit a s 1")
    head = _told(cluster, 40)
    _comes(cluster, 20)
    assert not _fetches(cluster, head)
    cluster.hear("b", "a", Heartbeat(1, 100, 0.3, None, 80, ()))
    _comes(cluster, 39)
    assert not _fetches(cluster, head)
    _comes(cluster, 40)
    assert _fetches(cluster, head)


def test_R18_what_an_older_epoch_published_is_fetched_at_once() -> None:
    """Nobody publishes it any longer."""
    cluster = serving().do("submit a s 1")
    head = _told(cluster, 40)
    _comes(cluster, 20)
    assert not _fetches(cluster, head)
    assert _fetches(cluster, structs.replace(head, epoch=0, stream="older"))


def test_R18_a_loss_does_not_make_the_next_one_long() -> None:
    """A lost publication, the engine's pause, another one: what passed between is nobody's slowness."""
    cluster = serving().live(0.3).do("crash c").live(0.3)
    cluster.do("submit a s 1", "lose a", "sync a").live(31.0)
    cluster.do("submit a s 2", "publish a").live(31.0)
    cluster.forget().do("submit a s 3", "lose a", "sync a").live(0.5)
    assert [commit.position.sequence for commit in cluster.effects("a", Commit)] == [3]


def test_R18_a_long_pause_is_learnt_step_by_step() -> None:
    """It may be that something else was lost: patience grows at most fourfold, and halves with what comes."""
    cluster = serving().do("submit a s 1")
    head = _told(cluster, 4)
    _comes(cluster, 2)
    cluster.do("advance 100")
    _comes(cluster, 3)
    cluster.do("advance 3.1")
    assert not _fetches(cluster, head)
    cluster.do("advance 0.2")
    assert _fetches(cluster, head)
