"""The data path of one process: publication with its window, and fetches, at the level of whole jobs."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence as Ordered
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from replicator.core.effects import Fetch, Publish
from replicator.core.events import (
    Fetched,
    FetchFailed,
    HeadRotten,
    ManifestReceived,
    Published,
    Seen,
    Sent,
)
from replicator.model import (
    Chunk,
    Codec,
    Digest,
    Epoch,
    Incarnation,
    Manifest,
    NodeId,
    Part,
    Sequence,
    StreamName,
)
from tests.simulation.checkers import Violation
from tests.simulation.history import CHUNK_BYTES
from tests.simulation.image import chunk_digests

if TYPE_CHECKING:
    from tests.simulation.node import Node

FETCH_TIMEOUT_S = 0.1
STALLED_S = 1.0

Piece = tuple[Digest, bytes]


def cut_chunks(payload: bytes) -> list[Piece]:
    """The payload in pieces of CHUNK_BYTES, each with its digest."""
    pieces = [payload[at : at + CHUNK_BYTES] for at in range(0, len(payload), CHUNK_BYTES)]
    return [(Digest(hashlib.blake2b(piece, digest_size=32).digest()), piece) for piece in pieces]


def build_manifest(effect: Publish, pieces: Ordered[Piece]) -> Manifest:
    """The manifest of a publication; its digest is over everything that names the checkpoint."""
    chunks = tuple(Chunk(digest, len(piece), digest, len(piece), Codec.NONE) for digest, piece in pieces)
    parts = () if effect.tombstone else (Part("", chunks),)
    place = (effect.stream, effect.generation, effect.epoch, effect.sequence)
    digest = hashlib.blake2b(
        msgspec.msgpack.encode((*place, effect.tombstone, [one for one, _ in pieces])), digest_size=32
    ).digest()
    return Manifest(*place, parts, b"", False, effect.tombstone, digest)


class Broadcast(NamedTuple):
    """A checkpoint on its way out; *frames* have not left yet, the last of them is the manifest's own."""

    effect: Publish
    manifest: Manifest
    pieces: list[Piece]
    frames: deque[Piece | None]


