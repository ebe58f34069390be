"""How a replica's heads are asked for: page by page, a few under way at a time (R6, R10, R16)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from replicator.core import promise
from replicator.core.claim import Phase
from replicator.core.effects import Send, StartTenure
from replicator.core.messages import Adopt, Adopted, Claim, HeartbeatAnswer, Promised
from replicator.model import NodeId, StreamName
from tests.rules.cluster import Cluster

PAGES = 6


@contextmanager
def a_head_a_page() -> Iterator[None]:
    """As many pages as streams."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(promise, "HEADS_PER_PAGE", 1)
        yield


def claiming() -> Cluster:
    """a has gone, and b claims after it: its claim is on the way to c."""
    cluster = Cluster("a", "b", "c").with_primary("a")
    for index in range(PAGES):
        cluster.do(f"submit a s{index} 1")
    cluster.live(0.3).do("crash a").live(0.6).forget()
    return cluster.do("grant b", "deliver b->c Probe", "deliver c->b ProbeAnswer", "sync b")


def asked(cluster: Cluster, of: str) -> list[int]:
    """The pages that b has asked that node for, in order."""
    sends = [send for send in cluster.effects("b", Send) if send.to == NodeId(of)]
    return [send.message.page for send in sends if isinstance(send.message, Claim)]


def told(cluster: Cluster, name: str) -> list[tuple[int, str]]:
    """The pages that *name* has told, and the stream that is on each."""
    return [(page.page, page.heads[0].stream) for page in cluster.sent(name, Promised)]


def test_R16_few_pages_are_under_way_at_a_time() -> None:
    """The first says how many there are; then as each comes the next is asked for, up to the last: one more
    at a time for each that comes soon."""
    with a_head_a_page():
        cluster = claiming().do("deliver b->c Claim", "sync c")
        for pages in (1, 4, PAGES):
            assert asked(cluster, "c") == [page for page, _ in told(cluster, "c")] == list(range(pages))
            cluster.do("deliver c->b Promised", "deliver b->c Claim")
        cluster.live(0.2)
    assert len(cluster.effects("b", StartTenure)[0].heads) == PAGES


def test_R6_a_page_that_is_lost_is_asked_for_again() -> None:
    """From the first that is lacking, once nothing has come for a while; the others are not repeated."""
    with a_head_a_page():
        cluster = claiming().do("deliver b->c Claim", "sync c", "deliver c->b Promised")
        cluster.do("deliver b->c Claim", "drop c->b Promised").do("advance 0.15")
        assert asked(cluster, "c") == [0, 1, 2, 3]
        cluster.do("advance 0.2")
        assert asked(cluster, "c") == [0, 1, 2, 3, 1, 2]
        cluster.live(0.3)
    assert sorted(asked(cluster, "c")) == sorted([*range(PAGES), 1, 2, 3])
    assert cluster.effects("b", StartTenure)


def test_R10_all_pages_are_of_one_instant() -> None:
    """What is accepted between two pages does not move heads from one page to another, and the bulk
    adoption refers to what was told; after it the heads are looked at anew."""
    with a_head_a_page():
        cluster = claiming().do("deliver b->c Claim", "sync c", "deliver c->b Promised")
        heads = cluster.state("c").heads
        heads[StreamName("s0")] = heads.pop(StreamName("s0"))
        cluster.live(0.2)
        assert told(cluster, "c") == [(page, f"s{page}") for page in range(PAGES)]
        assert cluster.sent("c", Adopted)
        (claim, *_) = cluster.sent("b", Claim)
        cluster.forget().hear("c", "b", claim)
        assert told(cluster, "c") == [(0, "s1")]


def test_R6_a_page_beyond_the_last_is_answered_with_the_first() -> None:
    """The claimant learns how many there are now: the promiser was started again with fewer."""
    cluster = claiming().do("deliver b->c Claim", "sync c")
    (claim,) = cluster.sent("b", Claim)[-1:]
    cluster.hear("c", "b", Claim(claim.epoch, claim.nonce, page=3))
    assert [(page.page, page.page_count) for page in cluster.sent("c", Promised)] == [(0, 1), (0, 1)]


def test_R6_pages_of_another_process_are_another_answer() -> None:
    """c is started again in the middle of its answer: all is asked for anew, in the same epoch."""
    with a_head_a_page():
        cluster = claiming().do("deliver b->c Claim", "sync c", "deliver c->b Promised")
        cluster.do("deliver b->c Claim", "deliver c->b Promised", "drop", "crash c", "start c").live(0.6)
    (tenure,) = cluster.effects("b", StartTenure)
    assert {claim.epoch for claim in cluster.sent("b", Claim)} == {tenure.epoch}
    assert asked(cluster, "c").count(0) == 2


def test_R16_a_late_answer_is_asked_for_page_by_page_too() -> None:
    """a comes back into an epoch that is won: it adopts what it holds as the others do."""
    with a_head_a_page():
        cluster = claiming().live(0.3).do("start a").live(2.0)
    assert list(dict.fromkeys(asked(cluster, "a"))) == list(range(PAGES))
    assert len(cluster.sent("b", Adopt)) >= 2
    assert cluster.sent("a", Adopted)


def _telling() -> Cluster:
    """b reigns, and a, which has just come back, has told it the first of its pages."""
    cluster = claiming().live(0.3).do("start a")
    while not cluster.sent("a", Promised):
        cluster.do("advance 0.05", "deliver b->a Claim", "sync a")
    return cluster.do("deliver a->b Promised")


def test_R11_an_answer_in_pages_goes_on_while_a_higher_epoch_is_probed_for() -> None:
    """Nothing is promised above the reign's yet; what has come of the answer stays."""
    with a_head_a_page():
        cluster = _telling()
        cluster.core("b")._primary.claim_above("for the test")
        for _ in range(PAGES):
            cluster.do("deliver b->a Claim", "deliver a->b Promised")
    assert cluster.core("b")._claimant.phase is Phase.PROBING
    assert told(cluster, "a") == [(page, f"s{page}") for page in range(PAGES)]
    assert cluster.sent("b", Adopt)


def test_R16_an_answer_in_pages_is_not_begun_again_when_its_replica_is_heard() -> None:
    """Its first heartbeat answer comes between two pages."""
    with a_head_a_page():
        cluster = _telling().forget()
        echo = cluster.core("a")._lender.echo(0.0)
        cluster.hear("b", "a", HeartbeatAnswer(2, 1, False, echo, False, False))
    assert not cluster.sent("b", Claim)


def test_R27_a_late_answer_of_who_is_no_member_any_longer_is_dropped() -> None:
    """It was removed between two of its pages."""
    with a_head_a_page():
        cluster = _telling()
        reign = cluster.core("b")._primary.reign
        assert reign is not None
        del reign.progress.followers[NodeId("a")]
        for _ in range(PAGES):
            cluster.do("deliver b->a Claim", "deliver a->b Promised")
    assert len(told(cluster, "a")) == PAGES
    assert not reign.recovery.has_heard(cluster.state("a").id)


def test_R11_an_answer_in_pages_ends_with_the_reign() -> None:
    """Nothing more is asked for in an epoch that its owner has given up."""
    with a_head_a_page():
        cluster = _telling().do("resign b").forget()
        cluster.do("deliver b->a Claim", "deliver a->b Promised")
    assert cluster.sent("a", Promised)
    assert not cluster.sent("b", Claim)
