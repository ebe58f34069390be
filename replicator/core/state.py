"""What one replica knows: the mirror of its disk, its role, and the effects it wants done.

The machines (promiser, claimant, primary, backup, founding) share one `State` and change it only through
its methods. What is durable is changed by the store's completions alone, never by an intention (R2).
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import structs

from replicator.core import effects
from replicator.core.config import EPOCH_JUMP_MAX, Config
from replicator.core.effects import Effect
from replicator.core.events import Durable
from replicator.core.messages import Message
from replicator.core.quorum import ReplicaId, is_named
from replicator.model import (
    Digest,
    Epoch,
    Generation,
    Head,
    Manifest,
    MemberRecord,
    NodeId,
    Owner,
    Process,
    Promise,
    Role,
    Sequence,
    StreamName,
)

# Every change of role that can happen; any other is a bug.
ROLE_CHANGES: dict[Role, frozenset[Role]] = {
    Role.FOUNDING: frozenset({Role.JOINING, Role.BACKUP, Role.FAULTY}),
    Role.JOINING: frozenset({Role.BACKUP, Role.FAULTY}),
    Role.BACKUP: frozenset({Role.CANDIDATE, Role.JOINING, Role.FAULTY}),
    Role.CANDIDATE: frozenset({Role.BACKUP, Role.PRIMARY, Role.FAULTY}),
    Role.PRIMARY: frozenset({Role.BACKUP, Role.CANDIDATE, Role.FAULTY}),
    Role.FAULTY: frozenset(),
}


def head_of(manifest: Manifest, accepted_epoch: Epoch) -> Head:
    """The head that a replica has after accepting *manifest* in *accepted_epoch*."""
    return Head(
        stream=manifest.stream,
        generation=manifest.generation,
        epoch=manifest.epoch,
        sequence=manifest.sequence,
        accepted_epoch=accepted_epoch,
        digest=manifest.digest,
        tombstone=manifest.tombstone,
    )


class State:
    """The shared knowledge of one replica. *now* is the instant of the event in hand."""

    def __init__(
        self, config: Config, durable: Durable, process: Process, now: float, draw: Callable[[], float]
    ) -> None:
        self.config = config
        self.now = now
        self.draw = draw
        self.me = Owner(durable.node, durable.incarnation, process)
        self.id: ReplicaId = (durable.node, durable.incarnation)
        self.promise = durable.promise
        self.promising = durable.promise  # newest promise queued to the store; never below `promise`
        self.record = durable.record
        self.record_epoch = durable.record_epoch
        self.founded = durable.founded
        self.heads: dict[StreamName, Head] = {StreamName(h.stream): h for h in durable.heads}
        self.committed: dict[StreamName, tuple[Generation, Sequence]] = dict(durable.committed)
        self.forgotten: dict[StreamName, Sequence] = {}  # tombstones, since the newest promise
        self.counter = durable.counter
        self.remembered = dict(durable.remembered)
        self.epoch_seen = Epoch(max(durable.epoch_seen, durable.promise.epoch if durable.promise else 0))
        self.role = Role.BACKUP if self.is_member else Role.JOINING if self.founded else Role.FOUNDING
        self.full = False
        self.hangs = False  # the disk, says the store
        self.has_engine = config.has_engine
        self.fetching: dict[StreamName, effects.Fetch] = {}
        self._fetches_begun = 0
        # Bulk adoptions queued to the store, oldest first: epoch, digest and exceptions.
        self.adopting: list[tuple[Epoch, bytes, frozenset[StreamName]]] = []
        self.effects: list[Effect] = []

    # ── what may be done ──

    @property
    def record_order(self) -> tuple[int, int]:
        """Of its newest member record: the epoch it was accepted in, and its version. Newer is higher."""
        return self.record_epoch, self.record.version if self.record is not None else 0

    @property
    def is_member(self) -> bool:
        """Whether this incarnation counts in the newest record known here (R20)."""
        return self.founded and is_named(self.id, self.record)

    @property
    def may_promise(self) -> bool:
        """Whether a promise of this replica would count and be kept."""
        return self.is_member and self.role not in (Role.FAULTY, Role.JOINING)

    @property
    def can_lead(self) -> bool:
        """Whether a grant is of use here (T17). A full disk is no bar: what is here can be restored, and
        deletions make room; others have the preference (R21)."""
        return self.has_engine and self.may_promise

    @property
    def others(self) -> tuple[NodeId, ...]:
        """The other nodes of the record, old and new, in a fixed order."""
        if self.record is None:
            return ()
        nodes = {member.node for member in (*self.record.members, *self.record.old)}
        return tuple(NodeId(node) for node in sorted(nodes - {self.me.node}))

    @property
    def promised_epoch(self) -> Epoch:
        return Epoch(self.promise.epoch if self.promise else 0)

    def owns(self, epoch: Epoch) -> bool:
        """Whether *epoch* is promised durably here to this very process, and to nothing newer."""
        return self.promise == Promise(epoch, self.me) and self.promising == self.promise

    def disk_hangs(self, hangs: bool) -> None:
        """The store says that the disk has been at one write for long, or that it goes on."""
        self.hangs = hangs
        self.notice("the disk hangs: nothing is written here" if hangs else "the disk goes on")

    def saw_epoch(self, epoch: int) -> None:
        """An epoch exists somewhere: the next claim goes above it. It is come near to in steps as long as an
        epoch may jump: no word uses epochs up, and who was away for very long follows in the end (T21)."""
        self.epoch_seen = Epoch(max(self.epoch_seen, min(epoch, self.epoch_seen + EPOCH_JUMP_MAX)))

    def reaches(self, epoch: int) -> bool:
        """Whether an epoch is near enough to be promised; if not, it may be when it is told again (T21)."""
        if epoch <= self.epoch_seen + EPOCH_JUMP_MAX:
            return True
        self.saw_epoch(epoch)
        return False

    # ── what is wanted ──

    def emit(self, effect: Effect) -> None:
        self.effects.append(effect)

    def send(self, to: NodeId, message: Message) -> None:
        self.effects.append(effects.Send(to, message))

    def notice(self, text: str) -> None:
        self.effects.append(effects.Notice(text))

    def change_role(self, new: Role, reason: str) -> None:
        """Change the role, by the table; staying the same is not a change."""
        if new is self.role:
            return
        assert new in ROLE_CHANGES[self.role], f"{self.role} -> {new}"
        self.effects.append(effects.Changed(self.role, new, reason))
        self.role = new

    def write_promise(self, promise: Promise) -> None:
        """Queue a promise to the store; what was promised stays in force until it is durable."""
        assert self.promising is None or promise.epoch >= self.promising.epoch
        self.saw_epoch(promise.epoch)
        if promise != self.promising:
            self.promising = promise
            self.effects.append(effects.WritePromise(promise))

    def write_record(self, record: MemberRecord, epoch: Epoch, founded: bool) -> None:
        self.effects.append(effects.WriteRecord(record, epoch, founded))

    def accept(self, manifest: Manifest, epoch: Epoch) -> None:
        self.effects.append(effects.Accept(manifest, epoch))

    # ── repair: one fetch per stream, a bounded number at a time ──

    def fetch(
        self,
        stream: StreamName,
        digest: Digest,
        manifest: Manifest | None,
        sources: tuple[NodeId, ...],
        *,
        verify: bool = False,
        urgent: bool = False,
    ) -> bool:
        """Start bringing a checkpoint here; False while too much is under way or the stream is busy."""
        if stream in self.fetching or len(self.fetching) >= self.config.fetches_max:
            return False
        self._fetches_begun += 1
        fetch = effects.Fetch(self._fetches_begun, stream, digest, manifest, sources, verify, urgent)
        self.fetching[stream] = fetch
        self.effects.append(fetch)
        return True

    def cancel_fetch(self, stream: StreamName) -> None:
        """Stop bringing the stream's checkpoint here, if one is being brought."""
        if self.fetching.pop(stream, None) is not None:
            self.emit(effects.CancelFetch(stream))

    def end_fetch(self, stream: StreamName, number: int) -> Digest | None:
        """A fetch is over: what it was for, or None if it was cancelled before. Another may be under way in
        its place, for the same digest even, and what a cancelled one has brought may be deleted (R23)."""
        fetch = self.fetching.get(stream)
        if fetch is None or fetch.number != number:
            return None
        return self.fetching.pop(stream).digest

    def cancel_fetches(self) -> None:
        for stream in list(self.fetching):
            self.cancel_fetch(stream)

    # ── the mirror of the disk ──

    def accepted(self, manifest: Manifest, epoch: Epoch) -> Head:
        """The store has accepted: the mirror follows."""
        head = head_of(manifest, epoch)
        self.heads[StreamName(manifest.stream)] = head
        return head

    def adopt_heads(self, epoch: Epoch, exceptions: frozenset[StreamName], digest: bytes = b"") -> None:
        """Queue a bulk adoption of all heads but *exceptions* (R10); another's names a report's *digest*."""
        self.adopting.append((epoch, digest, exceptions))
        self.emit(effects.AdoptHeads(epoch, exceptions))

    def heads_adopted(self, epoch: Epoch) -> bytes:
        """The oldest bulk adoption queued for *epoch* is durable; those of other epochs were fenced. Returns
        the digest that it names."""
        while self.adopting[0][0] != epoch:
            self.adopting.pop(0)
        _, digest, exceptions = self.adopting.pop(0)
        for stream, head in self.heads.items():
            if stream not in exceptions and head.accepted_epoch < epoch:
                self.heads[stream] = structs.replace(head, accepted_epoch=epoch)
        return digest

    def is_old(self, stream: StreamName, epoch: int, sequence: int) -> bool:
        """Whether what is held here is not older, or a deletion of the present epoch that is forgotten: late
        frames of what it deleted do not bring that back (R19, R23)."""
        head = self.heads.get(stream)
        return sequence <= self.forgotten.get(stream, 0) or bool(head and (epoch, sequence) <= head.order)

    def lacks_room_for(self, theirs: Head) -> bool:
        """Whether a full disk refuses this head: not a deletion, nor what is here and only to be accepted
        in a newer epoch (R9, R21)."""
        own = self.heads.get(StreamName(theirs.stream))
        is_here = own is not None and own.readable and own.same_as(theirs)
        return self.full and not theirs.tombstone and not is_here

    def mark_committed(self, head: Head) -> None:
        """Note a commit point, for retention and status (R15)."""
        stream = StreamName(head.stream)
        self.committed[stream] = (Generation(head.generation), Sequence(head.sequence))
        self.emit(effects.MarkCommitted(stream, Generation(head.generation), head.position))

    def forget(self, stream: StreamName, generation: Generation, sequence: Sequence) -> None:
        """Every member holds the tombstone: it may go (R23)."""
        self.forgotten[stream] = max(sequence, self.forgotten.get(stream, sequence))
        head = self.heads.get(stream)
        if head is not None and head.tombstone and head.sequence == sequence:
            del self.heads[stream]
            if self.committed.pop(stream, None) != (generation, sequence):
                self.emit(effects.Standby(head))  # it has committed: the word of that is late, or lost
            self.cancel_fetch(stream)
            self.emit(effects.ForgetTombstone(stream, generation, sequence))