class Publisher:
    """Publishes in order, each checkpoint as some frames, every one when the window allows it (R16)."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._world = node.world
        self._waiting: deque[Publish] = deque()
        self._busy = False
        self._broadcast: Broadcast | None = None
        self._epoch = Epoch(0)
        self._index = 0
        self._allowed = 0

    def allow(self, epoch: Epoch, publish_index: int) -> None:
        """The window has moved."""
        self._raise(epoch, publish_index)
        if self._broadcast is not None:
            self._go_on(self._broadcast)
        else:
            self._start()

    def abandon(self) -> None:
        """Nothing of what is queued leaves any more: the node is primary no longer."""
        newest = max([self._epoch, *(effect.epoch for effect in self._waiting)])
        self._raise(Epoch(newest + 1), self._node.config.window_frames_max)

    def _raise(self, epoch: Epoch, publish_index: int) -> None:
        if epoch > self._epoch:
            if self._broadcast is not None:
                self._broadcast, self._busy = None, False
            self._epoch, self._index, self._allowed = epoch, 0, publish_index
        elif epoch == self._epoch:
            self._allowed = max(self._allowed, publish_index)

    def publish(self, effect: Publish) -> None:
        """Queue a publication."""
        self._waiting.append(effect)
        self._start()

    def _start(self) -> None:
        if self._busy or not self._waiting:
            return
        effect = self._waiting[0]
        if effect.epoch < self._epoch:
            self._waiting.popleft()
            self._start()
        elif effect.epoch > self._epoch or self._index < self._allowed or not self._node.config.peers:
            self._raise(effect.epoch, self._node.config.window_frames_max)
            self._busy = True
            delay = 0.0005 + self._world.random.expovariate(1.0) * self._node.publish_mean_s
            self._node.later(delay, self._publish)

    def _publish(self) -> None:
        node, effect = self._node, self._waiting.popleft()
        if effect.epoch != self._epoch:
            self._busy = False
            self._start()
            return
        content = self._world.content_for(effect)
        pieces = [] if effect.tombstone else cut_chunks(self._world.history.payloads[content])
        manifest = build_manifest(effect, pieces)
        self._world.published(node, manifest, content)
        new = [piece for piece in pieces if piece[0] not in node.disk.image.chunks]
        self._broadcast = Broadcast(effect, manifest, pieces, deque([*new, None]))
        self._go_on(self._broadcast)

    def _go_on(self, broadcast: Broadcast) -> None:
        node, effect, before = self._node, broadcast.effect, self._index
        while broadcast.frames and (self._index < self._allowed or not node.config.peers):
            self._check_kept(effect)
            self._index += 1
            self._frame(broadcast.manifest, self._index, broadcast.frames.popleft())
        if broadcast.frames:
            if self._index > before:
                node.later(STALLED_S, self._stalled, self._epoch, self._index)
            return
        self._broadcast, self._busy = None, False
        node.disk.put_chunks(effect.stream, effect.epoch, effect.sequence, broadcast.pieces)
        published = Published(effect.handle, broadcast.manifest, Epoch(effect.epoch), self._index)
        self._start()  # first: the node may be killed over what it is told
        node.deliver(published)

    def _check_kept(self, effect: Publish) -> None:
        """The engine may put something else where a payload lay that it has been given back (I4)."""
        if effect.handle and effect.handle not in self._node.engine.unreleased:
            raise Violation("I4", f"{self._node.name} publishes payload {effect.handle}, which is released")

    def _stalled(self, epoch: Epoch, index: int) -> None:
        """Nothing has left for a while: say how much has, unless all is done (R18)."""
        if self._broadcast is not None and (epoch, index) == (self._epoch, self._index):
            self._node.deliver(Sent(epoch, index))

    def _frame(self, manifest: Manifest, index: int, chunk: Piece | None) -> None:
        node, network = self._node, self._world.network
        for peer in self._world.others(node.name):
            if (node.name, peer.name) in network.cuts or not node.is_running:
                continue
            if network.loses_publication(node.name, peer.name):
                continue
            arrival = max(self._world.now + network.delay(), peer.last_frame.get(node.name, 0.0) + 1e-6)
            peer.last_frame[node.name] = arrival
            frame = (node.name, node.disk.image.incarnation, self._epoch, index, manifest, chunk)
            self._world.schedule(arrival - self._world.now, self._arrive, peer, peer.life, frame)

    @staticmethod
    def _arrive(
        peer: Node,
        life: int,
        frame: tuple[NodeId, Incarnation, Epoch, int, Manifest, Piece | None],
    ) -> None:
        source, incarnation, epoch, index, manifest, chunk = frame
        if peer.life != life or not peer.is_running or (source, peer.name) in peer.world.network.cuts:
            return
        if chunk is None:
            peer.deliver(ManifestReceived(source, incarnation, epoch, manifest, index))
        else:
            peer.disk.put_chunks(StreamName(manifest.stream), epoch, Sequence(manifest.sequence), [chunk])
            peer.deliver(Seen(source, epoch, index))


class Fetcher:
    """Runs one fetch per stream: from any reachable source that can still read what is asked (R18)."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._world = node.world
        self._running: dict[StreamName, Fetch] = {}

    def fetch(self, effect: Fetch) -> None:
        """Start a fetch in place of the stream's earlier one."""
        self._running[StreamName(effect.stream)] = effect
        delay = self._world.network.delay() * 2 + self._world.random.expovariate(1.0) * 0.002
        self._node.later(delay, self._gather, effect)

    def cancel(self, stream: StreamName) -> None:
        """Stop the stream's fetch, if there is one."""
        self._running.pop(stream, None)

    def running_beside(self, effect: Fetch) -> int:
        """How many of other streams are under way."""
        return len(self._running.keys() - {StreamName(effect.stream)})

    def _gather(self, effect: Fetch) -> None:
        if self._running.get(StreamName(effect.stream)) is not effect:
            return
        sources = [self._world.nodes[name] for name in effect.sources if name in self._world.nodes]
        sources = [source for source in sources if self._reaches(source)]
        manifest = effect.manifest or self._find_manifest(effect, [self._node, *sources])
        if manifest is None or not self._take(manifest, sources, effect.verify):
            self._node.later(FETCH_TIMEOUT_S, self._fail, effect)
            return
        del self._running[StreamName(effect.stream)]
        self._node.deliver(Fetched(effect.number, effect.stream, manifest))

    def _fail(self, effect: Fetch) -> None:
        if self._running.get(StreamName(effect.stream)) is effect:
            del self._running[StreamName(effect.stream)]
            self._node.deliver(FetchFailed(effect.number, effect.stream))

    def _reaches(self, source: Node) -> bool:
        if source is self._node or not source.is_running or source.is_paused:
            return False
        lost = self._world.random.random() < self._world.network.weather.loss
        return not lost and self._world.network.connected(self._node.name, source.name)

    @staticmethod
    def _find_manifest(effect: Fetch, sources: list[Node]) -> Manifest | None:
        for source in sources:
            for retained in source.disk.image.streams.get(StreamName(effect.stream), ()):
                if retained.manifest.digest == effect.digest:
                    return retained.manifest
        return None

    def _take(self, manifest: Manifest, sources: list[Node], verify: bool) -> bool:
        image = self._node.disk.image
        taken = []
        for digest in chunk_digests(manifest):
            is_bad = digest in image.found or (verify and digest in image.damaged)
            if digest in image.chunks and not is_bad:
                continue
            piece = _read_of_any(sources, digest)
            if piece is None:
                return False
            taken.append((digest, piece))
        epoch = Epoch(image.promised_epoch)
        present = [(d, image.chunks[d]) for d in chunk_digests(manifest) if d in image.chunks]
        self._node.disk.put_chunks(StreamName(manifest.stream), epoch, Sequence(manifest.sequence), taken)
        self._node.disk.pin(StreamName(manifest.stream), manifest.sequence, [one for one, _ in present])
        return True


def _read_of_any(sources: list[Node], digest: Digest) -> bytes | None:
    """A chunk of the first source that can give it; the others are not asked."""
    for source in sources:
        piece = _read(source, digest)
        if piece is not None:
            return piece
    return None


def _read(source: Node, digest: Digest) -> bytes | None:
    """A chunk as a source reads it: a rotten one is found out, told to its replica, and not given."""
    if digest in source.disk.image.damaged:
        report_rot(source, digest)
        return None
    return source.disk.image.chunks.get(digest)


def report_rot(node: Node, digest: Digest) -> None:
    """This damaged chunk is found out: the store counts on it no longer, and the replica is told of every
    head that cannot be read without (R22)."""
    if digest in node.disk.image.damaged:
        node.disk.image.found.add(digest)
    for stream, retained in sorted(node.disk.image.streams.items()):
        if digest in chunk_digests(retained[-1].manifest):
            node.deliver(HeadRotten(stream, Digest(retained[-1].manifest.digest)))
