"""One fetch: what a checkpoint still lacks here, whom to ask for it, and when to stop asking (R18).

Plain state without sockets, threads or clock: the repairer asks it for the next request, tells it what
came, and gives it the time. First the manifest, if it is not known, then the chunks, while the source's
credit lasts, from the first source that may have them. A source that says that it lacks something is
not asked for it again; one that stays silent is asked once more and then left alone. A source answers
all fetches in the order of their requests: while it answers older ones, it is not silent but busy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from msgspec import Struct

from replicator.codec.frames import CHUNKS_PER_REQUEST, REPLY_BYTES_MAX, REQUEST_BYTES_MAX
from replicator.core import effects
from replicator.model import Chunk, Digest, Manifest, NodeId, StreamName
from replicator.worker.patience import PATIENCE_S

ATTEMPTS_MAX = 2
UNREACHABLE_PAUSE_S = 0.02
URGENT_PATIENCE_S = 2.0  # a claim does not wait for longer while it can ask another source
CHUNK_COST_MIN = REQUEST_BYTES_MAX // CHUNKS_PER_REQUEST

Request = tuple[NodeId, list[Digest]]


class _Source(Struct):
    """What is known of one node that may have what is lacking."""

    lacks: set[Digest]
    asked: dict[Digest, tuple[float, Chunk | None]]  # when, and for what
    has_nothing: bool = False  # it lacks all that is wanted, and nothing else is wanted since
    no_credit: bool = False  # it would be asked, but has enough to do
    silent_since: float = 0.0  # it is waited for, and nothing shows since then that it is alive
    attempts: int = 0  # how often it was asked in vain since it was heard
    unreachable_since: float | None = None
    pause_until: float = 0.0  # it could not be reached: not asked again before


class Fetch:
    """The state of one stream's fetch."""

    def __init__(self, order: effects.Fetch) -> None:
        self.number = order.number
        self.stream = StreamName(order.stream)
        self.digest = Digest(order.digest)
        self.manifest: Manifest | None = None
        self.unchecked: deque[Chunk] = deque()  # present here, but to be read once (R22)
        self.is_urgent = order.urgent
        self.verifies = order.verify
        self._sources = {node: _Source(set(), {}) for node in order.sources}
        self._wanted: dict[Digest, Chunk | None] = {self.digest: None}  # the manifest itself has no chunk
        self._hopeless: set[Digest] = set()  # those of them that every source lacks
        self._patience_s = PATIENCE_S  # with any source: an answer holds a chunk at least, however large
        self._give_up(self._wanted)

    def begin(self, manifest: Manifest, missing: Iterable[Chunk], present: Iterable[Chunk]) -> None:
        """The manifest is known, and which of its chunks are missing: from now on it is about chunks."""
        self.manifest = manifest
        self.got(self.digest)
        self._wanted = {Digest(chunk.stored_digest): chunk for chunk in missing}
        largest = max((chunk.stored_bytes for part in manifest.parts for chunk in part.chunks), default=0)
        self._patience_s = min(PATIENCE_S * max(1, largest / REPLY_BYTES_MAX), URGENT_PATIENCE_S)
        self._give_up(self._wanted)
        if self.verifies:
            self.unchecked.extend(present)

    def take_unchecked(self, count: int) -> list[Chunk]:
        """The next chunks to be read, no more than *count*."""
        return [self.unchecked.popleft() for _ in range(min(count, len(self.unchecked)))]

    def want(self, chunk: Chunk) -> None:
        """A chunk turned out to be lacking."""
        self._wanted[Digest(chunk.stored_digest)] = chunk
        self._give_up([Digest(chunk.stored_digest)])

    @property
    def is_done(self) -> bool:
        """Whether everything is here and checked."""
        return self.manifest is not None and not (self._wanted or self._is_busy)

    @property
    def has_failed(self) -> bool:
        """Whether nobody is left who may have what is lacking."""
        return bool(self._hopeless) and not self._is_busy

    @property
    def is_unanswered(self) -> bool:
        """Whether every source was left for its silence: nobody has said that it lacks what is wanted."""
        return not self._sources

    def asked_bytes(self, node: NodeId) -> int:
        """How much of the source's credit this fetch has. A request is full by bytes or by chunks."""
        source = self._sources.get(node)
        return sum(_cost(chunk) for _, chunk in source.asked.values()) if source else 0

    def next_request(self, now: float, has_credit: Callable[[NodeId], bool]) -> Request | None:
        """Whom to ask for what; None if nobody can be asked now. Chunks need credit, a manifest does not."""
        for node, source in self._sources.items():
            if source.pause_until > now or source.has_nothing or not (batch := self._batch(source)):
                source.no_credit = False
            elif self.manifest is None or has_credit(node):
                return node, batch
            else:  # its turn will come: the others may be slower, or dead
                if not _is_waited_for(source):
                    source.silent_since = now
                source.no_credit = True
                break
        return None

    def rest(self) -> None:
        """Nothing more is asked for now: only those are waited for who have been asked."""
        for source in self._sources.values():
            source.no_credit = False

    def asked(self, node: NodeId, digests: Iterable[Digest], now: float) -> int:
        """The request has left; how many bytes it asks for."""
        source = self._sources[node]
        source.unreachable_since, source.no_credit = None, False
        if not source.asked:
            source.silent_since = now
        chunks = {digest: self._wanted.pop(digest) for digest in digests}
        source.asked.update((digest, (now, chunk)) for digest, chunk in chunks.items())
        return sum(map(_cost, chunks.values()))

    def unreachable(self, node: NodeId, now: float) -> None:
        """The request could not be sent: try others, and this one again a little later, for a while."""
        source = self._sources[node]
        source.pause_until = now + UNREACHABLE_PAUSE_S
        if source.unreachable_since is None:
            source.unreachable_since = now
        elif now - source.unreachable_since >= PATIENCE_S * ATTEMPTS_MAX:
            self._leave(node)

    def heard(self, node: NodeId, now: float) -> None:
        """The source has answered: it is alive, and the rest may come."""
        if (source := self._sources.get(node)) is not None:
            source.silent_since, source.attempts = now, 0

    def heard_by_any(self, node: NodeId, asked_at: float, now: float) -> None:
        """The source has answered what some fetch asked for then: the turn of what is younger will come.

        What is older would have been answered before: it is lost.
        """
        source = self._sources.get(node)
        if source is not None and all(asked_at <= at for at, _ in source.asked.values()):
            source.silent_since = now

    def needs(self, digest: Digest) -> Chunk | None:
        """The chunk of that digest, if it is still lacking."""
        asked = (source.asked[digest][1] for source in self._sources.values() if digest in source.asked)
        return next(asked, self._wanted.get(digest))

    def got(self, digest: Digest) -> None:
        """That chunk, or the manifest, is here now."""
        self._wanted.pop(digest, None)
        self._hopeless.discard(digest)
        for source in self._sources.values():
            source.asked.pop(digest, None)

    def lacks(self, node: NodeId, digest: Digest) -> bool:
        """The source has not what it was asked for, or gave something else; false if that is no news."""
        source = self._sources.get(node)
        if source is None or digest not in source.asked:
            return False
        _, self._wanted[digest] = source.asked.pop(digest)
        source.lacks.add(digest)
        self._give_up([digest])
        return True

    def expire(self, now: float, patience_of: Callable[[NodeId], float]) -> None:
        """Ask silent sources once more, then leave them alone."""
        for node, source in list(self._sources.items()):
            patience_s = max(patience_of(node), self._patience_s)
            if self.is_urgent and len(self._sources) > 1:
                patience_s = min(patience_s, URGENT_PATIENCE_S)
            if _is_waited_for(source) and now - source.silent_since >= patience_s:
                source.attempts += 1
                if source.attempts < ATTEMPTS_MAX:
                    self._take_back(source)
                else:
                    self._leave(node)

    @property
    def _is_busy(self) -> bool:
        return bool(self.unchecked) or any(source.asked for source in self._sources.values())

    def _leave(self, node: NodeId) -> None:
        """Ask the source for nothing any more."""
        self._take_back(self._sources.pop(node))
        self._give_up(self._wanted)

    def _give_up(self, digests: Iterable[Digest]) -> None:
        """Note which of *digests*, that are wanted, every source lacks, and who may have others. Done where
        that may have changed: to go over all that is lacking in each turn would take longer than the turn."""
        for digest in digests:
            able = [source for source in self._sources.values() if digest not in source.lacks]
            for source in able:
                source.has_nothing = False
            if not able:
                self._hopeless.add(digest)

    def _take_back(self, source: _Source) -> None:
        taken, source.asked, source.no_credit = source.asked, {}, False
        self._wanted.update((digest, chunk) for digest, (_, chunk) in taken.items())
        self._give_up(taken)

    def _batch(self, source: _Source) -> list[Digest]:
        batch: list[Digest] = []
        cost = 0
        for digest, chunk in self._wanted.items():
            if digest in source.lacks:
                continue
            cost += _cost(chunk)
            if batch and cost > REQUEST_BYTES_MAX:
                break
            batch.append(digest)
        source.has_nothing = not batch
        return batch


def _cost(chunk: Chunk | None) -> int:
    return max(chunk.stored_bytes, CHUNK_COST_MIN) if chunk else 0


def _is_waited_for(source: _Source) -> bool:
    return bool(source.asked) or source.no_credit
