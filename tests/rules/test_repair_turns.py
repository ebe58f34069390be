"""R8, R10, R15, R18 and R22 in their corners: adoption, fetches and rot, when something comes in between."""

from __future__ import annotations

import pytest

from replicator.core.effects import (
    Abandoned,
    AbandonRefused,
    Abort,
    Accept,
    AdoptHeads,
    CancelFetch,
    Commit,
    EndTenure,
    Fetch,
    Notice,
    Publish,
    StartTenure,
    Transfer,
)
from replicator.core.events import (
    AcceptRefused,
    Fetched,
    FetchFailed,
    HeadRotten,
    ManifestReceived,
    StoreFailed,
    Why,
)
from replicator.core.messages import (
    Ack,
    Acked,
    Adopt,
    Adopted,
    Claim,
    CommitPoint,
    Heartbeat,
    Members,
    Reason,
    Refusal,
)
from replicator.core.report import digest_of, page_digest
from replicator.model import Digest, Epoch, Incarnation, NodeId, Position, Role, StreamName
from tests.rules.cluster import PROBED, Cluster
from tests.rules.test_fencing import manifest
from tests.rules.test_late_words import behind, reign_of
from tests.rules.test_publishing import serving

S = StreamName("s")


def test_R18_a_replica_knows_that_it_isbehind() -> None:
    """From the word of a commit, or of a head that it lacks, until it holds it; it can lead all the same."""
    cluster = behind()
    assert [cluster.core(name).is_behind for name in "abc"] == [False, False, True]
    assert cluster.core("c").can_lead
    cluster.live(0.3)
    assert not cluster.core("c").is_behind


def test_R18_what_was_wanted_for_an_old_epoch_is_not_wanted_in_a_new_one() -> None:
    """Its primary will say what is lacking; the old fetch holds no place."""
    cluster = behind()
    cluster.hear("c", "a", Claim(5, 1))
    cluster.do("sync c")
    assert cluster.effects("c", CancelFetch) == [CancelFetch(S)]
    assert cluster.state("c").fetching == {}
    assert not cluster.effects("c", Fetch)[0].urgent


def test_R15_a_commit_point_below_the_own_head_lacks_nothing() -> None:
    """It was superseded here already."""
    cluster = serving().do("submit a s 1", "settle", "submit a s 2").live(0.3)
    cluster.hear("c", "a", Heartbeat(1, 99, 0.3, None, 0, (CommitPoint("s", 1, Position(1, 1)),)))
    assert not cluster.core("c").is_behind


def test_R19_a_manifest_that_comes_twice_is_accepted_once() -> None:
    """The second comes while the store is still at the first."""
    cluster = serving()
    owner = cluster.owner("a")
    for _ in range(2):
        cluster.node("c").deliver(
            ManifestReceived(NodeId("a"), Incarnation(owner.incarnation), Epoch(1), manifest())
        )
    assert len(cluster.effects("c", Accept)) == 1


def test_R10_heads_that_were_not_reported_are_not_adopted() -> None:
    """A process that was restarted since says so, is asked for its promise again, adopts what it tells."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.3).forget()
    cluster.hear("c", "a", Adopt(1, bytes(32), 0, 1, ()))
    assert [refusal.reason for refusal in cluster.sent("c", Refusal)] == [Reason.UNKNOWN_HEADS]
    cluster.do("settle")
    assert [claim.epoch for claim in cluster.sent("a", Claim)] == [1]
    digest = digest_of([page_digest(tuple(cluster.state("c").heads.values()))])
    assert [adopted.digest for adopted in cluster.sent("c", Adopted)] == [digest]


def test_R10_an_adoption_in_pages_is_one_record() -> None:
    """Nothing before the last page, and nothing twice."""
    cluster = Cluster("a", "b", "c")
    cluster.hear("c", "a", Claim(1, 1))
    cluster.do("sync c").forget()
    digest = digest_of([page_digest(())])
    cluster.hear("c", "a", Adopt(1, digest, 0, 2, ("s",)))
    assert not cluster.effects("c", AdoptHeads)
    for _ in range(2):
        cluster.hear("c", "a", Adopt(1, digest, 1, 2, ("t",)))
    assert [adopt.exceptions for adopt in cluster.effects("c", AdoptHeads)] == [{"s", "t"}]


def test_R10_an_adoption_that_was_fenced_is_not_taken_for_a_later_one() -> None:
    """A newer promise overtakes it at the disk; what is told in the end is the newer one's."""
    cluster, digest = Cluster("a", "b", "c"), digest_of([page_digest(())])
    record = cluster.state("c").record
    assert record is not None
    cluster.hear("c", "a", Claim(1, 1))
    cluster.do("sync c")
    cluster.hear("c", "a", Members(1, record))  # the disk is at work on it
    cluster.hear("c", "a", Adopt(1, digest, 0, 1, ()))
    cluster.hear("c", "b", Claim(2, 1))
    cluster.do("sync c")
    cluster.hear("c", "b", Adopt(2, digest, 0, 1, ()))
    cluster.do("sync c")
    assert [adopted.epoch for adopted in cluster.sent("c", Adopted)] == [2]
    assert cluster.state("c").adopting == []


