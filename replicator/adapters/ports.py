"""What the driver needs of the outside world, as Protocols: the store, the mesh, the data path, the elector.

The real adapters and the fakes of the tests are held to the same tests through these. *deliver* is the
driver's inbox: a function that may be called from any thread, never blocks and takes one core event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence as Ordered
from typing import Protocol

from replicator.addresses import Address
from replicator.codec.assembly import ReadChunk
from replicator.core.effects import (
    Accept,
    AdoptHeads,
    CancelFetch,
    Fetch,
    ForgetTombstone,
    MarkCommitted,
    Publish,
    RememberCounters,
    WritePromise,
    WriteRecord,
)
from replicator.core.events import Durable, Event
from replicator.model import (
    Buffer,
    Chunk,
    Digest,
    Epoch,
    Head,
    Manifest,
    NodeId,
    Payload,
    Sequence,
    StreamName,
)

Deliver = Callable[[Event], None]
MEND_INTERVAL_S = 1.0  # between two looks at the connections
StoreEffect = (
    WritePromise | WriteRecord | Accept | AdoptHeads | MarkCommitted | ForgetTombstone | RememberCounters
)


class Store(Protocol):
    """A replica's disk. One writer thread; reads from any thread."""

    def start(self, deliver: Deliver) -> None:
        """Start the writer thread; completions go to *deliver* in the order of the writes."""

    def durable(self) -> Durable:
        """What is durable now; called once before `start`."""

    def perform(self, effect: StoreEffect) -> None:
        """Queue a store effect; never blocks. Promises and records overtake payload."""

    def put_chunks(
        self,
        stream: StreamName,
        epoch: Epoch,
        sequence: Sequence,
        chunks: Ordered[tuple[Chunk, Buffer]],
        *,
        wait: bool = True,
    ) -> None:
        """Queue verified chunks (as stored; large ones are not copied, so nobody may change them) of a
        checkpoint that is under way; chunks queued before an Accept are written before it. A data thread
        waits while the queue holds more than its bound; the control thread, which looks before whether it is
        crowded, must not (*wait*), and may exceed it by a little. Dropped silently if *epoch* is below the
        promised one when they are written (R3)."""

    def is_crowded(self) -> bool:
        """Whether `put_chunks` would wait now."""

    def missing(self, chunks: Iterable[Chunk]) -> list[Chunk]:
        """Those that are neither stored nor queued."""

    def head_bytes(self, stream: StreamName) -> int:
        """What the stream's head takes as stored, 0 if there is none; nothing is read for it."""

    def read_manifest(self, stream: StreamName, digest: Digest | None = None) -> Manifest | None:
        """A retained manifest by its digest; without one that of the stream's head."""

    def read_chunk(self, stored_digest: Digest) -> bytes | None:
        """A chunk as stored, verified (R22); None if absent or rotten, and from then on it is missing. Queued
        chunks count as absent."""

    def read_small(self, heads: Iterable[Head], bytes_max: int) -> Iterator[tuple[Manifest, ReadChunk]]:
        """Read at once, of those of *heads* whose payload has at most *bytes_max*: the manifest, and what
        reads the chunks until the next one comes, as stored and not verified. A head whose manifest is
        absent or damaged is left out."""

    def writing_s(self) -> float:
        """How long the write that is under way has taken so far; 0.0 if there is none. Any thread."""

    def usage(self) -> dict[str, int]:
        """Counts and bytes for status: streams, checkpoints, chunks, stored_bytes, queued_bytes."""

    def close(self) -> None:
        """Finish what is queued, sync, close. Safe to call twice."""


class Control(Protocol):
    """The control mesh: a ROUTER of one's own and a DEALER to each peer. Owned by the control thread."""

    @property
    def sockets(self) -> Iterable[object]:
        """What to register for reading with the control thread's `zmq.Poller`."""

    def send(self, to: NodeId, frame: bytes) -> bool:
        """Send without waiting; False when the peer's queue is full (the message is lost)."""

    def receive(self) -> Iterator[tuple[NodeId | None, bytes]]:
        """Frames that have arrived, a bounded number, each with the node that its key authenticates (None: no
        keys)."""

    def mend(self, now: float) -> None:
        """Try anew to connect to those peers to whom there has been no connection for long; to be called
        every `MEND_INTERVAL_S`."""

    def unconnected(self) -> list[tuple[NodeId, Address]]:
        """The ports of peers, those of the data path too, to which there is no connection."""

    def close(self) -> None: ...


class Elector(Protocol):
    """Names a leader now and then; a hint about liveness, never proof. Used on the control thread only."""

    def tick(self, now: float) -> None:
        """Run what is due; may call the grant and revoke callbacks and send Raft messages."""

    def receive(self, node: NodeId, payload: bytes) -> None:
        """Hand in a peer elector's message."""

    def transfer(self, to: NodeId | None) -> None:
        """Give leadership away, to *to* if it can be."""

    def set_electable(self, electable: bool) -> None:
        """Whether this node may stand for election at all; it votes in any case."""

    def set_behind(self, behind: bool) -> None:
        """Whether this node lacks what others may hold, so that it had better let them go first."""

    @property
    def tick_interval_s(self) -> float: ...

    @property
    def stood_at(self) -> float:
        """When this node's newest candidacy began, for display."""

    @property
    def leader(self) -> NodeId | None:
        """Whom it takes for the leader, for status."""

    def close(self) -> None: ...


class DataPath(Protocol):
    """Publication, subscription and repair: everything that moves payload, what is large on threads of its
    own. Used on the control thread, but for what says otherwise."""

    def start(self, deliver: Deliver) -> None: ...

    @property
    def sockets(self) -> Iterable[object]:
        """What publications come in by, to be registered with the control thread's `zmq.Poller`."""

    @property
    def has_room(self) -> bool:
        """Whether to `receive`; an event is delivered when there is room again."""

    def receive(self) -> Iterator[None]:
        """Take the publications that have come, one at each step, without waiting for anything."""

    def mend(self, now: float) -> None:
        """As `Control.mend`, for what publications come in by."""

    def publish(self, effect: Publish, payload: Payload | None) -> None:
        """Queue a publication (None: a tombstone); answered by the event Published."""

    def allow_publish(self, epoch: Epoch, publish_index: int) -> None:
        """Raise (or for a new epoch set) the index up to which publications may leave."""

    def abandon_publications(self) -> None:
        """Let go of all payloads that are not published yet: their tenure is over."""

    def fetch(self, effect: Fetch) -> None:
        """Fetch what is lacking; answered by Fetched or FetchFailed. Replaces the stream's earlier fetch."""

    def cancel_fetch(self, effect: CancelFetch) -> None: ...

    def restore(self, head: Head, is_wanted: Callable[[], bool]) -> Payload:
        """Read, verify and decompress a checkpoint held here; raises CheckpointUnreadable, also if it is
        wanted no longer, which is asked before each chunk. Any thread."""

    def restore_small(self, heads: Iterable[Head]) -> dict[StreamName, Payload]:
        """Those of the checkpoints that are small and can be read, at once. Any thread."""

    def usage(self) -> dict[str, int]:
        """Counters: raw_bytes, sent_bytes, published, dropped, fetched_bytes, verified, refused."""

    def close(self) -> None: ...
