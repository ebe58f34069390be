"""The answers to peers who want manifests and chunks, in turn and as fast as each of them takes them.

Requests wait in a bounded queue for each peer; nothing is read from disk before it can be sent, so what
is served takes no memory. Every chunk is verified when it is read (R22): a rotten one counts as absent,
and is discarded so that a good one can take its place.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator

from replicator.adapters.ports import Store
from replicator.adapters.zeromq import RepairSockets
from replicator.codec.frames import (
    REPLY_BYTES_MAX,
    HaveChunks,
    HaveManifest,
    Repair,
    RepairMessage,
    WantChunks,
    WantManifest,
    encode_repair,
)
from replicator.core.messages import PROTOCOL_VERSION
from replicator.model import Digest, Incarnation, NodeId, StreamName
from replicator.settings import Settings

REQUESTS_PER_PEER_MAX = 256

_Request = tuple[int, WantManifest | WantChunks]


class Serving:
    """Requests that wait, by peer. Belongs to the repairer's thread."""

    def __init__(
        self,
        settings: Settings,
        incarnation: Incarnation,
        store: Store,
        sockets: RepairSockets,
        counters: Counter[str],
    ) -> None:
        self._settings = settings
        self._incarnation = incarnation
        self._store = store
        self._sockets = sockets
        self._counters = counters
        self._waiting: dict[NodeId, deque[_Request]] = {}

    @property
    def peers(self) -> list[NodeId]:
        """Those with requests that wait."""
        return list(self._waiting)

    def add(self, node: NodeId, job: int, message: WantManifest | WantChunks) -> bool:
        """Queue a request; false if too many of that peer wait, who will ask again. What it asks for anew it
        gets once: while nothing reached it, it has asked again and again, and several of its fetches may want
        the same chunk."""
        waiting = self._waiting.get(node, ())
        rest = deque(_without(message, waiting))
        if len(rest) >= REQUESTS_PER_PEER_MAX:
            return False
        rest.append((job, message))
        self._waiting[node] = rest
        return True

    def serve(self) -> None:
        """Send one answer to every peer that has requests and takes an answer now."""
        for node, waiting in list(self._waiting.items()):
            if not self._sockets.can_send(node):
                continue
            job, message = waiting.popleft()
            if isinstance(message, WantManifest):
                manifest = self._store.read_manifest(StreamName(message.stream), Digest(message.digest))
                self.send(node, job, HaveManifest(message.digest, manifest))
            elif rest := self._send_chunks(node, job, message.digests):
                waiting.appendleft((job, WantChunks(rest)))
            if not waiting:
                del self._waiting[node]

    def send(self, node: NodeId, job: int, message: RepairMessage, chunks: list[bytes] | None = None) -> bool:
        """Send a repair message without waiting; false if it could not be sent."""
        settings = self._settings
        header = Repair(PROTOCOL_VERSION, settings.cluster, settings.node, self._incarnation, job, message)
        return self._sockets.send_frames(node, encode_repair(header, chunks or ()))

    def _send_chunks(self, node: NodeId, job: int, digests: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Answer as many of the digests as one message holds, at least one; return the others."""
        present: list[bytes] = []
        absent: list[bytes] = []
        chunks: list[bytes] = []
        for digest in digests:
            if sum(map(len, chunks)) >= REPLY_BYTES_MAX:
                break
            content = self._store.read_chunk(Digest(digest))
            if content is None:
                absent.append(digest)
            else:
                present.append(digest)
                chunks.append(content)
        self._counters["served_bytes"] += sum(map(len, chunks))
        self.send(node, job, HaveChunks(tuple(present), tuple(absent)), chunks)
        return digests[len(present) + len(absent) :]


def _without(newer: WantManifest | WantChunks, requests: Iterable[_Request]) -> Iterator[_Request]:
    """The older requests, without what the newer one asks for."""
    for job, message in requests:
        if isinstance(message, WantManifest) or isinstance(newer, WantManifest):
            if message != newer:
                yield job, message
        elif rest := tuple(digest for digest in message.digests if digest not in newer.digests):
            yield job, WantChunks(rest)
