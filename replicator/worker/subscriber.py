"""The subscriber: takes publications from the peers' PUBs, verifies their chunks and stores them (R13).

The control thread owns the sockets. A small publication takes less time than waking a thread for it, and
is taken in the control thread's own call, which waits for nothing. Whatever is larger, or comes while
something before it waits, goes as received frames to the subscriber's thread, so that the order holds.

It knows nothing of epochs that count and epochs that do not: the store drops chunks of a refused epoch
when it writes (R3, R4), and the core judges manifests. While the store has no room in its queue the
subscriber's thread waits, its own queue fills, the control thread leaves the sockets alone, they fill, and
the publisher's PUB drops for this node: repair mends that (R18).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence as Ordered

from replicator.adapters.ports import Store
from replicator.adapters.zeromq import SubscribeSockets
from replicator.codec.compression import verify
from replicator.codec.frames import Publication, decode_publication
from replicator.core.events import ManifestReceived, Seen, Tick
from replicator.core.messages import PROTOCOL_VERSION
from replicator.errors import MessageError
from replicator.model import Buffer, Epoch, Incarnation, NodeId, Sequence, StreamName
from replicator.settings import Settings
from replicator.worker.datathread import DataThread

IN_CALL_BYTES_MAX = 2**17  # of a message that is taken without a change of threads
QUEUE_MESSAGES_MAX = 4  # of some MiB at most; the sockets keep what is more
SEEN_FRAMES_MAX = 4
IDLE_S = 0.005

_Message = tuple[NodeId, Ordered[Buffer]]


class Subscriber(DataThread):
    """Takes what all peers publish, in the control thread's call or on a thread of its own."""

    def __init__(self, settings: Settings, store: Store, sockets: SubscribeSockets) -> None:
        super().__init__("subscriber")
        self._cluster = settings.cluster
        self._store = store
        self._sockets = sockets
        self._changed = threading.Condition()
        self._queue: deque[_Message] = deque()  # the thread removes a message when it has taken it
        self.heard = 0  # messages, of any kind
        self.has_room = True  # so that there is a use in receiving
        self._unsaid: Seen | None = None  # taken by the thread, and not told yet
        self._unsaid_count = 0

    # ── from the control thread ──

    @property
    def sockets(self) -> Iterable[object]:
        """What to poll for reading while `has_room`."""
        return self._sockets.all

    def receive(self) -> Iterator[None]:
        """Take what has come, a message at each step, and at most a bounded number."""
        for message in self._sockets.receive():
            self.heard += 1
            if self._queue or self._store.is_crowded() or _size_bytes(message) > IN_CALL_BYTES_MAX:
                self._hand_over(message)
            else:
                self._take_in_call(message)
            yield
            if not self.has_room:
                return

    def mend(self, now: float) -> None:
        """Try anew to connect to publishers to whom there has been no connection for long."""
        self._sockets.mend(now)

    def _hand_over(self, message: _Message) -> None:
        with self._changed:
            self._queue.append(message)
            self.has_room = len(self._queue) < QUEUE_MESSAGES_MAX
            self._changed.notify()

    def _take_in_call(self, message: _Message) -> None:
        try:
            seen = self._take(message)
            if seen is not None:
                self._deliver(seen)
        except Exception as error:  # nothing of this is the caller's fault
            self._fail(error)

    def close(self) -> None:
        """End the thread; what waits is lost. Then close the sockets, which are the caller's."""
        with self._changed:
            self._closed.set()
            self._changed.notify()
        super().close()
        self._sockets.close()

    # ── the subscriber's thread ──

    def _run(self) -> None:
        while self._wait():
            seen = self._take(self._queue[0])
            if seen is not None:
                self._note(seen)
            self._finish()

    def _wait(self) -> bool:
        """Return when there is a message; false when it is time to end."""
        with self._changed:
            while not self._queue and not self._closed.is_set():
                if not self._changed.wait(IDLE_S if self._unsaid else None):
                    self._say()
        return not self._closed.is_set()

    def _note(self, seen: Seen) -> None:
        """Tell of several messages of a peer at once, and of the last ones when nothing more comes."""
        unsaid = self._unsaid
        if unsaid is not None and (unsaid.node, unsaid.epoch) != (seen.node, seen.epoch):
            self._say()
        self._unsaid = seen
        self._unsaid_count += 1
        if self._unsaid_count >= SEEN_FRAMES_MAX:
            self._say()

    def _say(self) -> None:
        if self._unsaid is not None:
            self._deliver(self._unsaid)
        self._unsaid, self._unsaid_count = None, 0

    def _finish(self) -> None:
        """The oldest message is taken. The control thread is told when it may receive again: not for each
        message, but when the queue has nearly run out."""
        with self._changed:
            self._queue.popleft()
            if self.has_room or len(self._queue) > 1:
                return
            self.has_room = True
        self._deliver(Tick())

    def _end(self) -> None:
        """Nothing is the thread's own."""

    # ── either ──

    def _take(self, message: _Message) -> Seen | None:
        """Verify, store and tell; what has no manifest to be told with is for the caller to tell."""
        node, frames = message
        try:
            header, stored = decode_publication(frames)
            if header.version != PROTOCOL_VERSION:
                self._refuse(node, f"protocol version is not {PROTOCOL_VERSION}", "refused")
            elif header.cluster != self._cluster:
                self._refuse(node, f"cluster is not {self._cluster}", "refused")
            elif header.node != node:
                self._refuse(node, "sender is another node", "refused")
            else:
                return self._store_chunks(node, header, stored)
        except MessageError as error:
            self._refuse(node, str(error))
        return None

    def _store_chunks(self, node: NodeId, header: Publication, stored: Ordered[Buffer]) -> Seen | None:
        epoch, index = Epoch(header.epoch), header.publish_index
        chunks = list(zip(header.chunks, stored, strict=True))
        for chunk, content in chunks:
            verify(chunk, content)
        if chunks:
            self.counters["verified"] += len(chunks)
            stream, sequence = StreamName(header.stream), Sequence(header.sequence)
            self._store.put_chunks(stream, epoch, sequence, chunks, wait=self._is_here)
        if header.manifest is None:
            return Seen(node, epoch, index)
        incarnation = Incarnation(header.incarnation)
        self._deliver(ManifestReceived(node, incarnation, epoch, header.manifest, index))
        return None


def _size_bytes(message: _Message) -> int:
    return sum(map(len, message[1]))
