"""Payloads that are published for a second time: when the engine is given them back (R12, R17)."""

from __future__ import annotations

import pytest

from replicator.core.effects import AllowPublish, Changed, Commit, Publish, Release
from replicator.core.events import EngineReady, HeadRotten
from replicator.model import Digest, StreamName
from tests.rules.cluster import Cluster
from tests.rules.test_publishing import serving

S = StreamName("s")


def rotten_in_flight() -> Cluster:
    """What a has stored, and nobody has acknowledged yet, has rotted: it is to go out again."""
    cluster = serving().do("submit a s 1", "publish a", "sync a").forget()
    rots(cluster)
    (again,) = cluster.effects("a", Publish)
    assert again.handle == 1
    return cluster


def rots(cluster: Cluster) -> None:
    """The primary's head is told to be rotten."""
    cluster.node("a").deliver(HeadRotten(S, Digest(cluster.state("a").heads[S].digest)))


def committed(cluster: Cluster) -> Cluster:
    """The acknowledgments come before it has gone out again."""
    cluster.do("sync b c", "deliver")
    assert cluster.effects("a", Commit)
    assert not cluster.effects("a", Release), "it is being read: another content would go out under its name"
    return cluster


def test_R12_what_goes_out_again_is_not_given_back_before_it_has() -> None:
    """The engine, a thread of whose process the worker may be, writes something else there then, and who has
    missed the first publication would take that for the checkpoint (I4)."""
    cluster = committed(rotten_in_flight()).do("publish a")
    assert cluster.effects("a", Release) == [Release(1)]


def test_R12_what_goes_out_again_does_so_once() -> None:
    """However often it is found to be rotten meanwhile: what comes of it is asked of the store after that."""
    cluster = rotten_in_flight()
    rots(cluster)
    assert len(cluster.effects("a", Publish)) == 1


@pytest.mark.parametrize("how", ["ends", "goes on in a newer epoch"])
def test_R17_what_would_have_gone_out_again_is_given_back_with_its_epoch(how: str) -> None:
    """Nothing of an older epoch leaves any more, nor anything after the end."""
    cluster = committed(rotten_in_flight())
    if how == "ends":
        cluster.node("a").deliver(EngineReady(False))
    else:
        cluster.core("a")._primary.claim_above("for the test")
        for _ in range(30):
            cluster.do("advance 0.02", "deliver", "sync a b c")
        order = [kind for kind in cluster.order("a") if kind in (AllowPublish, Release)]
        assert order.index(AllowPublish) < order.index(Release), "which makes the older one's end"
    assert cluster.effects("a", Release) == [Release(1)]


def test_R17_what_is_going_out_is_abandoned_before_it_is_given_back() -> None:
    """A publisher lets go when the role ends: the engine may write there from the release on (I4)."""
    cluster = serving().do("submit a s 1").forget()
    cluster.node("a").deliver(EngineReady(False))
    order = [kind for kind in cluster.order("a") if kind in (Changed, Release)]
    assert order == [Changed, Release]
