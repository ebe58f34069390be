"""What the engine's process and its worker say to each other.

One protocol, whether the worker is a child process or a thread: each message is one frame of MessagePack
(a tagged array), followed by one frame for each part of a payload. The order is the order of sending;
nothing is lost while both ends live, and when one dies the tenure is over.

A *handle* names one submitted checkpoint or deletion; the engine's end counts them and never uses one
twice. Per stream one handle is with the worker, from its Submit or Delete until Committed, Superseded or
Aborted: that is the credit, for which a Delete waits only where another Delete has it. Stored and HeldByAll
come in between and after, and Released whenever the worker reads the payload no longer, also for a handle
whose tenure has ended. Of a payload that was read where it lies Released is said only if somebody waits for
it: the line has a word of memory for that.

Checkpoints and short answers take the direct line (`link.line`) while it has room, all else the link. What
was said on the line is heard before what was said after it on the link; what took the link, because the
line was full, may be overtaken by what is said on the line later. That does no harm: of one handle a
Released may cross all others, and a Stored that comes after the handle's end means nothing any more; another
checkpoint of the stream is sent only when the end was heard. An end may overtake the start or end of a
tenure, whose checkpoint then has a known outcome. HeldByAll means nothing before its Committed, so it
never takes the line.

A tenure's restored streams come before its TenureStarted: for each stream Restored (or its place in a
RestoredSmall), RestoredKnown, RestoredUnavailable or RestoredDeleted, so that the engine's end knows the
sequences to go on from. A tenure that was not ended before the next one starts ends with that.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from replicator.model import COUNT_MAX, PARTS_MAX, Buffer, Count, MetaBytes, Name, PartName, Payload, Position

TEXT_MAX = 65_536

_PartNames = Annotated[tuple[PartName, ...], Meta(max_length=PARTS_MAX)]
_Text = Annotated[str, Meta(max_length=TEXT_MAX)]
_Holders = tuple[Name, ...]


# ── how messages begin ──


class OfCheckpoint(Struct, frozen=True, gc=False, array_like=True):
    """What is said of a checkpoint, or a deletion, begins so."""

    epoch: Count
    stream: Name
    sequence: Count
    handle: Count


class OfStream(Struct, frozen=True, gc=False, array_like=True):
    """What the tenure of *epoch* starts with of a stream begins so."""

    epoch: Count
    stream: Name
    position: Position


# ── engine to worker ──


class Ready(Struct, frozen=True, array_like=True, tag=True):
    """Whether an engine is there to take a tenure; without one the node gives leadership away."""

    ready: bool


class Submit(OfCheckpoint, frozen=True, tag=True):
    """A checkpoint; its parts follow as frames, in the order of their names."""

    meta: MetaBytes
    part_names: _PartNames
    is_mapping: bool


class Place(Struct, frozen=True, array_like=True, gc=False):
    """Where a part of a payload lies in the engine's memory."""

    name: PartName
    address: Count
    size_bytes: Count


class SubmitInPlace(OfCheckpoint, frozen=True, tag=True):
    """A checkpoint that the worker reads where it lies. Goes over the direct line (`link.line`), never the
    link; it means what a Submit means and is one for everybody but the line."""

    meta: MetaBytes
    places: Annotated[tuple[Place, ...], Meta(max_length=PARTS_MAX)]
    is_mapping: bool


class Delete(OfCheckpoint, frozen=True, tag=True):
    """The stream is deleted; the tombstone takes *sequence*. Answered like a Submit."""


class Resign(Struct, frozen=True, array_like=True, tag=True):
    """End the tenure of *epoch* and hand over, to *successor* if one is named. Answered by TenureEnded, or by
    ResignRefused if the named one cannot take over."""

    epoch: Count
    successor: Name | None = None


class Follow(Struct, frozen=True, array_like=True, tag=True):
    """Whether the engine wants committed checkpoints while this node is a backup."""

    on: bool


class StandbyTaken(Struct, frozen=True, array_like=True, tag=True):
    """The engine is done with what it was offered of that stream; the newest one may follow."""

    stream: Name
    position: Position


class AskStatus(Struct, frozen=True, array_like=True, tag=True):
    """Answered by StatusReply with the same *nonce*."""

    nonce: Count


class Close(Struct, frozen=True, array_like=True, tag=True):
    """Give the lease back, close the store and exit."""


# ── worker to engine ──


class Started(Struct, frozen=True, array_like=True, tag=True):
    """The worker's store and sockets are open; its first message. Before it the engine's end is silent.
    *reads_memory* says that it can read the engine's memory: checkpoints may take the direct line."""

    node: Name
    reads_memory: bool = False


class Failed(Struct, frozen=True, array_like=True, tag=True):
    """The worker cannot go on and exits. *kind* is the name of a class of `errors`; *text* its message."""

    kind: Name
    text: _Text


