"""R6, R16: a claim behind a slow link takes as long as its pages do, and nothing feeds on itself."""

from __future__ import annotations

import heapq
import itertools

from replicator.core.claim import Phase
from replicator.core.effects import Send, StartTenure
from replicator.core.messages import Behind, Claim, Echo, Heartbeat, HeartbeatAnswer, Promised
from replicator.core.report import Pages
from replicator.model import Incarnation, MemberRecord, NodeId, Process
from replicator.profiles import PROFILES
from replicator.settings import Settings
from tests.rules.cluster import Cluster
from tests.rules.test_publishing import S, serving
from tests.rules.test_reports import claiming

B, PROCESS = (NodeId("b"), Incarnation(b"b" * 16)), Process(b"b/1".ljust(16, b"\0"))
RECORD, ECHO = MemberRecord(1, ()), Echo(PROCESS, 0.0)
PAGE_BYTES = 40_000  # of 128 streams with names of 255 characters
PAGE_COUNT = 60


class Link:
    """One that carries so many bytes per second, in order, and the pages that it carries."""

    def __init__(self, bytes_per_s: float, round_trip_s: float, least_s: float, timeout_s: float) -> None:
        self.page_s, self.half_trip_s = PAGE_BYTES / bytes_per_s, round_trip_s / 2
        self.least_s, self.timeout_s = least_s, timeout_s
        self.pages = Pages(self._ask, least_s)
        self.now = self.free_at = 0.0
        self.nonce = self.asked_count = 0
        self.queued_s = 0.0  # the longest that anything else would have had to wait
        self.queue: list[tuple[float, int, int, int]] = []
        self.order = itertools.count()

    def _ask(self, node: NodeId, page: int) -> None:
        self.asked_count += 1
        assert self.asked_count <= 2 * PAGE_COUNT, "it feeds on itself"
        self.free_at = max(self.free_at, self.now + self.half_trip_s) + self.page_s
        self.queued_s = max(self.queued_s, self.free_at - self.now)
        heapq.heappush(self.queue, (self.free_at + self.half_trip_s, next(self.order), self.nonce, page))

    def arrive(self) -> bool:
        """The next page comes; whether it was the last one that was lacking."""
        self.now, _, nonce, page = heapq.heappop(self.queue)
        if nonce != self.nonce:
            self.pages.overhear(B[0], self.now)
            return False
        promised = Promised(2, nonce, page, PAGE_COUNT, (), RECORD, 1, ECHO)
        return self.pages.add(B, PROCESS, promised, {}, self.now) is not None

    def claim(self) -> bool:
        """One claim, from its first question; whether it has come to its end, not to a silence."""
        self.nonce += 1
        self.pages.begin()
        heard_at, again_at = self.now, self.now
        while True:
            silent_at = heard_at + max(self.timeout_s, self.pages.patience_s)
            comes_at = self.queue[0][0] if self.queue else silent_at
            if comes_at <= min(again_at, silent_at):
                if self.arrive():
                    return True
                heard_at = self.now
            elif again_at < silent_at:
                self.now = again_at
                self.pages.ask_again(B[0], self.now)
            else:
                self.now = silent_at
                self.nonce += 1  # nothing that comes from now on is of use
                return False
            again_at = self.pages.again_at(B[0])

    def late(self, every_s: float) -> None:
        """A promise that comes after the claim is won: asked for with heartbeats."""
        for ask_at in itertools.count():
            while self.queue and self.queue[0][0] <= ask_at * every_s:
                if self.arrive():
                    return
            self.now = ask_at * every_s
            self.pages.ask_again(B[0], self.now)


def links() -> list[tuple[str, Link, float]]:
    """Slow and fast links, near and far, as the timers of each profile meet them; with what is told again."""
    made = []
    for profile, round_trips in (("default", (0.001, 0.1)), ("fast", (0.001,)), ("wan", (0.1, 0.3))):
        settings = Settings(**PROFILES[profile])  # type: ignore[arg-type]
        timers = settings.claim_retry_max_s, settings.claim_timeout_s
        for round_trip_s in round_trips:
            for bytes_per_s in (1e8, 1e6, 2.5e5, 1e5, 2e4):
                what = f"{profile}, {round_trip_s} s, {bytes_per_s:.0f} bytes/s"
                made.append((what, Link(bytes_per_s, round_trip_s, *timers), settings.behind_interval_s))
    return made


