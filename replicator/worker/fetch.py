"""One fetch: what a checkpoint still lacks here, whom to ask for it, and when to stop asking (R18).

Plain state without sockets, threads or clock: the repairer asks it for the next request, tells it what
came, and gives it the time. First the manifest, if it is not known, then the chunks, a bounded number of
bytes at a time, from the first source that may have them. A source that says that it lacks something is
not asked for it again; one that stays silent is asked once more and then left alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from msgspec import Struct

from replicator.codec.frames import CHUNKS_PER_REQUEST, REQUEST_BYTES_MAX
from replicator.model import Chunk, Digest, Manifest, NodeId, StreamName

PATIENCE_S = 0.5
ATTEMPTS_MAX = 2
UNREACHABLE_PAUSE_S = 0.02


class _Source(Struct):
    """What is known of one node that may have what is lacking."""

    lacks: set[Digest]
    silent_since: float = 0.0  # it has been asked, and not been heard since then
    attempts: int = 0  # how often it was asked in vain since it was heard
    unreachable_since: float | None = None
    pause_until: float = 0.0  # it could not be reached: not asked again before


class Fetch:
    """The state of one stream's fetch. *number* names it in requests and answers."""

    def __init__(
        self,
        number: int,
        stream: StreamName,
        digest: Digest,
        sources: Iterable[NodeId],
        verify: bool,
        credit_bytes: int,
    ) -> None:
        self.number = number
        self.stream = stream
        self.digest = digest
        self.manifest: Manifest | None = None
        self.unchecked: deque[Chunk] = deque()  # present here, but to be read once (R22)
        self._verify = verify
        self._credit_bytes = credit_bytes
        self._sources = {node: _Source(set()) for node in sources}
        self._wanted: dict[Digest, Chunk | None] = {digest: None}  # the manifest itself has no chunk
        self._asked: dict[Digest, tuple[NodeId, Chunk | None]] = {}

    def begin(self, manifest: Manifest, missing: Iterable[Chunk], present: Iterable[Chunk]) -> None:
        """The manifest is known, and which of its chunks are missing: from now on it is about chunks."""
        self.manifest = manifest
        self._asked.clear()
        self._wanted = {Digest(chunk.stored_digest): chunk for chunk in missing}
        if self._verify:
            self.unchecked.extend(present)

    def take_unchecked(self, count: int) -> list[Chunk]:
        """The next chunks to be read, no more than *count*."""
        return [self.unchecked.popleft() for _ in range(min(count, len(self.unchecked)))]

    def want(self, chunk: Chunk) -> None:
        """A chunk turned out to be lacking."""
        self._wanted[Digest(chunk.stored_digest)] = chunk

    @property
    def is_done(self) -> bool:
        """Whether everything is here and checked."""
        return self.manifest is not None and not (self._wanted or self._asked or self.unchecked)

    @property
    def has_failed(self) -> bool:
        """Whether nobody is left who may have what is lacking."""
        if self._asked or self.unchecked or not self._wanted:
            return False
        return any(
            all(digest in source.lacks for source in self._sources.values()) for digest in self._wanted
        )

    def next_request(self, now: float) -> tuple[NodeId, list[Digest]] | None:
        """Whom to ask for what; None while the credit is used up or nobody can be asked."""
        asked_bytes = sum(_size(chunk) for _, chunk in self._asked.values())
        if self._asked and asked_bytes + REQUEST_BYTES_MAX > self._credit_bytes:
            return None
        for node, source in self._sources.items():
            if source.pause_until <= now and (batch := self._batch(source)):
                return node, batch
        return None

    def asked(self, node: NodeId, digests: Iterable[Digest], now: float) -> None:
        """The request has left."""
        source = self._sources[node]
        source.unreachable_since = None
        if not self._is_waited_for(node):
            source.silent_since = now
        for digest in digests:
            self._asked[digest] = (node, self._wanted.pop(digest))

    def unreachable(self, node: NodeId, now: float) -> None:
        """The request could not be sent: try others, and this one again a little later, for a while."""
        source = self._sources[node]
        source.pause_until = now + UNREACHABLE_PAUSE_S
        if source.unreachable_since is None:
            source.unreachable_since = now
        elif now - source.unreachable_since >= PATIENCE_S * ATTEMPTS_MAX:
            self._leave(node)

    def heard(self, node: NodeId, now: float) -> None:
        """The source has answered: it is alive, and what else it was asked for may come."""
        if (source := self._sources.get(node)) is not None:
            source.silent_since, source.attempts = now, 0

    def needs(self, digest: Digest) -> Chunk | None:
        """The chunk of that digest, if it is still lacking."""
        if digest in self._asked:
            return self._asked[digest][1]
        return self._wanted.get(digest)

    def got(self, digest: Digest) -> None:
        """That chunk is here now."""
        self._asked.pop(digest, None)
        self._wanted.pop(digest, None)

    def lacks(self, node: NodeId, digest: Digest) -> bool:
        """The source has not what it was asked for, or gave something else; false if that is no news."""
        asked = self._asked.get(digest)
        if asked is None or asked[0] != node:
            return False
        self._sources[node].lacks.add(digest)
        self._wanted[digest] = self._asked.pop(digest)[1]
        return True

    def expire(self, now: float) -> None:
        """Ask silent sources once more, then leave them alone."""
        for node, source in list(self._sources.items()):
            if self._is_waited_for(node) and now - source.silent_since >= PATIENCE_S:
                source.attempts += 1
                if source.attempts < ATTEMPTS_MAX:
                    self._take_back(node)
                else:
                    self._leave(node)

    def _is_waited_for(self, node: NodeId) -> bool:
        return any(asked == node for asked, _ in self._asked.values())

    def _leave(self, node: NodeId) -> None:
        self._take_back(node)
        del self._sources[node]

    def _take_back(self, node: NodeId) -> None:
        for digest in [digest for digest, (asked, _) in self._asked.items() if asked == node]:
            self._wanted[digest] = self._asked.pop(digest)[1]

    def _batch(self, source: _Source) -> list[Digest]:
        batch: list[Digest] = []
        size = 0
        for digest, chunk in self._wanted.items():
            if digest in source.lacks:
                continue
            size += _size(chunk)
            if batch and (size > REQUEST_BYTES_MAX or len(batch) == CHUNKS_PER_REQUEST):
                break
            batch.append(digest)
        return batch


def _size(chunk: Chunk | None) -> int:
    return chunk.stored_bytes if chunk else 0
