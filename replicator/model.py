"""The nouns of the system: what a checkpoint, a manifest, a head, an owner and a member are.

Every other module speaks in these types; they hold no behaviour beyond order and identity. The words
are those of the protocol: a *head* is a replica's newest accepted checkpoint of a stream, an *owner*
is one process of one node, an *epoch* is the fencing token that engines hand to their sinks.

All of them are frozen, slotted and encodable as compact MessagePack arrays, so one definition serves
the core, the wire and the disk. Bounds are part of the types: whatever decodes is within them (R28);
messages of every kind are made of the same ones.
"""

from __future__ import annotations

import enum
from typing import Annotated, NewType

from msgspec import Meta, Struct

Buffer = bytes | bytearray | memoryview

NodeId = NewType("NodeId", str)
StreamName = NewType("StreamName", str)
Epoch = NewType("Epoch", int)
Sequence = NewType("Sequence", int)
Generation = NewType("Generation", int)
Incarnation = NewType("Incarnation", bytes)
Process = NewType("Process", bytes)
Digest = NewType("Digest", bytes)
Remembered = dict[NodeId, tuple[tuple[Incarnation, int], ...]]  # of peers' last stores, the newest counters

NAME_BYTES_MAX = 255
META_BYTES_MAX = 4096
PARTS_MAX = 4096
CHUNKS_MAX = 65_536
MEMBERS_MAX = 15
COUNT_MAX = 2**62
DIGEST_BYTES = 32
ID_BYTES = 16

Name = Annotated[str, Meta(min_length=1, max_length=NAME_BYTES_MAX)]
PartName = Annotated[str, Meta(max_length=NAME_BYTES_MAX)]
Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
Size = Annotated[int, Meta(ge=0, le=2**32)]
DigestBytes = Annotated[bytes, Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
IdBytes = Annotated[bytes, Meta(min_length=ID_BYTES, max_length=ID_BYTES)]
MetaBytes = Annotated[bytes, Meta(max_length=META_BYTES_MAX)]


class Position(Struct, frozen=True, gc=False, array_like=True, order=True):
    """Where a checkpoint stands: the epoch it was submitted in, and its sequence in the stream.

    Sinks name their transactions by it: a sequence alone can exist in two epochs (T4, T5).
    """

    epoch: Count
    sequence: Count


class Owner(Struct, frozen=True, gc=False, array_like=True):
    """Who owns an epoch: one process of one incarnation of one node; never resumed after a restart (R1)."""

    node: Name
    incarnation: IdBytes
    process: IdBytes


class Promise(Struct, frozen=True, gc=False, array_like=True):
    """The durable word to refuse every epoch below *epoch*, and *epoch* itself from any other owner."""

    epoch: Count
    owner: Owner


class Codec(enum.IntEnum):
    """How a chunk's stored bytes relate to its raw bytes."""

    NONE = 0
    LZ4 = 1


class Chunk(Struct, frozen=True, gc=False, array_like=True):
    """One piece of a payload: its digests and lengths, raw and as stored and sent.

    *stored_digest* is what backups, repair and scrub check; *raw_digest* is what the primary looks up
    among known chunks and what a restore checks. Both are BLAKE3, 32 bytes.
    """

    raw_digest: DigestBytes
    raw_bytes: Size
    stored_digest: DigestBytes
    stored_bytes: Size
    codec: Codec


class Part(Struct, frozen=True, gc=False, array_like=True):
    """One named part of a payload, as its ordered chunks; a plain payload is one part named ''."""

    name: PartName
    chunks: Annotated[tuple[Chunk, ...], Meta(max_length=CHUNKS_MAX)]


class Manifest(Struct, frozen=True, gc=False, array_like=True):
    """What a checkpoint consists of. Its chunks travel and are stored apart, each once.

    *digest* identifies the checkpoint (over stream, generation, position, meta and raw digests); the
    codec computes it and checks it wherever a manifest comes in. *is_mapping* tells a payload given as
    a mapping of parts from plain bytes. A *tombstone* is a manifest without parts: its stream is deleted.
    """

    stream: Name
    generation: Count
    epoch: Count
    sequence: Count
    parts: Annotated[tuple[Part, ...], Meta(max_length=PARTS_MAX)]
    meta: MetaBytes
    is_mapping: bool
    tombstone: bool
    digest: DigestBytes

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.sequence)

    @property
    def raw_bytes(self) -> int:
        return sum([chunk.raw_bytes for part in self.parts for chunk in part.chunks])

    @property
    def stored_bytes(self) -> int:
        return sum(chunk.stored_bytes for part in self.parts for chunk in part.chunks)


class Head(Struct, frozen=True, gc=False, array_like=True):
    """A replica's newest accepted checkpoint of a stream, as it is reported in a promise (R6).

    *epoch* and *sequence* are the checkpoint's own position; *accepted_epoch* is the epoch in which this
    replica accepted it last (adoption raises it, R9). Heads are ordered by (accepted_epoch, sequence),
    never by sequence alone (R7, T2). *readable* is false when its bytes are known to be damaged here.
    """

    stream: Name
    generation: Count
    epoch: Count
    sequence: Count
    accepted_epoch: Count
    digest: DigestBytes
    tombstone: bool = False
    readable: bool = True

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.sequence)

    @property
    def order(self) -> tuple[int, int]:
        """What R7 compares."""
        return (self.accepted_epoch, self.sequence)

    def same_as(self, other: Head | None) -> bool:
        """Whether both are the same checkpoint, in whatever epoch each was accepted."""
        return other is not None and self.digest == other.digest and self.sequence == other.sequence


class Member(Struct, frozen=True, gc=False, array_like=True, order=True):
    """One node that counts in quorums, by its name and the incarnation of its store (R20)."""

    node: Name
    incarnation: IdBytes
    address: Annotated[str, Meta(max_length=NAME_BYTES_MAX)] = ""
    public_key: Annotated[str, Meta(max_length=NAME_BYTES_MAX)] = ""


class MemberRecord(Struct, frozen=True, gc=False, array_like=True):
    """Who the members are; during a change also who they were (R27).

    *old* is empty except in the joint record of a change, from whose proposal on every quorum is a
    majority of *members* and a majority of *old*.
    """

    version: Count
    members: Annotated[tuple[Member, ...], Meta(min_length=1, max_length=MEMBERS_MAX)]
    old: Annotated[tuple[Member, ...], Meta(max_length=MEMBERS_MAX)] = ()

    def find(self, node: NodeId) -> Member | None:
        """The present member of that name, or None."""
        return next((member for member in self.members if member.node == node), None)


class Role(enum.StrEnum):
    """What a replica is just now, as status shows it."""

    FOUNDING = "founding"
    JOINING = "joining"
    BACKUP = "backup"
    CANDIDATE = "candidate"
    PRIMARY = "primary"
    FAULTY = "faulty"


class Payload(Struct, frozen=True, gc=False):
    """A checkpoint's bytes as an engine gives and gets them: named parts and a few bytes of meta.

    Plain bytes are one part named ''; *is_mapping* tells the two apart. Parts are any contiguous
    buffers; they are not copied, and stay untouched until the payload is released.
    """

    parts: dict[str, Buffer]
    meta: bytes = b""
    is_mapping: bool = False

    @property
    def size_bytes(self) -> int:
        return sum(len(part) for part in self.parts.values())
