"""What replicas say to each other on the control channel.

Every message travels in one `Envelope` that names the protocol version, the cluster and the sender's
incarnation and process (R28); a mismatch is refused before the message is looked at. Counts are bounded
by their types. Messages are idempotent: any of them may be lost, repeated or arrive late (R19).
"""

from __future__ import annotations

import enum
from typing import Annotated

from msgspec import Meta, Struct

from replicator.model import Count, DigestBytes, Head, IdBytes, MemberRecord, Name, Position, Promise

PROTOCOL_VERSION = 1
HEADS_MAX = 1024  # of any message
HEADS_PER_PAGE = 128  # 7 to 41 KB: heartbeats queue behind a page
NAMES_PER_PAGE = 2048
ACKS_PER_MESSAGE = 2048
PAGES_MAX = 65_536

_Page = Annotated[int, Meta(ge=0, lt=PAGES_MAX)]
_Heads = Annotated[tuple[Head, ...], Meta(max_length=HEADS_MAX)]


class Reason(enum.StrEnum):
    """Why a probe, claim or publication is refused."""

    PROMISED = "promised"  # a higher epoch, or the same one of another owner, is promised
    LEASE = "lease"  # the lease is lent to another owner
    NOT_MEMBER = "not-member"  # the sender's or the answerer's incarnation does not count
    JUMP = "jump"  # the epoch jumps further than is allowed (T21)
    UNKNOWN_HEADS = "unknown-heads"  # a bulk adoption names heads that this process did not report


class Echo(Struct, frozen=True, gc=False, array_like=True):
    """A lender's own clock at an answer of its, given back to it in the next question (R24)."""

    process: IdBytes
    at: float


