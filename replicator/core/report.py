"""The report: what one replica tells with its promise, asked for page by page (R6, R10, R16).

A replica of many streams has megabytes of heads to tell. Elections and heartbeats travel on the same
channel, so that the claimant asks for a few pages at a time, and for the next as each comes: for more of them
as long as none has to wait for the others, which is soon behind a slow link. What is lacking is asked for
again when nothing has come for several times as long as pages take (`patience`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from msgspec import Struct, msgpack

from replicator.core.messages import Echo, Promised
from replicator.core.patience import Patience
from replicator.core.quorum import ReplicaId
from replicator.model import Head, MemberRecord, NodeId, Process, StreamName

# Of one replica's heads, pages under way at a time: what else is told queues behind them (R16).
PAGES_ASKED_FIRST = 2
PAGES_ASKED_MAX = 32  # as long as each comes soon
SOON = 1.5  # times as late as the quickest


def page_digest(heads: tuple[Head, ...]) -> bytes:
    """The digest of one page of reported heads: 32 bytes, BLAKE2b."""
    return hashlib.blake2b(msgpack.encode(heads), digest_size=32).digest()


def digest_of(page_digests: Iterable[bytes]) -> bytes:
    """One digest over a whole report, from those of its pages in their order (R10). 32 bytes, BLAKE2b."""
    return hashlib.blake2b(b"".join(page_digests), digest_size=32).digest()


class Report(Struct, frozen=True):
    """What one replica told with its promise.

    *differs* are the streams of which it reports another checkpoint than this replica's own head, or one
    that it cannot read; *lacks* are the streams that only this replica has. All others need no second look.
    """

    replica: ReplicaId
    process: Process
    heads: dict[StreamName, Head]
    differs: set[StreamName]
    lacks: set[StreamName]
    digest: bytes
    record: MemberRecord
    record_epoch: int
    echo: Echo


class _Answer(Struct):
    """A promise of which pages are still to come."""

    key: tuple[int, int, int, ReplicaId, Process] | None = None  # once the first page has come
    page_count: int = 1
    asked: dict[int, float | None] = {}  # pages under way, and since when; None if they were asked for before
    asked_max: int = PAGES_ASKED_FIRST  # as many at a time
    quickest_s: float = 0.0  # from the question to the page
    next: int = 0  # the first page that is not asked for
    digests: dict[int, bytes] = {}  # by page
    heads: dict[StreamName, Head] = {}
    differs: set[StreamName] = set()

    def add(self, page: Promised, own: dict[StreamName, Head]) -> None:
        """Take a page, if it is a new one."""
        if page.page in self.digests:
            return
        heads = {StreamName(head.stream): head for head in page.heads}
        self.digests[page.page] = page_digest(page.heads)
        self.heads.update(heads)
        self.differs |= {s for s, h in heads.items() if not h.readable or not h.same_as(own.get(s))}

    def came(self, page: int, now: float, soon_s: float) -> float | None:
        """A page is under way no longer; when it was asked for, if that can be told.

        More at a time if it has come soon, within *soon_s* or not much later than the quickest; less if it
        had to wait for the others on its way.
        """
        asked_at = self.asked.pop(page, None)
        if asked_at is not None:
            took_s = now - asked_at
            is_soon = took_s <= max(soon_s, SOON * self.quickest_s)
            self.quickest_s = min(took_s, self.quickest_s or took_s)
            self.asked_max = min(max(self.asked_max + (1 if is_soon else -1), 1), PAGES_ASKED_MAX)
        return asked_at

    def ask(self, now: float | None) -> list[int]:
        """The pages to be asked for now, so that as many as may are under way."""
        begun = []
        while self.next < self.page_count and len(self.asked) < self.asked_max:
            if self.next not in self.digests:
                self.asked[self.next] = now
                begun.append(self.next)
            self.next += 1
        return begun

    def ask_again(self) -> list[int]:
        """The same after a silence: nothing of what was asked for is on its way any longer."""
        self.asked.clear()
        self.next, self.asked_max = 0, min(self.asked_max, PAGES_ASKED_FIRST)
        return self.ask(None)


class Pages:
    """Puts the pages of promises together, each compared with the *own* heads as it comes, so that no
    number of streams takes long at once; one unfinished answer per node.

    *ask(node, page)* asks for a page. A few are under way at a time, and as each comes the next is asked for.
    A page is waited for *least_s* at the least before it is asked for again.
    """

    def __init__(self, ask: Callable[[NodeId, int], None], least_s: float) -> None:
        self._ask = ask
        self._least_s = least_s
        self._answers: dict[NodeId, _Answer] = {}
        self._told: dict[NodeId, object] = {}  # whole answers' keys
        self._patience: dict[NodeId, Patience] = {}

    def begin(self) -> None:
        """Another claim: what has come of answers is of no use for it, but for how long that took."""
        self._answers.clear()
        self._told.clear()
        for patience in self._patience.values():
            patience.rest()

    @property
    def patience_s(self) -> float:
        """For how long everybody may be silent."""
        return max((patience.span_s for patience in self._patience.values()), default=self._least_s)

    def again_at(self, node: NodeId) -> float:
        """The instant before which nothing is asked for again."""
        return self._with(node).again_at

    def _with(self, node: NodeId) -> Patience:
        return self._patience.setdefault(node, Patience(self._least_s))

    def ask_again(self, node: NodeId, now: float) -> None:
        """Ask the node for its first page, or for what is lacking, unless that may be on its way."""
        if now < self.again_at(node):
            return
        answer = self._answers.setdefault(node, _Answer())
        for page in answer.ask(now) or answer.ask_again():
            self._ask(node, page)
        self._told.pop(node, None)
        self._with(node).asked(now)

    def hurry(self, node: NodeId) -> None:
        """The node is heard again, and has told nothing: what it was asked for has not come to it."""
        answer = self._answers.get(node)
        if answer is not None and answer.key is None:
            self.forget(node)

    def forget(self, node: NodeId) -> None:
        """Drop the node's unfinished answer, and what is known of the node."""
        for each in (self._answers, self._told, self._patience):
            each.pop(node, None)

    def overhear(self, node: NodeId, now: float) -> None:
        """A page has come too late to be of use; but so late may others come."""
        if node in self._answers:
            self._with(node).came(now, None)

    def add(
        self, replica: ReplicaId, process: Process, page: Promised, own: dict[StreamName, Head], now: float
    ) -> Report | None:
        """The whole report, when *page* was the last one that was lacking."""
        # Another process of the node may tell its heads in another order: their pages are no one answer.
        key, node = (page.epoch, page.nonce, page.page_count, replica, process), replica[0]
        if page.page >= page.page_count or self._told.get(node) == key:
            return None
        answer = self._answers.setdefault(node, _Answer())
        if answer.key not in (None, key):
            answer = self._answers[node] = _Answer()
        answer.key, answer.page_count = key, page.page_count
        self._with(node).came(now, answer.came(page.page, now, self._least_s / 2))
        answer.add(page, own)
        for index in answer.ask(now):
            self._ask(node, index)
        if len(answer.digests) < page.page_count:
            return None
        del self._answers[node]
        self._told[node] = key
        self._with(node).rest()
        lacks = {stream for stream in own if stream not in answer.heads}
        digest = digest_of(answer.digests[index] for index in range(page.page_count))
        what = (page.record, page.record_epoch, page.echo)
        return Report(replica, process, answer.heads, answer.differs, lacks, digest, *what)