def test_R22_rot_is_fetched_once_at_a_time() -> None:
    """Its time comes again while the fetch is under way."""
    cluster = serving().do("submit a s 1").live(0.3).forget().do("rot c s", "advance 0.5")
    assert len(cluster.effects("c", Fetch)) == 1


def test_R22_a_newer_head_is_not_mended_by_the_old_ones_chunks() -> None:
    """What was rotten has been superseded by the time that its chunks are written again."""
    cluster = serving().do("submit a s 1").live(0.3)
    old = cluster.state("c").heads[S]
    newest = cluster.node("c").disk.image.newest(S)
    assert newest is not None
    cluster.do("rot c s", "submit a s 2", "publish a", "sync a b c")
    assert cluster.state("c").heads[S].sequence == 2
    head = cluster.state("c").heads[S]
    cluster.node("c").deliver(AcceptRefused(newest.manifest, Epoch(1), Why.STALE))
    assert old.digest not in cluster.core("c")._backup._rotten.values()
    assert cluster.state("c").heads[S] == head


def test_R18_a_backup_that_acknowledges_an_older_one_still_lacks_the_newest() -> None:
    """It is told of it until it says that it has it."""
    cluster = serving().do("cut a c", "submit a s 1").live(0.1).do("submit a s 2").live(0.1)
    follower = reign_of(cluster, "a").progress.followers[NodeId("c")]
    cluster.hear("a", "c", Ack(1, (Acked("s", 1, 1, bytes(32)),)))
    assert follower.acked == {S: 1}
    assert S in follower.lacking


def test_R15_a_newer_commit_point_is_told_although_an_older_one_has_arrived() -> None:
    """The answer to the heartbeat that carried the older one comes after the newer commit."""
    cluster = serving().do("submit a s 1", "settle", "advance 0.07", "deliver a->c", "submit a s 2")
    cluster.do("publish a", "sync a b", "deliver b->a")
    follower = reign_of(cluster, "a").progress.followers[NodeId("c")]
    assert follower.hints[S].position == Position(1, 2)
    cluster.do("deliver c->a")
    assert follower.hints[S].position == Position(1, 2)
    cluster.live(0.3)
    assert cluster.state("c").committed[S] == (1, 2)


def _only_a_holds(sequences: int) -> Cluster:
    """b recovers with a's and c's promises; the newest checkpoint was stored by a alone, and a is gone."""
    cluster = Cluster("a", "b", "c").with_primary("a").live(0.2)
    if sequences > 1:
        cluster.do("submit a s 1").live(0.3)
    cluster.do("cut a b", "cut a c", f"submit a s {sequences}", "publish a", "sync a").live(0.6)
    cluster.do("mend a b", "mend a c", "crash a", "start a").live(1.2).forget()
    cluster.do("grant b", *PROBED, "sync b")
    cluster.do("deliver *->* Claim", "sync a c", "deliver a->b Promised", "deliver c->b Promised")
    assert reign_of(cluster, "b").recovery.chosen[S].sequence == sequences
    return cluster


def test_R8_what_provably_never_committed_is_dropped() -> None:
    """All have been heard and one alone held it: the older one is served, or none if there is none."""
    for sequences, restored in ((2, [1]), (1, [])):
        cluster = _only_a_holds(sequences).do("crash a").live(4.0)
        (tenure,) = cluster.effects("b", StartTenure)
        assert [head.sequence for head in tenure.heads] == restored
        assert tenure.unavailable == ()


def test_R8_what_the_own_store_finds_incomplete_is_fetched_again() -> None:
    """A chunk went between the fetch and the acceptance."""
    cluster = _only_a_holds(2).do("fetch b")
    (accept,) = cluster.effects("b", Accept)
    cluster.node("b").deliver(AcceptRefused(accept.manifest, accept.epoch, Why.INCOMPLETE))
    assert reign_of(cluster, "b").recovery._lacking[S].failures == 1
    cluster.do("advance 0.25")
    assert len(cluster.effects("b", Fetch)) == 2


def test_R8_a_recovery_that_ends_lets_its_fetches_go() -> None:
    """The engine leaves while the chosen head is on its way."""
    cluster = _only_a_holds(2).do("engine b gone")
    assert cluster.effects("b", CancelFetch) == [CancelFetch(S)]
    assert cluster.core("b").role is Role.BACKUP