class Hello(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Who the sender is and what it knows of the cluster; sent on contact, while founding and joining."""

    founded: bool
    record: MemberRecord | None
    address: str
    public_key: str


class Found(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """The founding coordinator proposes the first member record; durable before it is answered (R20)."""

    record: MemberRecord


class FoundStored(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """The proposed record is durable here."""

    record: MemberRecord


class Founded(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """The record is durable on all founders: the cluster exists."""

    record: MemberRecord


class Probe(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Would you promise me an epoch? Changes nothing durable (R5)."""

    nonce: Count
    record_version: Count = 0  # of the newest member record that the asker knows
    record_epoch: Count = 0  # and the epoch it was accepted in


class ProbeAnswer(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Whether the sender would promise; *epoch* is the highest it has seen.

    *record*, accepted in *record_epoch*, is its newest member record: what a majority is, is for the newest
    one heard to say. *has_room* says that the sender could lead, and its disk takes new checkpoints (R21).
    """

    nonce: Count
    would: bool
    epoch: Count
    reason: Reason | None = None
    record: MemberRecord | None = None
    record_epoch: Count = 0
    has_room: bool = False


class Claim(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Promise me this epoch and tell me that page of your heads. The owner is the envelope's sender.

    The first page says how many there are. Each is asked for by itself, so that the asker bounds what is
    under way: elections and heartbeats queue behind it (R16).
    """

    epoch: Count
    nonce: Count
    record_version: Count = 0  # as in a probe
    record_epoch: Count = 0
    page: _Page = 0


class Promised(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """The page that a claim asks for: the promise is durable, the heads were read after it (R2, R6).

    *record* and *record_epoch* are the sender's newest member record and the epoch it was accepted in.
    """

    epoch: Count
    nonce: Count
    page: _Page
    page_count: Annotated[int, Meta(ge=1, le=PAGES_MAX)]
    heads: _Heads
    record: MemberRecord
    record_epoch: Count
    echo: Echo


class Refusal(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """*epoch* is refused; *promised* is what the sender has promised, so that a deposed primary learns.

    *full*: its disk has no room, which nobody hears of otherwise while it is at a higher promise.
    """

    epoch: Count
    promised: Promise | None
    reason: Reason
    full: bool = False


class Adopt(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Accept all heads as you reported them, but for *exceptions*, under this epoch (R9, R10).

    *digest* is over the reported heads. The member record is told before it (`Members`).
    """

    epoch: Count
    digest: DigestBytes
    page: _Page
    page_count: Annotated[int, Meta(ge=1, le=PAGES_MAX)]
    exceptions: Annotated[tuple[Name, ...], Meta(max_length=NAMES_PER_PAGE)]


class Adopted(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """The bulk adoption of that digest is durable in that epoch."""

    epoch: Count
    digest: DigestBytes


class Members(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Accept this member record in this epoch (R27)."""

    epoch: Count
    record: MemberRecord


class MembersAccepted(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """That version of the member record is durable here, accepted in that epoch."""

    epoch: Count
    version: Count


class Behind(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """These are heads of mine that you have not acknowledged; fetch what you lack (R18)."""

    epoch: Count
    heads: _Heads


class Acked(Struct, frozen=True, gc=False, array_like=True):
    """One acknowledged checkpoint."""

    stream: Name
    generation: Count
    sequence: Count
    digest: DigestBytes


class Ack(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """These checkpoints are durable here, accepted in this epoch (R13)."""

    epoch: Count
    acks: Annotated[tuple[Acked, ...], Meta(max_length=ACKS_PER_MESSAGE)]


class Progress(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Everything published in this epoch up to this index has been seen or given up on (R16)."""

    epoch: Count
    publish_index: Count


class CommitPoint(Struct, frozen=True, gc=False, array_like=True):
    """A stream's commit point, a hint for warm standby and retention (R15)."""

    stream: Name
    generation: Count
    position: Position


class Heartbeat(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """The primary's question for the lease, its publish index and its newest commit points.

    *echo* is the newest answer's of this very recipient: without a fresh one nothing is lent (R24).
    """

    epoch: Count
    question: Count
    lease_s: Annotated[float, Meta(ge=0, le=60)]
    echo: Echo | None
    publish_index: Count
    commits: Annotated[tuple[CommitPoint, ...], Meta(max_length=ACKS_PER_MESSAGE)]


class HeartbeatAnswer(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Whether the question was lent the lease; *full* says that the disk refuses new checkpoints, *can_lead*
    whether the sender could take a tenure now. *seen_index* says again what the newest `Progress` said, so
    that a lost one costs an interval."""

    epoch: Count
    question: Count
    lends: bool
    echo: Echo
    full: bool
    can_lead: bool
    seen_index: Count = 0


class LeaseReturned(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """The owner of this epoch gives the lease back: it has ended its tenure (R26)."""

    epoch: Count


class Forget(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """These tombstones are held by every member: they may be forgotten (R23)."""

    epoch: Count
    tombstones: Annotated[tuple[Acked, ...], Meta(max_length=ACKS_PER_MESSAGE)]


class Raft(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """A message between electors, carried for them and never looked at by the core."""

    payload: Annotated[bytes, Meta(max_length=262_144)]


class StatusRequest(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Asks a member for its status."""

    nonce: Count


class StatusReport(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """A member's status, as compressed JSON."""

    nonce: Count
    report: Annotated[bytes, Meta(max_length=16_384)]


Message = (
    Hello | Found | FoundStored | Founded | Probe | ProbeAnswer | Claim | Promised | Refusal | Adopt
    | Adopted | Members | MembersAccepted | Behind | Ack | Progress | Heartbeat | HeartbeatAnswer
    | LeaseReturned | Forget | Raft | StatusRequest | StatusReport
)  # fmt: skip


class Envelope(Struct, frozen=True, gc=False, array_like=True):
    """What wraps every control message (R28).

    *counter* is the sender's durable counter, or what it was when its store was opened as long as the
    recipient has not been heard; *remembered* is the newest counter that the sender knows of the
    recipient's incarnation *recipient*: a store that is behind what a peer remembers went back in time
    (R21, T19). *recipient* is empty when the sender has not heard the recipient yet.
    """

    version: Annotated[int, Meta(ge=0, le=255)]
    cluster: Name
    node: Name
    incarnation: IdBytes
    process: IdBytes
    counter: Count
    remembered: Count
    message: Message
    recipient: Annotated[bytes, Meta(max_length=16)] = b""

    def remembered_of(self, incarnation: bytes) -> int | None:
        """What the sender remembers of that store; what it says of another says nothing of it (R21)."""
        return self.remembered if self.recipient == incarnation else None
