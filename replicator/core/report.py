"""The report: what one replica tells with its promise, asked for page by page (R6, R10, R16).

A replica of many streams has megabytes of heads to tell. Elections and heartbeats travel on the same
channel, so that the claimant asks for a few pages at a time, and for the next as each comes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable

from msgspec import Struct, msgpack

from replicator.core.messages import Echo, Promised
from replicator.core.quorum import ReplicaId
from replicator.model import Head, MemberRecord, NodeId, Process, StreamName

PAGES_ASKED_MAX = 2  # of one replica's heads at a time: what else is told queues behind them (R16)


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

    key: tuple[int, int, int, ReplicaId, Process]
    moved_at: float = -math.inf  # when the last new page came
    asked: set[int] = set()  # pages under way
    next: int = 0  # the first page that was never asked for
    digests: dict[int, bytes] = {}  # by page
    heads: dict[StreamName, Head] = {}
    differs: set[StreamName] = set()

    def add(self, page: Promised, own: dict[StreamName, Head]) -> bool:
        """Take a page; whether it is new."""
        if page.page in self.digests:
            return False
        heads = {StreamName(head.stream): head for head in page.heads}
        self.asked.discard(page.page)
        self.digests[page.page] = page_digest(page.heads)
        self.heads.update(heads)
        self.differs |= {s for s, h in heads.items() if not h.readable or not h.same_as(own.get(s))}
        return True

    def ask(self, page_count: int) -> list[int]:
        """The pages to be asked for now, so that as many as may are under way."""
        begun = []
        while self.next < page_count and len(self.asked) < PAGES_ASKED_MAX:
            if self.next not in self.digests:
                self.asked.add(self.next)
                begun.append(self.next)
            self.next += 1
        return begun


class Pages:
    """Puts the pages of promises together, each compared with the *own* heads as it comes, so that no
    number of streams takes long at once; one unfinished answer per node.

    *ask(node, page)* asks for a page. A few are under way at a time, and as each comes the next is asked for.
    """

    def __init__(self, ask: Callable[[NodeId, int], None]) -> None:
        self._ask = ask
        self._answers: dict[NodeId, _Answer] = {}
        self.moved_at = -math.inf  # when anybody's last new page came

    def ask_again(self, node: NodeId, since: float) -> None:
        """Ask the node for its first page, or, if no new one has come since then, for what is lacking."""
        answer = self._answers.get(node)
        if answer is None:
            self._ask(node, 0)
        elif answer.moved_at < since:
            for page in sorted(answer.asked):
                self._ask(node, page)

    def forget(self, node: NodeId) -> None:
        """Drop the node's unfinished answer."""
        self._answers.pop(node, None)

    def add(
        self, replica: ReplicaId, process: Process, page: Promised, own: dict[StreamName, Head], now: float
    ) -> Report | None:
        """The whole report, when *page* was the last one that was lacking."""
        # Another process of the node may tell its heads in another order: their pages are no one answer.
        key, node = (page.epoch, page.nonce, page.page_count, replica, process), replica[0]
        if page.page >= page.page_count:
            return None
        answer = self._answers.get(node)
        if answer is None or answer.key != key:
            answer = self._answers[node] = _Answer(key)
        if answer.add(page, own):
            self.moved_at = answer.moved_at = now
        for index in answer.ask(page.page_count):
            self._ask(node, index)
        if len(answer.digests) < page.page_count:
            return None
        del self._answers[node]
        lacks = {stream for stream in own if stream not in answer.heads}
        digest = digest_of(answer.digests[index] for index in range(page.page_count))
        what = (page.record, page.record_epoch, page.echo)
        return Report(replica, process, answer.heads, answer.differs, lacks, digest, *what)
