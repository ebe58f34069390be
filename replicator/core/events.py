"""What a replica is told: messages, what the disk has done, what the elector says, what the engine asks.

Events come in with the instant at which they are handled; `Replica.handle` answers with effects. A
*handle* names a payload that the driver holds; the core never sees its bytes.
"""

from __future__ import annotations

import enum

from msgspec import Struct

from replicator.core.messages import Message
from replicator.model import (
    Digest,
    Epoch,
    Generation,
    Head,
    Incarnation,
    Manifest,
    MemberRecord,
    NodeId,
    Process,
    Promise,
    Remembered,
    Sequence,
    StreamName,
)


class Why(enum.StrEnum):
    """Why the store did not accept."""

    FENCED = "fenced"  # a higher epoch is promised (R4)
    STALE = "stale"  # the stream's head is as new or newer (R19)
    INCOMPLETE = "incomplete"  # chunks are missing
    FULL = "full"  # the disk has no room (R21)


class Tick(Struct, frozen=True, gc=False):
    """The deadline that the replica asked for has come."""


class Received(Struct, frozen=True, gc=False):
    """A message from a peer whose envelope has been checked by the adapter against its key (R28)."""

    node: NodeId
    incarnation: Incarnation
    process: Process
    counter: int
    remembered: int | None  # of the recipient's store; none if the sender has heard another of that node last
    message: Message


class Granted(Struct, frozen=True, gc=False):
    """The elector says: you are the leader."""


class Revoked(Struct, frozen=True, gc=False):
    """The elector says: you are not (any longer) the leader."""


# ── what the store has done; completions come in the order of the writes ──


class PromiseWritten(Struct, frozen=True, gc=False):
    """The promise is durable. Every earlier completion of the store has been handed in before (R2)."""

    promise: Promise
    counter: int


class RecordWritten(Struct, frozen=True, gc=False):
    """The member record (or founding record) is durable, accepted in *epoch*."""

    record: MemberRecord
    epoch: Epoch
    founded: bool
    counter: int


class Accepted(Struct, frozen=True, gc=False):
    """The manifest with all its chunks is durable and is this replica's head of the stream."""

    manifest: Manifest
    epoch: Epoch
    counter: int


class AcceptRefused(Struct, frozen=True, gc=False):
    """The conditional write found its condition broken; nothing has changed."""

    manifest: Manifest
    epoch: Epoch
    why: Why


class HeadsAdopted(Struct, frozen=True, gc=False):
    """All heads but the exceptions are durably accepted in *epoch* (R10)."""

    epoch: Epoch
    counter: int


class HeadRotten(Struct, frozen=True, gc=False):
    """The stream's head of that digest cannot be read here: a digest is wrong or a chunk is gone (R22)."""

    stream: StreamName
    digest: Digest


class StoreRoom(Struct, frozen=True, gc=False):
    """The disk is full (*full*), or has room again."""

    full: bool


class StoreHangs(Struct, frozen=True, gc=False):
    """The disk takes longer over what it writes than a tenure may lapse (*hangs*), or has done with it."""

    hangs: bool


class StoreFailed(Struct, frozen=True, gc=False):
    """A sync or a write has failed: the store is not written again in this process (R21)."""

    reason: str


# ── what the data path has done ──


class ManifestReceived(Struct, frozen=True, gc=False):
    """A manifest has come by publication; its chunks may be here or not. *epoch* is the publication's, and
    *publish_index* says what `Seen` does."""

    node: NodeId
    incarnation: Incarnation
    epoch: Epoch
    manifest: Manifest
    publish_index: int = 0


class Seen(Struct, frozen=True, gc=False):
    """Everything published by that epoch's primary up to this index has been taken from the socket."""

    node: NodeId
    epoch: Epoch
    publish_index: int


class Published(Struct, frozen=True, gc=False):
    """The payload of *handle* is chunked, broadcast and handed to the store, which has all its chunks
    queued before whatever the core asks next. *publish_index* is the last one used."""

    handle: int
    manifest: Manifest
    epoch: Epoch
    publish_index: int


class Sent(Struct, frozen=True, gc=False):
    """Everything up to this index has left, and what comes next has waited for the window for a while."""

    epoch: Epoch
    publish_index: int


class Fetched(Struct, frozen=True, gc=False):
    """The head's manifest and all chunks are in the store, verified, not yet accepted."""

    number: int
    stream: StreamName
    manifest: Manifest


class FetchFailed(Struct, frozen=True, gc=False):
    """None of the sources could give what is lacking."""

    number: int
    stream: StreamName


class StartedWithout(Struct, frozen=True, gc=False):
    """The engine's tenure of *epoch* starts without that head of the stream: it turned out to be unreadable
    when it was to be restored, and nobody has mended it in time (R8, R22)."""

    epoch: Epoch
    stream: StreamName
    digest: Digest


# ── what the engine asks ──


class EngineReady(Struct, frozen=True, gc=False):
    """An engine is (or is no longer) there to take a tenure; without one a node gives grants away."""

    ready: bool


class Submitted(Struct, frozen=True, gc=False):
    """The engine submits a checkpoint in the tenure of *epoch*."""

    epoch: Epoch
    stream: StreamName
    sequence: Sequence
    handle: int
    size_bytes: int


class DeleteAsked(Struct, frozen=True, gc=False):
    """The engine deletes a stream, in the tenure of *epoch*; the tombstone takes *sequence*."""

    epoch: Epoch
    stream: StreamName
    sequence: Sequence
    handle: int


class ResignAsked(Struct, frozen=True, gc=False):
    """End the tenure, give the lease back, and hand over: to *successor* and nobody else, if one is named.
    With *if_able* too the tenure goes on when nobody can take over; answered by HandoverRefused then."""

    successor: NodeId | None = None
    if_able: bool = False


class AbandonAsked(Struct, frozen=True, gc=False):
    """An operator gives up a head that nobody can read: the one exception of I3 (R8).
    Answered at once, by Abandoned or AbandonRefused."""

    stream: StreamName


Event = (
    Tick | Received | Granted | Revoked | PromiseWritten | RecordWritten | Accepted | AcceptRefused
    | HeadsAdopted | HeadRotten | StoreRoom | StoreHangs | StoreFailed | ManifestReceived | Seen | Published
    | Sent | Fetched | FetchFailed | StartedWithout | EngineReady | Submitted | DeleteAsked | ResignAsked
    | AbandonAsked
)  # fmt: skip


class Durable(Struct, frozen=True, gc=False):
    """What the store held when it was opened: a replica's whole memory (section 3 of the protocol).

    *epoch_seen* is what it promised before it lost its memory: no word given, but epochs only grow (R13).
    """

    cluster: str
    node: NodeId
    incarnation: Incarnation
    promise: Promise | None
    record: MemberRecord | None
    record_epoch: Epoch
    founded: bool
    heads: tuple[Head, ...]
    committed: dict[StreamName, tuple[Generation, Sequence]]
    counter: int
    remembered: Remembered
    epoch_seen: Epoch = Epoch(0)
    lent_max_s: float = 0.0  # the longest lease that earlier processes may have lent to the promise's owner