class Restored(OfStream, frozen=True, tag=True):
    """The tenure of *epoch* starts with this checkpoint of the stream; its parts follow as frames."""

    meta: MetaBytes
    part_names: _PartNames
    is_mapping: bool


class RestoredSmall(Struct, frozen=True, array_like=True, tag=True):
    """As many `Restored` as there are checkpoints here, each with its parts: small ones share a frame."""

    checkpoints: tuple[tuple[Restored, tuple[bytes, ...]], ...]


class RestoredKnown(OfStream, frozen=True, tag=True):
    """The tenure of *epoch* starts with this checkpoint of the stream: the one that was offered last to the
    warm standby, whose bytes are not sent again."""


class RestoredUnavailable(OfStream, frozen=True, tag=True):
    """The stream's head is there but nobody can read it now; asking for it raises *text* (R8)."""

    text: _Text


class RestoredDeleted(OfStream, frozen=True, tag=True):
    """The stream's head is a tombstone: nothing to restore, but its sequences go on from there (R7)."""


class TenureStarted(Struct, frozen=True, array_like=True, tag=True):
    """This node is primary in *epoch*; its lease word is *lease_slot*.

    *unchanged* says that everything restored is what the engine had itself (R11). *instants* are the
    moments of the takeover by name, in seconds of CLOCK_BOOTTIME; for display only.
    """

    epoch: Count
    lease_slot: Count
    unchanged: bool = False
    instants: dict[str, float] = {}


class TenureEnded(Struct, frozen=True, array_like=True, tag=True):
    """The tenure of *epoch* is over for good; what is open in it is unknown (R17a)."""

    epoch: Count
    reason: _Text


class ResignRefused(Struct, frozen=True, array_like=True, tag=True):
    """The named successor cannot take over: the tenure of *epoch* goes on."""

    epoch: Count
    reason: _Text


class Stored(Struct, frozen=True, array_like=True, tag=True):
    """The checkpoint is durable on this node; not committed yet."""

    handle: Count


class Committed(Struct, frozen=True, array_like=True, tag=True):
    """The checkpoint is committed at *position*; *stages* are spans in seconds by name. The lease to report
    it under lasts until *until_ns*, an instant of CLOCK_BOOTTIME (R25)."""

    handle: Count
    position: Position
    holders: _Holders
    stages: dict[str, float] = {}
    until_ns: Count = COUNT_MAX


class HeldByAll(Struct, frozen=True, array_like=True, tag=True):
    """Every member that is up holds the committed checkpoint."""

    handle: Count
    holders: _Holders


class Superseded(Struct, frozen=True, array_like=True, tag=True):
    """The checkpoint gave way to the one at *by*, which has committed."""

    handle: Count
    by: Position


class Aborted(Struct, frozen=True, array_like=True, tag=True):
    """What became of the checkpoint will not be known in this tenure (R17a)."""

    handle: Count
    reason: _Text


class Released(Struct, frozen=True, array_like=True, tag=True):
    """The worker reads the payload no longer. May come twice."""

    handle: Count


class Unread(Struct, frozen=True, array_like=True, tag=True):
    """The worker cannot read the engine's memory any more: what was said on the direct line and has not been
    read has to be sent by the link, as everything from then on."""

    reason: _Text


class StandbyOffered(Struct, frozen=True, array_like=True, tag=True):
    """A committed checkpoint for a warm standby; its parts follow as frames. One per stream until taken. The
    engine's end keeps the newest of each stream until its next tenure has started, or StandbyDeleted."""

    stream: Name
    position: Position
    meta: MetaBytes
    part_names: _PartNames
    is_mapping: bool


class StandbyDeleted(Struct, frozen=True, array_like=True, tag=True):
    """The stream was deleted: what was offered of it is needed no more."""

    stream: Name


class StatusReply(Struct, frozen=True, array_like=True, tag=True):
    """The node's status as a JSON object."""

    nonce: Count
    report: bytes


ToWorker = Ready | Submit | Delete | Resign | Follow | StandbyTaken | AskStatus | Close
ToEngine = (
    Started | Failed | Restored | RestoredSmall | RestoredKnown | RestoredUnavailable | RestoredDeleted
    | TenureStarted | TenureEnded | ResignRefused | Stored | Committed | HeldByAll | Superseded | Aborted
    | Released | Unread | StandbyOffered | StandbyDeleted | StatusReply
)  # fmt: skip
ShortToEngine = Stored | Committed | Superseded | Aborted | Released | Unread  # these take the direct line
WithPayload = Submit | Restored | StandbyOffered


def payload_of(message: WithPayload, parts: list[memoryview]) -> Payload:
    """The payload that came with *message*; its parts are the frames themselves, not copied."""
    return Payload(dict(zip(message.part_names, parts, strict=True)), message.meta, message.is_mapping)


def part_frames(payload: Payload) -> tuple[tuple[str, ...], tuple[Buffer, ...]]:
    """The part names for a message and the frames that follow it, in the same order."""
    return tuple(payload.parts), tuple(payload.parts.values())
