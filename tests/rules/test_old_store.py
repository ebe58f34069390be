"""The store of a member that was replaced comes back: its mount was missing for a while, and is there again.

What was deleted meanwhile is forgotten by all members, and still there (I10, I11, R20, R23).
"""

from __future__ import annotations

from collections.abc import Iterator

from replicator.core.effects import Commit, ForgetTombstone, Notice, StartTenure, WriteRecord
from replicator.core.messages import Members, Promised
from replicator.model import Role, StreamName
from tests.rules.cluster import Cluster
from tests.simulation.image import Image

S, T = StreamName("s"), StreamName("t")


def put_back(cluster: Cluster, name: str, old: Image) -> Cluster:
    """Put that store in the place of the node's, which is down then."""
    cluster.do(f"crash {name}")
    cluster.node(name).disk.replace(old)
    return cluster


def deleted_meanwhile() -> Cluster:
    """c's store is away, a new one takes its place, the stream s is deleted and forgotten, and c's first
    store, with s, is back in a node that is down."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 5", "submit a t 1").live(0.5)
    cluster.do("crash c")
    old = cluster.node("c").disk.image
    cluster.do("wipe c", "start c").live(4.0)
    assert cluster.core("c").role is Role.BACKUP
    cluster.do("delete a s 6").live(1.0)
    assert all(S not in cluster.state(name).heads for name in "abc")
    return put_back(cluster, "c", old).forget()


def restored(cluster: Cluster, name: str) -> Iterator[str]:
    """The streams that the newest tenure of that node began with."""
    return (head.stream for head in cluster.effects(name, StartTenure)[-1].heads)


def test_R23_a_store_that_holds_what_was_deleted_is_not_taken_in() -> None:
    """As a member it would bring the deleted stream back when the primary is gone; the operator is told."""
    cluster = deleted_meanwhile().do("start c").live(6.0)
    assert cluster.core("c").role is Role.JOINING
    assert not cluster.effects("a", WriteRecord)
    (told,) = [notice.text for notice in cluster.effects("a", Notice) if "R23" in notice.text]
    assert told.startswith("c: its store is not taken in")
    assert "empty its data directory" in told
    cluster.do("crash c", "wipe c", "start c").live(4.0)
    assert cluster.core("c").role is Role.BACKUP, "what the operator was told to do helps"
    cluster.do("crash a", "grant b").live(3.0)
    assert list(restored(cluster, "b")) == [T]


def test_R23_a_store_whose_surplus_is_made_anew_is_taken_in() -> None:
    """The stream exists again: what the old store held of it is older than what it has accepted now."""
    cluster = deleted_meanwhile().do("start c").live(3.0)
    assert cluster.core("c").role is Role.JOINING
    cluster.do("submit a s 7").live(3.0)
    assert cluster.core("c").role is Role.BACKUP
    cluster.do("crash a", "grant b").live(3.0)
    assert set(restored(cluster, "b")) == {S, T}
    assert cluster.state("b").heads[S].sequence == 7


def test_I10_only_stores_that_the_newest_record_names_are_chosen_from() -> None:
    """The old store's promise is there in time, but it is of no member: what it holds is not restored."""
    cluster = deleted_meanwhile().do("cut a c", "cut b c", "crash a", "start c").live(1.5)
    cluster.do("start a").live(1.2).do("mend b c", "grant b", "deliver *->* Probe")
    cluster.do("deliver *->* ProbeAnswer", "sync b", "deliver *->* Claim", "sync a c")
    cluster.do("deliver c->b Promised", "deliver a->b Promised")
    primary = cluster.core("b")._primary
    assert primary.reign is not None
    assert primary.reign.recovery.has_heard(cluster.state("c").id), "its promise is there"
    assert S in {head.stream for page in cluster.sent("c", Promised) for head in page.heads}
    cluster.live(3.0)
    assert list(restored(cluster, "b")) == [T]


def test_R8_a_store_of_no_member_is_a_source_of_chunks() -> None:
    """What only the primary's disk held, and has rotted there, is fetched from the store that is back."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.5).do("crash c")
    old = cluster.node("c").disk.image
    cluster.do("wipe c", "start c").live(4.0)
    put_back(cluster, "c", old).do("crash a", "rot b s", "start c").live(1.5)
    cluster.do("start a", "rot a s").live(0.5).forget().do("grant b").live(5.0)
    assert list(restored(cluster, "b")) == [S]
    assert cluster.state("b").heads[S].readable


def test_R23_no_tombstone_is_forgotten_while_members_change() -> None:
    """A claimant that knows of the joint record alone would heed the old store, too (R27)."""
    for version in (2, 3):
        _delete_while_changing(version)


def _delete_while_changing(version: int) -> None:
    """The stream is deleted while the record of that version is on its way."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.5)
    cluster.do("crash c", "wipe c", "start c")
    while not any(write.record.version == version for write in cluster.effects("a", WriteRecord)):
        cluster.do("settle", "advance 0.01")
    cluster.forget().do("delete a s 2")
    for _ in range(40):
        cluster.do("drop a->* Members", "settle", "advance 0.05")
    assert cluster.sent("a", Members)
    assert cluster.effects("a", Commit)
    assert not cluster.effects("a", ForgetTombstone), "not before its record is adopted"
    cluster.live(1.0)
    assert [S in cluster.state(name).heads for name in "abc"] == [False] * 3
    assert cluster.core("c").role is Role.BACKUP
