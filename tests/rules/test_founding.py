"""R20 in its corners: stores that do not fit their settings, and foundings that were interrupted."""

from __future__ import annotations

import pytest
from msgspec import structs

from replicator.core.config import Config
from replicator.core.effects import Fetch, Notice, StartTenure, WriteRecord
from replicator.core.events import Durable, HeadRotten
from replicator.core.founding import misfit
from replicator.core.messages import Claim, Found, Founded, FoundStored, Hello, Promised
from replicator.core.state import head_of
from replicator.model import (
    Digest,
    Epoch,
    Incarnation,
    Member,
    MemberRecord,
    NodeId,
    Promise,
    Role,
    StreamName,
)
from tests.rules.cluster import Cluster
from tests.rules.test_fencing import manifest
from tests.simulation.disk import Disk


@pytest.mark.parametrize(
    ("stored", "configured", "why"),
    [
        ("a b c", "a b c", None),
        ("a b c", "a", "belongs to the cluster of a, b, c: set REPLICATOR_PEERS as before"),
        ("a", "a b c", "is that of a standalone node"),
        ("a b c", "a b d", "REPLICATOR_PEERS names a, b, d"),
    ],
)
def test_R20_a_store_is_used_only_with_the_members_it_was_founded_with(
    stored: str, configured: str, why: str | None
) -> None:
    """Anything else is refused before the start, in a sentence that says what to do."""
    durable = Cluster(*stored.split()).node("a").disk.durable("test")
    node, *peers = (NodeId(name) for name in configured.split())
    told = misfit(durable, Config(node=node, peers=frozenset(peers)))
    assert told is None if why is None else told is not None and why in told


def test_R20_a_new_store_fits_any_settings() -> None:
    """Nothing is founded in it."""
    durable = Cluster("a", founded=False).node("a").disk.durable("test")
    assert misfit(durable, Config(node=NodeId("a"), peers=frozenset({NodeId("b")}))) is None


def test_R20_a_node_without_peers_founds_itself_once() -> None:
    """However long its disk takes over the one record."""
    cluster = Cluster("a", founded=False).do("advance 2.0")
    (write,) = cluster.effects("a", WriteRecord)
    assert [member.node for member in write.record.members] == ["a"]
    cluster.do("sync a")
    assert cluster.core("a").role is Role.BACKUP


@pytest.mark.parametrize("knowing", ["a b c", "b c", "a c"])
def test_R13_a_cluster_that_lost_its_memory_goes_on_above_its_epochs(
    monkeypatch: pytest.MonkeyPatch, knowing: str
) -> None:
    """All machines went down, and durability was memory: it is founded anew, yet epochs only grow, for sinks
    refuse whatever is below the highest that they have heard of. It is enough that a majority knows it."""
    durable = Disk.durable

    def after_amnesia(disk: Disk, cluster: str) -> Durable:
        return structs.replace(durable(disk, cluster), epoch_seen=Epoch(7 if disk.node in knowing else 0))

    monkeypatch.setattr(Disk, "durable", after_amnesia)
    cluster = Cluster("a", "b", "c", founded=False).live(2.0).do("grant a").live(0.5)
    assert [tenure.epoch for tenure in cluster.effects("a", StartTenure)] == [8]


def test_R20_a_coordinator_that_is_restarted_goes_on_with_the_record_it_has() -> None:
    """Half founded: the others may have stored it, so it is not proposed under another version."""
    cluster = Cluster("a", "b", "c", founded=False)
    while not cluster.sent("a", Found):
        cluster.do("advance 0.1", "deliver *->* Hello")
    cluster.do("sync a", "drop", "crash a", "start a").forget().live(2.0)
    assert {found.record.version for found in cluster.sent("a", Found)} == {1}
    assert cluster.core("a").role is Role.BACKUP


@pytest.mark.parametrize("names", ["a b", "a b c"])
def test_R20_an_emptied_coordinator_founds_with_those_that_have_stored_a_later_proposal(names: str) -> None:
    """It numbers its proposals anew, and what is declared counts for everybody, in memory as on the disk: one
    that went on by the later proposal would wait for the store that is gone."""
    cluster = Cluster(*names.split(), founded=False)
    while not cluster.sent("a", Found):
        cluster.do("advance 0.1", "deliver *->* Hello")
    last = names[-1]
    cluster.do("sync a", "drop", f"crash {last}", f"wipe {last}", f"start {last}")
    while cluster.sent("a", Found)[-1].record.version == 1:
        cluster.do("advance 0.1", "deliver *->* Hello", "sync a")
    cluster.do("deliver a->b Found", "sync b", "drop")
    cluster.do("crash a", "wipe a", "start a").live(2.0)
    assert len({cluster.state(name).record for name in names.split()}) == 1
    cluster.do(*(["crash c"] if "c" in names else []), "grant a").live(1.0)
    assert cluster.effects("a", StartTenure), "with b, a majority"


def test_R20_a_coordinator_says_who_has_not_stored_its_record() -> None:
    """All are there, and it waits for the disk, or the consent, of some: status names them."""
    cluster = Cluster("a", "b", "c", founded=False)
    assert cluster.do("advance 0.6").core("a").status()["waiting_for"] == "b, c"
    while not cluster.sent("a", Found):
        cluster.do("advance 0.1", "deliver *->* Hello")
    assert cluster.core("a").status()["waiting_for"] == "b, c"
    cluster.do("sync a", "deliver a->b Found", "sync b", "deliver b->a FoundStored", "advance 0.6")
    assert cluster.core("a").status()["waiting_for"] == "c"
    cluster.live(2.0)
    assert cluster.core("a").status()["waiting_for"] == ""
    assert cluster.core("a").role is Role.BACKUP


