"""What idle streams cost a takeover: a comparison each, and nothing of what else happens (R10)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType

from msgspec import structs

import replicator
from replicator.core.claim import Phase
from replicator.core.effects import AdoptHeads, Effect, Send, StartTenure
from replicator.core.messages import Adopted, Claim, Echo, Promised
from replicator.model import NodeId, StreamName
from tests.rules.cluster import Cluster

PACKAGE = str(Path(replicator.__file__).parent)


@contextmanager
def counting_calls() -> Iterator[dict[CodeType, int]]:
    """How often the package calls each of its own functions, and resumes each of its generators."""
    calls: dict[CodeType, int] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        files = [each.f_code.co_filename for each in (frame, frame.f_back) if each is not None]
        if event == "call" and all(file.startswith(PACKAGE) for file in files):
            calls[frame.f_code] = calls.get(frame.f_code, 0) + 1

    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def calls_of_takeover(streams: int) -> dict[CodeType, int]:
    """What two of three nodes call while one of them takes over that many idle streams."""
    cluster = Cluster("a", "b", "c").with_primary("a")
    for index in range(streams):
        cluster.do(f"submit a s{index} 1")
    cluster.live(0.5).do("crash a").live(0.6).forget()
    with counting_calls() as calls:
        cluster.do("grant b", "settle", "advance 0.05", "settle")
    assert len(cluster.effects("b", StartTenure)[0].heads) == streams
    return calls


def test_R10_a_takeover_costs_a_comparison_for_each_idle_stream() -> None:
    """No function is called more often for more streams, but for the one that compares heads."""
    few, many = calls_of_takeover(10), calls_of_takeover(110)
    more = {code.co_name: many[code] - few.get(code, 0) for code in many if many[code] > few.get(code, 0)}
    assert more == {"same_as": 100}


def page_of(cluster: Cluster, claim: Claim, page: int, *streams: str, pages: int = 2) -> Promised:
    """One of two pages with which c answers, with heads of c's of these streams."""
    record, heads = cluster.state("c").record, cluster.state("c").heads
    assert record is not None
    echo = Echo(cluster.owner("c").process, 0.0)
    told = tuple(heads[StreamName(stream)] for stream in streams)
    return Promised(claim.epoch, claim.nonce, page, pages, told, record, 1, echo)


def taken_over() -> tuple[Cluster, Claim]:
    """b has taken over from a; and its claim."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1", "submit a t 1")
    cluster.live(0.3).do("crash a").live(0.6).forget()
    cluster.do("grant b").live(0.5)
    return cluster, cluster.sent("b", Claim)[0]


def test_R6_a_claim_is_not_repeated_while_its_answer_is_coming() -> None:
    """A page is not asked for again as long as others come, and is once they stop."""
    cluster, claim = taken_over()
    cluster.hear("b", "c", page_of(cluster, claim, 0, "s"))
    asked: list[list[Effect]] = []
    for _ in range(2):
        cluster.core("b")._claimant.claim_again(NodeId("c"))
        asked.append(list(cluster.state("b").effects))
        cluster.state("b").now += cluster.state("b").config.claim_retry_max_s + 0.01
    again = structs.replace(claim, record_epoch=2, page=1)  # the member record is adopted by now
    assert asked == [[], [Send(NodeId("c"), again)]]


def test_R6_a_page_that_comes_twice_is_taken_once() -> None:
    """It completes nothing; the report is that of all pages."""
    cluster, claim = taken_over()
    reign = cluster.core("b")._primary.reign
    assert reign is not None
    follower = reign.progress.followers[NodeId("c")]
    before = follower.report
    for _ in range(2):
        cluster.hear("b", "c", page_of(cluster, claim, 0, "s"))
    assert follower.report is before
    cluster.hear("b", "c", page_of(cluster, claim, 1, "t"))
    assert follower.report is not None
    assert follower.report is not before
    assert (follower.report.heads, follower.report.differs) == (cluster.state("c").heads, set())


def test_R9_what_others_have_adopted_is_not_served_before_the_own_adoption() -> None:
    """The primary's disk is slower than the backup's: its own part of the majority is still lacking (T8)."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1")
    cluster.live(0.3).do("crash a").live(0.6).forget()
    cluster.do("grant b", "deliver", "deliver", "sync b", "deliver", "sync c", "deliver")
    assert cluster.effects("b", AdoptHeads)
    cluster.do("deliver", "sync c", "deliver", "deliver")
    assert cluster.sent("c", Adopted)
    assert not cluster.effects("b", StartTenure)
    cluster.do("settle")
    assert cluster.effects("b", StartTenure)


def test_R5_a_claim_is_given_up_for_silence_not_for_length() -> None:
    """Pages that come slower than all of them may take keep it alive; when they stop, it ends, after several
    times as long as they took."""
    cluster = Cluster("a", "b", "c").with_primary("a").do("submit a s 1", "submit a t 1")
    cluster.live(0.3).do("crash a").live(0.6).forget().do("grant b")
    cluster.do("deliver b->c Probe", "deliver c->b ProbeAnswer", "sync b")
    claim = cluster.sent("b", Claim)[0]
    for page in range(6):
        cluster.hear("b", "c", page_of(cluster, claim, page, "s", pages=20))
        cluster.do("advance 0.4")
        assert cluster.core("b")._claimant.phase is Phase.CLAIMING
    cluster.do("advance 1.1")
    assert cluster.core("b")._claimant.phase is Phase.CLAIMING
    cluster.do("advance 0.2")
    assert cluster.core("b")._claimant.phase is not Phase.CLAIMING
