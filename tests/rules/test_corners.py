"""Corners of the rules that no everyday run turns: bounds, late words, and words of the wrong one."""

from __future__ import annotations

import math

from msgspec import structs

from replicator.core.effects import (
    AbandonRefused,
    Abort,
    Accept,
    Changed,
    Commit,
    Fetch,
    Notice,
    StartTenure,
    WriteRecord,
)
from replicator.core.events import HeadRotten, ManifestReceived, RecordWritten
from replicator.core.messages import (
    Ack,
    Acked,
    Behind,
    Claim,
    Found,
    FoundStored,
    Hello,
    ProbeAnswer,
    Promised,
    Reason,
)
from replicator.core.quorum import is_quorum, majority
from replicator.core.state import head_of
from replicator.model import Digest, Epoch, Incarnation, Member, MemberRecord, NodeId, Role, StreamName
from tests.rules.cluster import Cluster
from tests.rules.test_fencing import manifest
from tests.rules.test_publishing import serving

S = StreamName("s")


def test_R6_pages_that_do_not_fit_are_no_report() -> None:
    """A page beyond the last counts for nothing, one of another answer begins anew; all make a report."""
    cluster = Cluster("a", "b", "c")
    cluster.do("cut a b", "mend a b", "grant a", "deliver", "deliver", "sync a")
    epoch, nonce = next((c.epoch, c.nonce) for c in cluster.sent("a", Claim))
    record = cluster.state("b").record
    assert record is not None
    echo = cluster.core("b")._lender.echo(cluster.now)

    def page(number: int, count: int) -> Promised:
        return Promised(epoch, nonce, number, count, (), record, 0, echo)

    for number, count in ((5, 2), (0, 3), (0, 2)):
        cluster.hear("a", "b", page(number, count))
    assert cluster.core("a")._primary.reign is None
    cluster.hear("a", "b", page(1, 2))
    assert cluster.core("a")._primary.reign is not None


def test_R11_a_node_that_a_majority_does_not_know_gives_leadership_away() -> None:
    """Its store is a stranger's to both others: another may have more luck with the grant (T17)."""
    cluster = Cluster("a", "b", "c").do("grant a")
    for node in ("b", "c"):
        cluster.hear("a", node, ProbeAnswer(1, False, 0, Reason.NOT_MEMBER))
    assert cluster.core("a").role is Role.BACKUP


def test_R14_an_ack_of_the_head_with_another_digest_counts_for_nothing() -> None:
    """Also when nothing of the stream is in flight any longer."""
    cluster = serving().do("submit a s 1").live(0.3)
    before = dict(cluster.core("a")._primary.reign.progress.followers[NodeId("b")].acked)  # type: ignore[union-attr]
    cluster.hear("a", "b", Ack(1, (Acked("s", 1, 1, bytes(32)),)))
    cluster.hear("a", "b", Ack(1, (Acked("never", 1, 1, bytes(32)),)))
    assert cluster.core("a")._primary.reign.progress.followers[NodeId("b")].acked == before  # type: ignore[union-attr]


def test_R18_lagging_members_are_told_a_bounded_number_of_heads() -> None:
    """As many as the limit says at a time, and as many fetches at a time."""
    cluster = serving()
    config = cluster.core("a")._state.config
    names = [StreamName(f"s{number}") for number in range(config.behind_heads_max + 5)]
    for name in names:
        cluster.state("a").heads[name] = head_of(manifest(name), Epoch(1))
    reign = cluster.core("a")._primary.reign
    assert reign is not None
    reign.progress.followers[NodeId("b")].lacking.update(dict.fromkeys(names, -1.0))
    cluster.live(0.1).forget().do("advance 0.3", "deliver a->b")
    assert [len(behind.heads) for behind in cluster.sent("a", Behind)][:1] == [config.behind_heads_max]
    assert len(cluster.effects("b", Fetch)) == config.fetches_max


def test_R18_what_was_published_a_moment_ago_hides_nothing() -> None:
    """More young heads than a beat looks at, before one that is late."""
    cluster = serving()
    cluster.state("a").config = structs.replace(cluster.state("a").config, behind_heads_max=1)
    names = [StreamName(f"young-{number}") for number in range(50)]
    for name in (*names, S):
        cluster.state("a").heads[name] = head_of(manifest(name), Epoch(1))
    reign = cluster.core("a")._primary.reign
    assert reign is not None
    reign.progress.followers[NodeId("b")].lacking.update({**dict.fromkeys(names, math.inf), S: -1.0})
    told = set()
    for _ in range(60):
        cluster.do("advance 0.1", "deliver")
        told |= {head.stream for behind in cluster.sent("a", Behind) for head in behind.heads}
    assert S in told


def test_R18_streams_that_are_always_one_behind_hide_nothing() -> None:
    """They keep their place, and are never late: what lies behind them has its turn."""
    cluster = serving()
    cluster.state("a").config = structs.replace(cluster.state("a").config, behind_heads_max=8)
    fast = [StreamName(f"fast-{number}") for number in range(31)]
    slow = [StreamName(f"slow-{number}") for number in range(40)]
    for name in (*fast, *slow):
        cluster.state("a").heads[name] = head_of(manifest(name), Epoch(1))
    reign = cluster.core("a")._primary.reign
    assert reign is not None
    lacking = reign.progress.followers[NodeId("b")].lacking
    lacking.update({**dict.fromkeys(fast, math.inf), **dict.fromkeys(slow, -1.0)})
    cluster.forget()
    for _ in range(14):
        cluster.do("advance 0.3", "deliver a->b Heartbeat", "deliver b->a HeartbeatAnswer")
    told = {head.stream for behind in cluster.sent("a", Behind) for head in behind.heads}
    assert told.issuperset(slow)


