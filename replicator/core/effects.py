"""What a replica wants done. The driver performs effects in order, in batches, at its own pace.

Store effects are answered by the events of the same noun; sends are not answered and may be lost.
"""

from __future__ import annotations

from msgspec import Struct

from replicator.core.messages import Message
from replicator.model import (
    Digest,
    Epoch,
    Generation,
    Head,
    Manifest,
    MemberRecord,
    NodeId,
    Position,
    Promise,
    Remembered,
    Role,
    Sequence,
    StreamName,
)


class Send(Struct, frozen=True, gc=False):
    """Send a control message. *counter* travels in the envelope by the driver's hand."""

    to: NodeId
    message: Message


# ── store; one writer, first in first out, but promises and records overtake payload ──


class WritePromise(Struct, frozen=True, gc=False):
    """Make the promise durable, synced whatever the durability setting; answered by PromiseWritten."""

    promise: Promise


class WriteRecord(Struct, frozen=True, gc=False):
    """Make the member record durable, synced; answered by RecordWritten."""

    record: MemberRecord
    epoch: Epoch
    founded: bool


class Accept(Struct, frozen=True, gc=False):
    """Accept the manifest in *epoch* if that epoch is still the promised one, all chunks are there, and
    (epoch, sequence) is above the head's order. Checked when it is written (R4).
    Answered by Accepted or AcceptRefused. The stream's retained records that are not older (same or
    higher sequence, other digest) are dropped by it (R10)."""

    manifest: Manifest
    epoch: Epoch


class AdoptHeads(Struct, frozen=True, gc=False):
    """Accept all present heads but those of the streams in *exceptions* under *epoch*, as one record,
    if that epoch is still the promised one; answered by HeadsAdopted, or not at all if fenced."""

    epoch: Epoch
    exceptions: frozenset[StreamName]


class MarkCommitted(Struct, frozen=True, gc=False):
    """Note that the stream's checkpoint at *position* is committed: a hint for retention, never synced."""

    stream: StreamName
    generation: Generation
    position: Position


class ForgetTombstone(Struct, frozen=True, gc=False):
    """Every member holds the tombstone: drop it, if it still is the stream's head (R23)."""

    stream: StreamName
    generation: Generation
    sequence: Sequence


class RememberCounters(Struct, frozen=True, gc=False):
    """Keep the newest counters heard of the peers with the next durable write (R21)."""

    counters: Remembered


# ── data path ──


class Publish(Struct, frozen=True, gc=False):
    """Chunk, compress and broadcast the payload of *handle* and give its new chunks to the store;
    answered by Published. Broadcasts the manifest as well. Without a handle (0) it is the tombstone."""

    handle: int
    stream: StreamName
    generation: Generation
    epoch: Epoch
    sequence: Sequence
    tombstone: bool = False


class AllowPublish(Struct, frozen=True, gc=False):
    """Publications of *epoch* up to this index may leave; beyond it the publisher waits (R16)."""

    epoch: Epoch
    publish_index: int


class Fetch(Struct, frozen=True, gc=False):
    """Bring the head's manifest and all chunks that are lacking here into the store, from *sources* in
    that order, with bounded credit; answered by Fetched or FetchFailed of the same *number*. One per
    stream: a new one replaces an old one. *manifest* is given when it is known already. If *verify* is
    set, the chunks present here are read and checked too (R22). If it is *urgent*, a claim waits for it;
    else it leaves those their time who commit meanwhile."""

    number: int
    stream: StreamName
    digest: Digest
    manifest: Manifest | None
    sources: tuple[NodeId, ...]
    verify: bool = False
    urgent: bool = False


class CancelFetch(Struct, frozen=True, gc=False):
    """The fetch of that stream is not needed any longer."""

    stream: StreamName


class Release(Struct, frozen=True, gc=False):
    """The payload of *handle* is not needed any longer; no `Publish` of it is unanswered in this epoch."""

    handle: int


# ── engine ──


class StartTenure(Struct, frozen=True, gc=False):
    """Hand the restored heads to the engine: it is primary in *epoch*. Tombstones are among them, for the
    sequences that go on from theirs (R7). *unavailable* streams raise when asked for (R8). *unchanged*
    says that they are what the engine's previous tenure had (R11)."""

    epoch: Epoch
    heads: tuple[Head, ...]
    unavailable: tuple[Head, ...]
    unchanged: bool


class EndTenure(Struct, frozen=True, gc=False):
    """The tenure of *epoch* is over for good. Tickets still open are unknown (R17a)."""

    epoch: Epoch
    reason: str


class SetLease(Struct, frozen=True, gc=False):
    """The tenure of *epoch* is active until *deadline*, an instant of the core's clock; 0 means not."""

    epoch: Epoch
    deadline: float


class Commit(Struct, frozen=True, gc=False):
    """The checkpoint of *handle* is committed at *position* (0 when the engine has no ticket for it).
    *holders* are the members known to hold it."""

    handle: int
    stream: StreamName
    generation: Generation
    position: Position
    holders: tuple[NodeId, ...]


class StoredLocally(Struct, frozen=True, gc=False):
    """The primary's own acceptance of *handle* is durable; not committed yet."""

    handle: int


class HeldByAll(Struct, frozen=True, gc=False):
    """Every member that is up holds the committed checkpoint of *handle* (REPLICATOR_ACKS=all)."""

    handle: int
    holders: tuple[NodeId, ...]


class Supersede(Struct, frozen=True, gc=False):
    """The checkpoint of *handle* gave way to a newer one of its stream that has committed."""

    handle: int
    stream: StreamName
    by: Position


class Abort(Struct, frozen=True, gc=False):
    """The outcome of *handle* will never be known in this tenure (R17a)."""

    handle: int
    reason: str


class Standby(Struct, frozen=True, gc=False):
    """This head is committed and held here: a warm standby may load it; a tombstone ends what it has."""

    head: Head


class Transfer(Struct, frozen=True, gc=False):
    """Give the elector's leadership to *to* (or to whom it likes): this node cannot or will not lead."""

    to: NodeId | None


class HandoverRefused(Struct, frozen=True, gc=False):
    """The tenure goes on: nobody that was asked for can take over."""

    reason: str


class Abandoned(Struct, frozen=True, gc=False):
    """The checkpoint at *head* is given up by the operator's word. *instead* takes its place once it is held
    here, or a tombstone if there is none, and a new tenure is given it (R8)."""

    head: Head
    instead: Head | None


class AbandonRefused(Struct, frozen=True, gc=False):
    """Nothing was given up."""

    reason: str


class Changed(Struct, frozen=True, gc=False):
    """The replica's role changed; logged in one fixed sentence."""

    old: Role
    new: Role
    reason: str


class Notice(Struct, frozen=True, gc=False):
    """A sentence for the operator's log: a refusal, a fault, what is waited for."""

    text: str


DURABLE = frozenset({WritePromise, WriteRecord, Accept, AdoptHeads})  # synced, and counted by the store

Effect = (
    Send | WritePromise | WriteRecord | Accept | AdoptHeads | MarkCommitted | ForgetTombstone
    | RememberCounters | Publish | AllowPublish | Fetch | CancelFetch | Release | StartTenure | EndTenure
    | SetLease | Commit | StoredLocally | HeldByAll | Supersede | Abort | Standby | Transfer
    | HandoverRefused | Abandoned | AbandonRefused | Changed | Notice
)  # fmt: skip
