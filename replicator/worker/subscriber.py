"""The subscriber: takes publications from the peers' PUBs, verifies their chunks and stores them (R13).

It knows nothing of epochs that count and epochs that do not: the store drops chunks of a refused epoch
when it writes (R3, R4), and the core judges manifests. While the store has no room in its queue this
thread waits, the sockets fill, and the publisher's PUB drops for this node: repair mends that (R18).
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered

from msgspec import Struct

from replicator.adapters.ports import Store
from replicator.adapters.zeromq import SubscribeSockets
from replicator.codec.compression import verify
from replicator.codec.frames import decode_publication
from replicator.core.events import ManifestReceived, Seen
from replicator.core.messages import PROTOCOL_VERSION
from replicator.errors import MessageError
from replicator.model import Buffer, Epoch, Incarnation, NodeId, Sequence, StreamName
from replicator.settings import Settings
from replicator.worker.datathread import DataThread

SEEN_FRAMES_MAX = 4
SEEN_BYTES_MAX = 4 * 2**20
IDLE_S = 0.005


class _Unsaid(Struct):
    """What has been taken from one peer and not been told as `Seen` yet."""

    epoch: Epoch
    publish_index: int = 0
    messages: int = 0
    bytes: int = 0


class Subscriber(DataThread):
    """Receives what all peers publish, on a thread of its own."""

    def __init__(self, settings: Settings, store: Store, sockets: SubscribeSockets) -> None:
        super().__init__("subscriber")
        self._cluster = settings.cluster
        self._store = store
        self._sockets = sockets
        sockets.watch(self._bell)
        self._unsaid: dict[NodeId, _Unsaid] = {}

    def _run(self) -> None:
        while not self._closed.is_set():
            idle = True
            for node, frames in self._sockets.receive(IDLE_S if self._unsaid else None):
                idle = False
                try:
                    self._take(node, frames)
                except MessageError as error:
                    self._refuse(node, str(error))
                if self._closed.is_set():
                    return
            if idle:
                for node in list(self._unsaid):
                    self._say(node)

    def _end(self) -> None:
        self._sockets.close()

    def _take(self, node: NodeId, frames: Ordered[Buffer]) -> None:
        header, stored = decode_publication(frames)
        if header.version != PROTOCOL_VERSION:
            self._refuse(node, f"protocol version is not {PROTOCOL_VERSION}", "refused")
        elif header.cluster != self._cluster:
            self._refuse(node, f"cluster is not {self._cluster}", "refused")
        elif header.node != node:
            self._refuse(node, "sender is another node", "refused")
        else:
            epoch = Epoch(header.epoch)
            chunks = list(zip(header.chunks, stored, strict=True))
            for chunk, content in chunks:
                verify(chunk, content)
            if chunks:
                self.counters["verified"] += len(chunks)
                stream, sequence = StreamName(header.stream), Sequence(header.sequence)
                self._store.put_chunks(stream, epoch, sequence, chunks)
            if header.manifest is not None:
                self._deliver(ManifestReceived(node, Incarnation(header.incarnation), epoch, header.manifest))
            self._note(node, epoch, header.publish_index, sum(map(len, stored)))

    def _note(self, node: NodeId, epoch: Epoch, publish_index: int, size: int) -> None:
        """Remember to tell that this message was taken; several are told at once."""
        unsaid = self._unsaid.get(node)
        if unsaid is not None and unsaid.epoch != epoch:
            self._say(node)
            unsaid = None
        if unsaid is None:
            unsaid = self._unsaid[node] = _Unsaid(epoch)
        unsaid.publish_index = max(unsaid.publish_index, publish_index)
        unsaid.messages += 1
        unsaid.bytes += size
        if unsaid.messages >= SEEN_FRAMES_MAX or unsaid.bytes >= SEEN_BYTES_MAX:
            self._say(node)

    def _say(self, node: NodeId) -> None:
        unsaid = self._unsaid.pop(node)
        self._deliver(Seen(node, unsaid.epoch, unsaid.publish_index))