def test_R19_a_publication_of_another_store_or_position_changes_nothing() -> None:
    """The owner's name with another incarnation, and a manifest of another epoch than its publication's."""
    cluster = serving()
    node = NodeId("a")
    mine = Incarnation(cluster.owner("a").incarnation)
    for incarnation, made in ((Incarnation(b"x" * 16), manifest(epoch=1)), (mine, manifest(epoch=9))):
        cluster.node("b").deliver(ManifestReceived(node, incarnation, Epoch(1), made))
    assert not cluster.effects("b", Accept)


def test_R20_a_founding_that_is_not_ours_is_refused() -> None:
    """Other names, another incarnation of oneself; and one who stands outside a founded cluster says so."""
    cluster = Cluster("a", "b", "c", founded=False)
    me = cluster.owner("b")
    known = tuple(Member(n, cluster.owner(n).incarnation) for n in ("a", "b", "c"))
    strangers = MemberRecord(1, (Member("x", me.incarnation), Member("y", me.incarnation)))
    wiped = MemberRecord(1, (known[0], structs.replace(known[1], incarnation=b"x" * 16), known[2]))
    cluster.forget()
    cluster.hear("b", "a", Found(strangers))
    cluster.hear("b", "a", Found(wiped))
    assert not cluster.effects("b", WriteRecord)
    assert not cluster.sent("b", FoundStored)
    cluster.hear("b", "a", Hello(True, strangers, "", ""))
    (told,) = (notice.text for notice in cluster.effects("b", Notice))
    assert told.startswith("a is of the cluster of x, y, REPLICATOR_PEERS names a, b, c")


def test_R20_a_member_that_is_replaced_joins() -> None:
    """The newest record names another incarnation of this node: it does not count any longer."""
    cluster = serving()
    record = cluster.state("b").record
    assert record is not None
    members = tuple(structs.replace(m, incarnation=b"x" * 16) if m.node == "b" else m for m in record.members)
    newer = MemberRecord(record.version + 1, members)
    cluster.node("b").deliver(RecordWritten(newer, Epoch(1), True, 99))
    assert [changed.new for changed in cluster.effects("b", Changed)] == [Role.JOINING]


def test_R22_rot_of_what_is_no_longer_the_head_is_nothing() -> None:
    """A late word of an older digest, or of a stream that is not here."""
    cluster = serving().do("submit a s 1").live(0.3).forget()
    for stream in (S, StreamName("never")):
        cluster.node("b").deliver(HeadRotten(stream, Digest(bytes(32))))
    assert cluster.state("b").heads[S].readable
    assert not cluster.effects("b", Fetch)


def test_R8_there_must_be_something_to_abandon() -> None:
    """A stream that can be read, and a node that does not lead: a sentence, and nothing else."""
    cluster = serving().do("submit a s 1").live(0.3).forget()
    for name in ("a", "b"):
        cluster.do(f"abandon {name} s")
        (refused,) = cluster.effects(name, AbandonRefused)
        assert refused.reason.startswith("there is nothing to abandon")
    assert not cluster.effects("a", Abort)


def test_R21_what_found_no_room_is_accepted_when_there_is_room_again() -> None:
    """Every disk is full, so nobody is better placed: the checkpoint in flight waits, and then commits."""
    cluster = serving().do("full a", "full b", "full c").live(0.3).do("submit a s 1").live(0.3)
    assert not cluster.effects("a", Commit)
    cluster.do("room b", "room c", "room a").live(1.0)
    assert len(cluster.effects("a", Commit)) == 1


def test_R27_who_joins_waits_for_what_nobody_can_read_and_the_operator_is_told() -> None:
    """A member whose disk is lost may hold the only copy: its new store takes its place once the checkpoint
    can be read, or is abandoned."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1", "submit a t 1").live(0.3)
    cluster.do("crash a b c", "wipe c", "start a b", "rot a s", "rot b s").live(1.5)
    cluster.forget().do("grant a").live(3.0).do("start c").live(5.0)
    assert cluster.effects("a", StartTenure)
    assert cluster.core("c").role is Role.JOINING
    assert any("nobody joins the members before that" in note.text for note in cluster.effects("a", Notice))
    assert cluster.do("abandon a s").live(3.0).core("c").role is Role.BACKUP


def test_R27_a_majority_of_each_set() -> None:
    """Of one set and of two."""
    old = tuple(Member(name, bytes(16)) for name in "abc")
    new = tuple(Member(name, bytes(16)) for name in "cde")
    joint = MemberRecord(2, new, old)
    assert majority(3) == 2
    assert not is_quorum({("c", bytes(16)), ("d", bytes(16))}, joint)  # type: ignore[arg-type]
    assert is_quorum({(n, bytes(16)) for n in "acd"}, joint)  # type: ignore[misc]