def test_R20_another_cluster_is_refused_and_told_of_once() -> None:
    """Its coordinator proposes again and again, and its members say what they are, until somebody mends the
    settings; a proposal of others is told of anew."""
    cluster = Cluster("a", "b", "c", founded=False).forget()
    theirs, others = (
        MemberRecord(1, tuple(Member(node, bytes(16)) for node in names)) for names in ("abd", "bd")
    )
    for record in (theirs, theirs, others, others):
        cluster.hear("b", "a", Found(record))
    assert [notice.text for notice in cluster.effects("b", Notice)] == [
        "a is of the cluster of a, b, d, REPLICATOR_PEERS names a, b, c: refused",
        "a is of the cluster of b, d, REPLICATOR_PEERS names a, b, c: refused",
    ]
    foreign = MemberRecord(1, (Member("a", bytes(16)), Member("d", bytes(16))))
    for _ in range(2):
        cluster.hear("c", "a", Hello(True, foreign, "", ""))
    assert [notice.text for notice in cluster.effects("c", Notice)] == [
        "a is of the cluster of a, d, REPLICATOR_PEERS names a, b, c: refused"
    ]
    assert not cluster.effects("b", WriteRecord)


def test_R20_a_node_whose_settings_lack_a_member_does_not_join() -> None:
    """It could not speak with that one, nor be started a second time. With the right ones it joins."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.5).do("crash c", "wipe c")
    node, right = cluster.node("c"), cluster.node("c").config
    node.config = structs.replace(right, peers=frozenset({NodeId("a")}))
    cluster.forget().do("start c").live(4.0)
    assert [notice.text for notice in cluster.effects("c", Notice)] == [
        "a is of the cluster of a, b, c, REPLICATOR_PEERS names a, c: refused"
    ]
    assert not cluster.effects("a", WriteRecord)
    node.config = right
    cluster.do("crash c", "start c").live(4.0)
    assert cluster.core("c").role is Role.BACKUP


def test_R20_a_founded_cluster_is_not_founded_again() -> None:
    """A proposal that comes late changes nothing; the declaration is repeated to its members alone."""
    cluster = Cluster("a", "b", "c").forget()
    record = cluster.state("b").record
    assert record is not None
    cluster.hear("b", "a", Found(structs.replace(record, version=9)))
    cluster.hear("b", "a", Founded(record))
    assert not cluster.effects("b", WriteRecord)
    assert not cluster.sent("b", FoundStored)
    unknown = Hello(False, None, "", "")
    cluster.hear("b", "c", unknown, incarnation=Incarnation(b"somebody else's!"))
    assert len(cluster.sent("b", Hello)) == 1
    assert not cluster.sent("b", Founded)
    cluster.hear("b", "c", unknown)
    assert cluster.sent("b", Founded) == [Founded(record)]


def test_R20_a_founder_learns_from_a_founded_peer_that_it_counts() -> None:
    """It missed the declaration; the record in the peer's hello names its store."""
    cluster = Cluster("a", "b", "c", founded=False)
    while cluster.core("b").role is Role.FOUNDING:
        cluster.do("advance 0.1", "deliver *->* Hello", "deliver a->b", "deliver *->a", "deliver a->c Found")
        cluster.do("sync a b c")
    record = cluster.state("b").record
    assert record is not None
    assert cluster.core("c").role is Role.FOUNDING
    cluster.forget().hear("c", "b", Hello(True, record, "", ""))
    cluster.hear("c", "a", Hello(True, record, "", ""))
    assert [write.founded for write in cluster.effects("c", WriteRecord)] == [True]
    cluster.do("sync c")
    assert cluster.core("c").role is Role.BACKUP


def _restarted_learner() -> Cluster:
    """c, new to the cluster, has promised and accepted, and is restarted before the record is durable."""
    cluster = Cluster("a", "b", "c").do("crash c")
    image = cluster.node("c").disk.image
    image.record, image.founded = None, False
    image.promise = Promise(1, cluster.owner("a"))
    cluster.do("start c").forget()
    cluster.state("c").heads[StreamName("s")] = head_of(manifest(), Epoch(1))
    return cluster


def test_R20_a_learner_without_a_record_repeats_no_promise() -> None:
    """What it would have to tell with it is not known here any longer."""
    cluster = _restarted_learner()
    cluster.hear("c", "a", Claim(1, 1))
    assert not cluster.sent("c", Promised)


def test_R22_a_learner_without_a_record_asks_the_primary_for_what_is_rotten() -> None:
    """Whom else to ask the record would say."""
    cluster = _restarted_learner()
    cluster.node("c").deliver(HeadRotten(StreamName("s"), Digest(manifest().digest)))
    assert [fetch.sources for fetch in cluster.effects("c", Fetch)] == [("a",)]


def test_R20_a_record_that_is_heard_after_a_newer_one_is_not_settled_on() -> None:
    """Nor is any by a store that has promised: its record comes in a primary's epoch (R27)."""
    cluster = _restarted_learner()
    record = cluster.state("a").record
    assert isinstance(record, MemberRecord)
    cluster.hear("c", "b", Founded(record))
    assert not cluster.effects("c", WriteRecord)


def test_R20_one_that_was_put_in_its_place_and_never_heard_of_it_promises() -> None:
    """Named by a peer's record it is as good as any member: with a gone, b cannot do without it."""
    cluster = _restarted_learner().do("crash a").live(1.5)
    assert cluster.core("c").role is Role.JOINING
    assert not cluster.effects("c", WriteRecord)
    cluster.do("grant b").live(2.0)
    assert cluster.effects("b", StartTenure)
    assert cluster.core("c").role is Role.BACKUP