def test_R21_a_disk_that_is_full_in_a_recovery_ends_it() -> None:
    """Another may hold what finds no room here: leadership goes to it (T17)."""
    cluster = _only_a_holds(2).do("full b").forget().do("fetch b", "sync b").live(0.1)
    assert cluster.core("b").role is Role.BACKUP
    assert cluster.effects("b", Transfer)[0] == Transfer(NodeId("a"))
    assert not cluster.effects("b", EndTenure), "none had begun"
    assert not cluster.effects("b", StartTenure)


def test_R22_what_rots_during_the_recovery_is_held_again_before_it_is_served() -> None:
    """One fetch for it, the mending's; rot of what was not chosen changes nothing."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.3)
    cluster.do("crash a").live(0.6).forget()
    cluster.do("grant b", *PROBED, "sync b")
    cluster.do("deliver *->* Claim", "sync c", "deliver c->b Promised")
    recovery = reign_of(cluster, "b").recovery
    cluster.node("b").deliver(HeadRotten(StreamName("never"), Digest(bytes(32))))
    assert recovery.holds(S)
    cluster.do("rot b s", "advance 0.25")
    assert not recovery.holds(S)
    assert len(cluster.effects("b", Fetch)) == 1
    cluster.live(1.0)
    (tenure,) = cluster.effects("b", StartTenure)
    assert [(head.sequence, head.readable) for head in tenure.heads] == [(1, True)]


def test_R8_what_was_adopted_here_is_waited_for_when_it_rots() -> None:
    """Others may have adopted it in this epoch too: a late promise brings a source, and no other choice."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.3)
    cluster.do("cut a b", "crash a").live(0.6).do("rot c s").forget()
    cluster.do("grant b", *PROBED, "sync b")
    cluster.do("deliver *->* Claim", "sync c", "deliver c->b Promised", "cut b c", "rot b s")
    recovery = reign_of(cluster, "b").recovery
    for _ in range(20):
        cluster.do("advance 0.05", "fetch b")
    assert list(recovery.unavailable) == [S]
    cluster.do("start a", "mend a b", "mend b c")
    while not recovery.has_heard(cluster.state("a").id):
        cluster.do("advance 0.05", "deliver b->a Claim", "sync a", "deliver a->b Promised")
    assert reign_of(cluster, "b").recovery is recovery
    assert recovery.chosen[S].sequence == 1
    cluster.live(2.0)
    tenures = cluster.effects("b", StartTenure)
    assert {head.sequence for tenure in tenures for head in tenure.unavailable} <= {1}
    assert [(head.sequence, head.readable) for head in tenures[-1].heads] == [(1, True)]


def test_R22_what_rots_in_flight_is_published_again() -> None:
    """The engine still has it: no other copy is asked for by the primary's part."""
    cluster = serving().do("cut a b", "cut a c", "submit a s 1", "settle")
    cluster.do("rot a s", "mend a b", "mend a c").live(0.6)
    assert cluster.state("a").committed[S] == (1, 1)
    assert cluster.state("a").heads[S].readable


def test_R18_a_fetch_that_fails_leaves_its_place() -> None:
    """And one that ends when nobody waits for it any longer changes nothing."""
    cluster = behind()
    number = cluster.state("c").fetching[S].number
    cluster.node("c").deliver(FetchFailed(number, S))
    assert cluster.state("c").fetching == {}
    cluster.node("c").deliver(Fetched(number, S, manifest()))
    assert not cluster.effects("c", Accept)


def _withheld(older: bool) -> Cluster:
    """b serves without s, whose newest checkpoint a took with it, and of which b has an older one or none."""
    cluster = Cluster("a", "b", "c").with_primary("a")
    if older:
        cluster.do("submit a s 1").live(0.3)
    cluster.do("cut a b", "submit a s 2").live(0.2).do("crash a", "rot c s").live(0.6)
    return cluster.do("grant b").live(6.0).forget()


@pytest.mark.parametrize(("older", "restored"), [(True, (1, False)), (False, (3, True))])
def test_R8_something_takes_the_place_of_what_was_abandoned(older: bool, restored: tuple[int, bool]) -> None:
    """The older checkpoint, or a tombstone, in a tenure of its own: claimed once the own store has it,
    however long the fetch or the publication takes, and however often the operator asks meanwhile."""
    cluster = _withheld(older).do("abandon b s", "abandon b s")
    for _ in range(50):
        cluster.do("advance 0.01", "deliver", "sync")  # no fetch ends, and nothing is published
    assert not cluster.effects("b", StartTenure)
    told = cluster.effects("b", Abandoned)
    answers = {(each.head.sequence, each.instead and each.instead.sequence) for each in told}
    assert answers == {(2, 1 if older else None)}
    cluster.live(3.0)
    (tenure,) = cluster.effects("b", StartTenure)
    assert [(head.sequence, head.tombstone) for head in tenure.heads] == [restored]
    assert not tenure.unchanged
    assert tenure.unavailable == ()
    cluster.forget().do("submit b s 9").live(0.5)
    assert [commit.position.sequence for commit in cluster.effects("b", Commit)] == [9]


