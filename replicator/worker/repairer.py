"""The repairer: gives peers the chunks that they lack, and fetches those that are lacking here (R18, R22).

Late joiner, restarted node, lagging node, claimant and scrubber all use this one mechanism: want and have
chunks, by digest. Fetched chunks go to the store, verified, as they come; when none is lacking any longer
the core is told and accepts. The fetches share each source's credit, which bounds memory and what waits
at the source, and take turns with it, so that none waits for all of a large one. While others commit, they
keep a pace that leaves those their time.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence as Ordered

from msgspec import Struct

from replicator.adapters.ports import MEND_INTERVAL_S, Store
from replicator.adapters.zeromq import MESSAGES_PER_TURN, RepairSockets
from replicator.codec.compression import verify
from replicator.codec.frames import (
    REQUEST_BYTES_MAX,
    HaveChunks,
    HaveManifest,
    Repair,
    WantChunks,
    WantManifest,
    decode_repair,
)
from replicator.core import effects
from replicator.core.events import Fetched, FetchFailed
from replicator.core.messages import PROTOCOL_VERSION
from replicator.errors import MessageError
from replicator.model import (
    COUNT_MAX,
    Buffer,
    Chunk,
    Digest,
    Epoch,
    Incarnation,
    Manifest,
    NodeId,
    Sequence,
    StreamName,
)
from replicator.settings import Settings
from replicator.worker.datathread import DataThread
from replicator.worker.fetch import Fetch
from replicator.worker.pace import Pace
from replicator.worker.patience import Patience
from replicator.worker.serving import Serving

TICK_S = 0.02
CHECKS_PER_TURN = 8
ASKED_MAX = 4096  # requests whose answers are known, however late they come
MANIFESTS_MAX = 16  # of fetches that nobody has answered in time
# A fetched chunk counts by its digest only, whatever the epoch of its checkpoint, which may be an old one
# that is being adopted. The fence is checked when the checkpoint is accepted (R4).
ANY_EPOCH = Epoch(COUNT_MAX)


class _Asked(Struct):
    """A request that has left, and whose answers are not all here."""

    number: int  # of the fetch
    stream: StreamName
    node: NodeId
    at: float
    left: int  # so many chunks, or the manifest


class Repairer(DataThread):
    """Serves and fetches, on a thread of its own."""

    def __init__(
        self,
        settings: Settings,
        incarnation: Incarnation,
        store: Store,
        sockets: RepairSockets,
        publications: Callable[[], int],
    ) -> None:
        super().__init__("repairer")
        self._settings = settings
        self._peers = settings.peers.keys() - {settings.node}
        self._store = store
        self._sockets = sockets
        self._serving = Serving(settings, incarnation, store, sockets, self.counters)
        self._orders: deque[effects.Fetch | effects.CancelFetch] = deque()
        self._fetches: dict[StreamName, Fetch] = {}
        self._publications = publications  # how many were heard
        self._pace = Pace(settings.fetch_bytes_per_s)
        self._patience = Patience()
        # From anywhere, so that no answer to a former life of this node fits.
        self._jobs = itertools.count(secrets.randbits(48))
        self._asked: dict[int, _Asked] = {}
        # Of fetches that nobody has answered in time: what comes too late for one is of use to the next only
        # if that knows what it lacks, and its own question would be answered behind all of it.
        self._manifests: dict[StreamName, Manifest] = {}
        self._is_asking = False  # there may be credit for more

    def order(self, order: effects.Fetch | effects.CancelFetch) -> None:
        """Begin, replace or cancel the fetch of a stream; any thread."""
        self._orders.append(order)
        self._ring()

    def _end(self) -> None:
        self._sockets.close()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._sockets.wait(self._bell, self._timeout_s(), self._serving.peers)
            self._silence()
            while self._orders:
                self._begin(self._orders.popleft())
            taken = 0
            for key_node, frames in self._sockets.receive_frames():
                self._take(key_node, frames)
                taken += 1
            self._serving.serve()
            now = time.monotonic()
            self._is_asking = False
            self._pace.heard(self._publications(), now)
            for fetch in list(self._fetches.values()):
                if taken < MESSAGES_PER_TURN:  # else an answer may be waiting still
                    fetch.expire(now, self._patience.of)
                self._advance(fetch, now)

    def _timeout_s(self) -> float:
        if self._is_asking or any(fetch.unchecked for fetch in self._fetches.values()):
            return 0.0
        return TICK_S if self._fetches else MEND_INTERVAL_S

    def _begin(self, order: effects.Fetch | effects.CancelFetch) -> None:
        stream = StreamName(order.stream)
        self._fetches.pop(stream, None)
        if isinstance(order, effects.CancelFetch):
            return
        fetch = self._fetches[stream] = Fetch(order)
        manifest = self._manifests.pop(stream, None)
        if manifest is None or manifest.digest != fetch.digest:
            manifest = order.manifest or self._store.read_manifest(stream, fetch.digest)
        if manifest is not None and manifest.digest == fetch.digest:
            self._unfold(fetch, manifest)

    def _unfold(self, fetch: Fetch, manifest: Manifest) -> None:
        """The manifest is known: find out which of its chunks are lacking."""
        chunks = {chunk.stored_digest: chunk for part in manifest.parts for chunk in part.chunks}
        missing = self._store.missing(chunks.values())
        for chunk in missing:
            chunks.pop(chunk.stored_digest, None)
        fetch.begin(manifest, missing, chunks.values())

    def _advance(self, fetch: Fetch, now: float) -> None:
        """Check what is to be checked, ask for some of what is lacking, and tell when it is over."""
        for chunk in fetch.take_unchecked(CHECKS_PER_TURN):
            if self._store.read_chunk(Digest(chunk.stored_digest)) is None:
                fetch.want(chunk)
        if not fetch.is_urgent and self._pace.rests(now):
            fetch.rest()
        elif (request := fetch.next_request(now, self._has_credit)) is not None:
            if digests := self._still_lacking(fetch, request[1]):
                self._ask(fetch, request[0], digests, now)
            self._fetches[fetch.stream] = self._fetches.pop(fetch.stream)  # the others' turn is first now
            self._is_asking = True
        if fetch.is_done and fetch.manifest is not None:
            del self._fetches[fetch.stream]
            self._deliver(Fetched(fetch.number, fetch.stream, fetch.manifest))
        elif fetch.has_failed:
            del self._fetches[fetch.stream]
            if fetch.manifest is not None and fetch.is_unanswered:
                self._manifests[fetch.stream] = fetch.manifest
                if len(self._manifests) > MANIFESTS_MAX:
                    del self._manifests[next(iter(self._manifests))]
            self._deliver(FetchFailed(fetch.number, fetch.stream))

    def _still_lacking(self, fetch: Fetch, digests: list[Digest]) -> list[Digest]:
        """Those that no publication has brought meanwhile; what is rotten is there all the same."""
        if fetch.manifest is None or fetch.verifies:
            return digests
        chunks = [chunk for digest in digests if (chunk := fetch.needs(digest)) is not None]
        missing = [Digest(chunk.stored_digest) for chunk in self._store.missing(chunks)]
        for digest in set(digests).difference(missing):
            fetch.got(digest)
        return missing

    def _ask(self, fetch: Fetch, node: NodeId, digests: list[Digest], now: float) -> None:
        want = WantChunks(tuple(digests)) if fetch.manifest else WantManifest(fetch.stream, fetch.digest)
        job = next(self._jobs)
        if self._serving.send(node, job, want):
            self._pace.asked(fetch.asked(node, digests, now), now)
            self._asked[job] = _Asked(fetch.number, fetch.stream, node, now, len(digests))
            if len(self._asked) > ASKED_MAX:
                del self._asked[next(iter(self._asked))]
        else:
            fetch.unreachable(node, now)

    def _has_credit(self, node: NodeId) -> bool:
        """Whether all fetches together may ask that node for more: what waits there delays every answer."""
        asked_bytes = sum(fetch.asked_bytes(node) for fetch in self._fetches.values())
        credit = self._settings.fetch_credit if self._patience.knows(node) else 1
        return asked_bytes + REQUEST_BYTES_MAX <= credit * REQUEST_BYTES_MAX

    def _take(self, key_node: NodeId | None, frames: Ordered[Buffer]) -> None:
        """Look at one message; a peer is who its key says, or without keys who it says it is."""
        try:
            header, chunks = decode_repair(frames)
        except MessageError as error:
            self._refuse(key_node, str(error))
            return
        node = NodeId(header.node)
        if header.version != PROTOCOL_VERSION:
            self._refuse(key_node, f"protocol version is not {PROTOCOL_VERSION}", "refused")
        elif header.cluster != self._settings.cluster:
            self._refuse(key_node, f"cluster is not {self._settings.cluster}", "refused")
        elif node not in self._peers or (key_node is not None and key_node != node):
            self._refuse(key_node, "sender is not a peer, or not with that key", "refused")
        elif isinstance(header.message, WantManifest | WantChunks):
            if not self._serving.add(node, header.job, header.message):
                self._refuse(node, "too many requests wait")
        else:
            self._take_answer(node, header, chunks)

    def _take_answer(self, node: NodeId, header: Repair, chunks: Ordered[Buffer]) -> None:
        """Take what is of use. An answer that comes after its fetch has ended is that, too: the stream's next
        fetch may want the same, and it shows that the source answers still what is older (see `Fetch`)."""
        asked = self._asked.get(header.job)
        if asked is None or asked.node != node:
            return  # a peer that only says what nobody asked for is as good as silent
        message, now = header.message, time.monotonic()
        answered = len(message.present) + len(message.absent) if isinstance(message, HaveChunks) else 1
        asked.left -= max(answered, 1)
        if asked.left <= 0:
            del self._asked[header.job]
        heir = self._fetches.get(asked.stream)
        fetch = heir if heir is not None and heir.number == asked.number else None
        helped: list[Fetch] = []
        if isinstance(message, HaveManifest):
            helped = self._take_manifest(heir, fetch, node, message)
        elif isinstance(message, HaveChunks):
            helped = self._take_chunks(node, zip(message.present, chunks, strict=True))
            helped += self._take_lacks(node, message.absent) if fetch is not None else []
        for each in helped:
            each.heard(node, now)
        for each in self._fetches.values():
            each.heard_by_any(node, asked.at, now)
        if chunks:
            self._patience.answered(node, asked.at, now)

    def _take_manifest(
        self, heir: Fetch | None, asker: Fetch | None, node: NodeId, message: HaveManifest
    ) -> list[Fetch]:
        """Go on with the chunks, if it is the manifest that is looked for; the asker, if that is of use. A
        source that gives another one has not what it was asked for."""
        if heir is None or heir.manifest is not None:
            return []
        if message.manifest is not None and message.digest == heir.digest:
            self._unfold(heir, message.manifest)
        elif heir is not asker or not heir.lacks(node, heir.digest):
            return []
        return [heir] if heir is asker else []

    def _take_lacks(self, node: NodeId, absent: Iterable[bytes]) -> list[Fetch]:
        """Whoever has asked the node for those need not wait for it; the fetches to which one is news."""
        told = [
            (fetch, [fetch.lacks(node, Digest(digest)) for digest in absent])
            for fetch in self._fetches.values()
        ]
        return [fetch for fetch, news in told if any(news)]

    def _take_chunks(self, node: NodeId, received: Iterable[tuple[bytes, Buffer]]) -> list[Fetch]:
        """Store those that are needed and right, for every fetch that needs them: the source answers what
        several have asked for once. The fetches that got one.

        A wrong one counts as one that the peer lacks.
        """
        good: dict[StreamName, list[tuple[Chunk, Buffer]]] = {}
        for digest, content in received:
            verified: Chunk | None = None
            for fetch in self._fetches.values():
                if (chunk := fetch.needs(Digest(digest))) is None:
                    continue
                try:
                    if chunk != verified:
                        verify(chunk, content)
                except MessageError as error:
                    self._refuse(node, str(error))
                    fetch.lacks(node, Digest(digest))
                    continue
                if verified is None:
                    self.counters["verified"] += 1
                    self.counters["fetched_bytes"] += chunk.stored_bytes
                verified = chunk
                fetch.got(Digest(digest))
                good.setdefault(fetch.stream, []).append((chunk, content))
        for stream, chunks in good.items():
            manifest = self._fetches[stream].manifest
            assert manifest is not None  # before it is known no chunk is needed
            self._store.put_chunks(stream, ANY_EPOCH, Sequence(manifest.sequence), chunks)
        return [self._fetches[stream] for stream in good]