def test_R16_pages_are_not_asked_for_again_while_they_are_on_their_way() -> None:
    """Whatever the link, a late promise takes little longer than its bytes do, nearly every page is asked for
    once, and nothing else waits long behind pages."""
    for what, link, every_s in links():
        link.late(every_s)
        alone_s = PAGE_COUNT * link.page_s
        assert link.asked_count <= 1.25 * PAGE_COUNT, what
        assert link.now <= 1.35 * alone_s + 30 * link.half_trip_s, what
        assert link.queued_s <= max(1.5, 15 * link.page_s), what


def test_R11_a_claim_that_was_given_up_too_soon_teaches_the_next_one() -> None:
    """Slower than a claim's whole time for its first page: a few epochs are lost, then one waits for it."""
    for what, link, _ in links():
        claims = 1
        while not link.claim():
            claims += 1
            while link.queue:  # the answers to probes are behind what is on its way
                link.arrive()
            assert claims <= 4, what
        assert claims == 1 or link.page_s > link.timeout_s / 2, what
        assert link.asked_count <= 1.4 * PAGE_COUNT, what


def test_R11_what_comes_too_late_says_how_long_to_wait() -> None:
    """c's page comes after its claim: the next claim is not given up after as short a silence."""
    cluster = claiming().do("deliver b->c Claim", "sync c", "advance 0.55")
    claimant = cluster.core("b")._claimant
    assert claimant.phase.value != "claiming"
    cluster.do("deliver c->b Promised")
    while claimant.phase.value != "claiming":
        cluster.do("advance 0.05", "deliver * Probe", "deliver * ProbeAnswer", "sync b")
    cluster.do("advance 0.9")
    assert claimant.phase is Phase.CLAIMING
    cluster.live(0.3)
    assert {tenure.epoch for tenure in cluster.effects("b", StartTenure)} == {claimant.epoch}


def test_R18_a_member_that_comes_back_is_asked_at_once() -> None:
    """It was asked more and more seldom; its first answer to a heartbeat says that it hears again."""
    cluster = Cluster("a", "b", "c").do("crash c").with_primary("a").do("submit a s 1").live(3.0)
    asked = len([claim for claim in cluster.sent("a", Claim) if claim.page == 0])
    assert asked < 8
    cluster.do("start c").forget()
    while not cluster.sent("c", HeartbeatAnswer):
        cluster.do("advance 0.02", "drop a->c Claim", "deliver", "sync")
    assert not cluster.sent("c", Promised)
    cluster.forget().do("deliver c->a")
    assert cluster.sent("a", Claim)
    cluster.live(0.3)
    assert S in cluster.state("c").heads


def test_R19_a_page_that_comes_again_after_the_last_begins_nothing() -> None:
    """It was asked for twice, and the answer is whole."""
    cluster = claiming().do("deliver b->c Claim", "sync c")
    claim, record = cluster.sent("b", Claim)[-1], cluster.state("c").record
    assert record is not None
    for page in (0, 1, 1, 0):
        cluster.forget()
        told = Promised(claim.epoch, claim.nonce, page, 2, (), record, 1, Echo(PROCESS, 0.0))
        cluster.hear("b", "c", told)
    assert not cluster.sent("b", Claim)


def test_R15_R16_what_is_on_its_way_is_not_told_again() -> None:
    """What b lacks, and what is committed, is told to it once more when an answer shows that it was lost: not
    with each interval, in which nothing is heard."""
    cluster = serving().live(0.3).do("cut a b", "cut b c")
    cluster.do("submit a s 1").live(0.5).forget().do("mend a b")
    for count in (1, 2):
        cluster.do("drop a->b", "advance 0.06", "deliver a->b Heartbeat", "deliver b->a HeartbeatAnswer")
        for _ in range(20):  # four seconds, in which nothing of b is heard
            cluster.do("advance 0.2", "deliver a->c", "deliver c->a")
        assert [len(sent) for sent in told_to_b(cluster)] == [count, count]


def told_to_b(cluster: Cluster) -> tuple[list[Behind], list[Heartbeat]]:
    """The heads, and the heartbeats with commit points, in the order that they were sent in."""
    sent = [send.message for send in cluster.effects("a", Send) if send.to == "b"]
    beats = [message for message in sent if isinstance(message, Heartbeat) and message.commits]
    return [message for message in sent if isinstance(message, Behind)], beats
