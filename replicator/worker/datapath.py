"""The data path: all that moves payload, put together. Implements `ports.DataPath`.

Three threads: the publisher sends what the engine gives, the subscriber stores what peers publish, the
repairer mends what either lost. What is small is sent and taken by the control thread itself, which also
owns the subscriber's sockets; the others are their threads' own. A node without peers has no sockets: it
only stores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from replicator.adapters.ports import Deliver, Store
from replicator.adapters.zeromq import PublishSocket, RepairSockets, SubscribeSockets, Transport
from replicator.codec.assembly import assemble
from replicator.core.effects import CancelFetch, Fetch, Publish
from replicator.core.events import FetchFailed
from replicator.errors import CheckpointUnreadable
from replicator.model import Buffer, Digest, Epoch, Head, Incarnation, Payload, StreamName
from replicator.settings import Settings
from replicator.worker.datathread import DataThread
from replicator.worker.publisher import Publisher, Task
from replicator.worker.repairer import Repairer
from replicator.worker.subscriber import Subscriber

SMALL_BYTES = 16 * 2**10  # of a checkpoint that is restored along with others

COUNTERS = (
    "raw_bytes",
    "sent_bytes",
    "published",
    "dropped",
    "fetched_bytes",
    "served_bytes",
    "verified",
    "refused",
)


class DataPath:
    """Publication, subscription and repair of one node. Raises TransportError if a port is not free."""

    def __init__(
        self, settings: Settings, incarnation: Incarnation, store: Store, transport: Transport | None
    ) -> None:
        self._store = store
        self._deliver: Deliver | None = None
        self._subscriber: Subscriber | None = None
        self._repairer: Repairer | None = None
        self._threads: list[DataThread] = []
        try:
            socket = PublishSocket(transport) if transport else None
            self._publisher = Publisher(settings, incarnation, store, socket)
            self._threads.append(self._publisher)
            if transport:
                subscriber = self._subscriber = Subscriber(settings, store, SubscribeSockets(transport))
                self._threads.append(self._subscriber)
                sockets = RepairSockets(transport)
                self._repairer = Repairer(settings, incarnation, store, sockets, lambda: subscriber.heard)
                self._threads.append(self._repairer)
        except BaseException:
            self.close()
            raise

    def start(self, deliver: Deliver) -> None:
        """Start the threads; events go to *deliver*."""
        self._deliver = deliver
        for thread in self._threads:
            thread.start(deliver)

    @property
    def sockets(self) -> Iterable[object]:
        """What publications come in by."""
        return self._subscriber.sockets if self._subscriber else ()

    @property
    def has_room(self) -> bool:
        """Whether there is a use in receiving."""
        return self._subscriber is None or self._subscriber.has_room

    def receive(self) -> Iterator[None]:
        """Take the publications that have come, or some of them."""
        return self._subscriber.receive() if self._subscriber else iter(())

    def mend(self, now: float) -> None:
        """Try anew to connect to publishers to whom there has been no connection for long."""
        if self._subscriber:
            self._subscriber.mend(now)

    def publish(self, effect: Publish, payload: Payload | None) -> None:
        """Queue a publication (None: a tombstone); answered by Published, unless its epoch is over."""
        what = (effect.handle, effect.stream, effect.generation, effect.epoch, effect.sequence)
        self._publisher.publish(Task(*what, payload))

    def allow_publish(self, epoch: Epoch, publish_index: int) -> None:
        """Raise (or for a new epoch set) the index up to which publications may leave (R16)."""
        self._publisher.allow(epoch, publish_index)

    def abandon_publications(self) -> None:
        """Let go of all payloads that are not published yet: their tenure is over."""
        self._publisher.abandon()

    def fetch(self, effect: Fetch) -> None:
        """Fetch what is lacking; answered by Fetched or FetchFailed. Replaces the stream's earlier fetch."""
        if self._repairer:
            self._repairer.order(effect)
        elif self._deliver:
            self._deliver(FetchFailed(effect.number, effect.stream))

    def cancel_fetch(self, effect: CancelFetch) -> None:
        """Stop the stream's fetch, if there is one."""
        if self._repairer:
            self._repairer.order(effect)

    def restore(self, head: Head, is_wanted: Callable[[], bool]) -> Payload:
        """Read, verify and expand a checkpoint held here; any thread. Raises CheckpointUnreadable, also if it
        is wanted no longer, which is asked before each chunk."""

        def read_chunk(digest: Digest) -> Buffer | None:
            if not is_wanted():
                raise CheckpointUnreadable(f"nobody wants it any more: stream={head.stream}")
            return self._store.read_chunk(digest)

        manifest = self._store.read_manifest(StreamName(head.stream), Digest(head.digest))
        if manifest is None:
            where = f"stream={head.stream} epoch={head.epoch} sequence={head.sequence}"
            raise CheckpointUnreadable(f"the manifest is absent or damaged: {where}")
        return assemble(manifest, read_chunk)

    def restore_small(self, heads: Iterable[Head]) -> dict[StreamName, Payload]:
        """Those of the checkpoints that are small and can be read, at once; any thread. The others' rot is
        found, and dealt with, when they are restored by themselves."""
        found = {}
        for manifest, read_chunk in self._store.read_small(heads, SMALL_BYTES):
            with suppress(CheckpointUnreadable):
                found[StreamName(manifest.stream)] = assemble(manifest, read_chunk)
        return found

    def usage(self) -> dict[str, int]:
        """Counters since the start, for status."""
        return {name: sum(thread.counters[name] for thread in self._threads) for name in COUNTERS}

    def close(self) -> None:
        """End all threads and close their sockets. What is not published is abandoned."""
        for thread in self._threads:
            thread.close()