def test_R8_nothing_is_abandoned_while_a_newer_epoch_is_claimed() -> None:
    """It would be fenced, and forgotten with the old epoch: the operator is told to ask again."""
    cluster = _withheld(older=False)
    cluster.core("b")._primary.claim_above("for the test")
    cluster.do("advance 0.07", *PROBED, "abandon b s")
    (refused,) = cluster.effects("b", AbandonRefused)
    assert "ask again after that" in refused.reason
    assert not cluster.effects("b", Abandoned)
    cluster.live(3.0).do("abandon b s").live(3.0).forget().do("submit b s 9").live(0.5)
    assert [commit.position.sequence for commit in cluster.effects("b", Commit)] == [9]


def test_R21_room_is_used_for_what_found_none_alone() -> None:
    """What is stored waits for others, and what is not published yet comes by itself."""
    cluster = serving().do("full b", "full c").live(0.1).do("submit a s 1", "settle", "full a")
    cluster.do("submit a t 1", "settle", "submit a u 1").forget().do("room a")
    assert [accept.manifest.stream for accept in cluster.effects("a", Accept)] == ["t"]


def test_R11_a_store_that_fails_under_a_grant_gives_it_away() -> None:
    """No tenure has come of it yet: somebody else is to be named (T17)."""
    cluster = Cluster("a", "b", "c").do("cut a b", "cut a c", "grant a").forget()
    cluster.node("a").deliver(StoreFailed("no"))
    assert cluster.effects("a", Transfer) == [Transfer(None)]


def test_R11_what_is_in_flight_goes_out_again_in_the_newer_epoch() -> None:
    """Unless it is stored here already: that commits by its adoption. No ticket is lost."""
    cluster = serving().do("submit a t 1", "publish a", "sync a", "drop", "submit a s 1")
    cluster.core("a")._primary.claim_above("for the test")
    cluster.do("advance 0.07", *PROBED, "sync a").live(1.0)
    published = [(publish.stream, publish.epoch) for publish in cluster.effects("a", Publish)]
    assert published == [("t", 1), ("s", 1), ("s", 2)]
    commits = {commit.stream: commit.position for commit in cluster.effects("a", Commit)}
    assert commits == {"t": Position(1, 1), "s": Position(2, 1)}
    assert not cluster.effects("a", Abort)


def test_R22_a_mending_that_was_let_go_with_a_tenure_holds_nothing_up() -> None:
    """What was rotten at the old primary is superseded by the new one's checkpoint; the next is accepted as
    it comes, not kept back for a fetch that nobody runs any longer."""
    cluster = serving().do("submit a s 1").live(0.3)
    cluster.do("rot a s", "resign a").forget().do("grant b")
    for _ in range(8):
        cluster.do("deliver", "sync", "advance 0.01")
    assert cluster.core("b").role is Role.PRIMARY
    cluster.do("submit b s 2", "publish b", "sync a b c", "deliver")
    assert cluster.state("a").heads[S].sequence == 2
    for _ in range(30):
        cluster.do("advance 0.01", "deliver", "sync")
    assert not cluster.core("a").is_behind
    cluster.do("submit b s 3", "publish b", "sync a")
    assert cluster.state("a").heads[S].sequence == 3


def test_R12_rot_in_flight_is_claimed_above_once() -> None:
    """It was adopted over a bump by its primary alone, and its rot is found again while a newer epoch is
    claimed because of it."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1").live(0.3)
    cluster.do("cut a b", "cut a c", "submit a s 2", "publish a", "sync a", "mend a b", "crash c").forget()
    cluster.core("a")._primary.claim_above("for the test")
    for _ in range(9):
        cluster.do("advance 0.02", "deliver", "sync a b")
    cluster.do("rot a s")
    head = cluster.state("a").heads[S]
    for _ in range(200):
        cluster.do("advance 0.02", "settle")
        if reign_of(cluster, "a").serving:
            break
    cluster.forget()
    for _ in range(9):
        cluster.node("a").deliver(HeadRotten(S, Digest(head.digest)))
        cluster.live(0.1)
    claims = [notice.text for notice in cluster.effects("a", Notice) if "claiming above" in notice.text]
    assert claims == ["stream s has rotted since its adoption: claiming above it (R11)"]
