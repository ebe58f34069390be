"""The replica: one node's whole protocol, and nothing but the protocol.

`handle` takes one event and the instant it is handled at, and returns the effects that it asks for, in
order. `deadline` is the instant by which a `Tick` should come. There is no clock, no randomness, no
socket and no disk in here: the driver has them, or the simulator. Read the machines in the order of a
checkpoint's life: `founding`, `promise`, `claim`, `recovery`, `window`, `commit`, `backup`, `lease`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypedDict

from replicator.core import effects, events, messages
from replicator.core.backup import Backup
from replicator.core.claim import Claimant
from replicator.core.config import Config
from replicator.core.counters import BEHIND, Counters
from replicator.core.effects import Effect
from replicator.core.events import Durable, Event
from replicator.core.founding import Founding
from replicator.core.lease import Lender
from replicator.core.primary import Primary
from replicator.core.promise import Promiser
from replicator.core.quorum import ReplicaId
from replicator.core.state import State
from replicator.core.window import Flight
from replicator.model import Generation, Head, Incarnation, NodeId, Owner, Process, Role, Sequence, StreamName


class ReplicaStatus(TypedDict):
    """What a replica knows of itself; as a primary also how many streams each follower lacks,
    None for one that has not told yet in this epoch what it holds.

    *changing* says that a change of members is under way: quorums are of the old and the new ones (R27).
    *heads* and *committed*, the generation and sequence known to be committed, are by stream. They are the
    replica's own, to be looked at before it handles the next event. *withheld* are the streams that the
    tenure is without (R8).
    """

    role: str
    epoch: int
    owner: str | None
    lease_s: float
    active: bool
    waiting_for: str
    changing: bool
    full: bool
    hangs: bool
    heads: Mapping[StreamName, Head]
    committed: Mapping[StreamName, tuple[Generation, Sequence]]
    lacking: dict[NodeId, int | None]
    withheld: list[StreamName]


class Replica:
    """One replica's protocol state. *draw* gives numbers in [0, 1) for the spread of retries."""

    def __init__(
        self, config: Config, durable: Durable, process: Process, now: float, draw: Callable[[], float]
    ) -> None:
        self._state = State(config, durable, process, now, draw)
        promised_owner = durable.promise.owner if durable.promise is not None else None
        self._lender = Lender(config, process, promised_owner, now, durable.lent_max_s)
        self._primary = Primary(self._state)
        self._promiser = Promiser(self._state, self._lender, self._lease_until, self._give_way)
        self._backup = Backup(self._state, self._lender, self._promiser, self._lease_until)
        self._claimant = Claimant(
            self._state, self._promiser, self._backup.hears_primary, self._primary.begin
        )
        self._primary.claimant = self._claimant
        self._founding = Founding(self._state)
        self._counters = Counters(self._state)
        if self._counters.is_condemned:
            self._fail(*BEHIND)

    # ── the two calls of the driver ──

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event at instant *now*; return what is to be done, in order. Time alone is a `Tick`."""
        state = self._state
        state.now = now
        if state.role is not Role.FAULTY or isinstance(event, _FAULTY_TOO):
            _HANDLERS[type(event)](self, event)
            self._primary.hand_over()
        elif isinstance(event, events.Granted):
            state.emit(effects.Transfer(None))  # others may have more luck with it (R11, T17)
        wanted, state.effects = state.effects, []
        return self._counters.with_news(wanted)

    @property
    def deadline(self) -> float:
        """The instant by which `Tick` is due; infinite when nothing is waited for."""
        if self._state.role is Role.FAULTY:
            return float("inf")
        return min(
            self._founding.deadline,
            self._claimant.deadline,
            self._primary.deadline,
            self._promiser.deadline,
            self._backup.deadline,
        )

    def _tick(self) -> None:
        self._founding.tick()
        self._primary.tick()
        self._claimant.tick()
        self._backup.tick()
        self._promiser.release_parked()

    # ── what the driver may ask ──

    @property
    def role(self) -> Role:
        return self._state.role

    @property
    def can_lead(self) -> bool:
        """Whether this replica could take a tenure now: the elector need not name it otherwise."""
        return self._state.can_lead

    @property
    def is_behind(self) -> bool:
        """Whether others could take over without fetching what this replica would have to fetch, or with room
        for more than it has (R21)."""
        return self._backup.is_behind or self._state.full

    def counters(self, to: NodeId) -> tuple[int, Incarnation, int]:
        """What the envelope to a peer says of this store and of the peer's (R21): see `Counters`."""
        return self._counters.envelope(to)

    def status(self) -> ReplicaStatus:
        """Counts and facts by state, for status and tests."""
        state, primary = self._state, self._primary
        promise = state.promise
        followers = primary.reign.progress.followers if primary.reign is not None else {}
        return {
            "role": str(state.role),
            "epoch": promise.epoch if promise is not None else 0,
            "owner": promise.owner.node if promise is not None else None,
            "lease_s": max(0.0, min(primary.lease_until, state.now + 3600) - state.now),
            "active": primary.tenure.is_active(state.now),
            "waiting_for": self._founding.waiting_for,
            "changing": state.record is not None and bool(state.record.old),
            "full": state.full,
            "hangs": state.hangs,
            "heads": state.heads,
            "committed": state.committed,
            "lacking": {
                node: len(each.lacking) if each.is_known else None for node, each in followers.items()
            },
            "withheld": sorted(primary.tenure.withheld),
        }

    # ── what the machines ask of each other ──

    def _lease_until(self, owner: Owner) -> float:
        """Before which instant nothing may be promised to *owner* here (R24)."""
        lender, me = self._lender, self._state.me
        until = lender.until if lender.owner not in (None, owner) else float("-inf")
        return until if owner == me else max(until, self._primary.lease_until)

    def _give_way(self, owner: Owner, reason: str) -> None:
        """A higher epoch is about to be promised: whatever is done in an own one ends first (R24)."""
        if owner == self._state.me:
            self._primary.suspend()
            return
        self._primary.end(reason)
        self._claimant.stop(reason)

    def _fail(self, reason: str, remedy: str = "restart this node to have it read again") -> None:
        """Fail-stop: nothing is written or acknowledged any longer by this process (R21)."""
        if self._primary.reign is None and self._claimant.granted:
            self._state.emit(effects.Transfer(None))  # as for a grant that comes later (R11, T17)
        self._primary.end(reason, hand_over=True)
        self._claimant.stop(reason)
        self._state.notice(f"the store is faulty: {reason}; {remedy} (R21)")
        self._state.change_role(Role.FAULTY, reason)

    # ── messages ──

    def _on_received(self, event: events.Received) -> None:
        state, node = self._state, event.node
        if node not in state.config.peers:
            return
        is_past = self._counters.take(event)
        if state.role is Role.FAULTY:
            return
        if self._counters.compare(event, self._has_been_heard(event.message)):
            self._fail(*BEHIND)
        elif is_past:
            self._founding.greet(node)  # so that it hears what is remembered of it
        elif (handler := _MESSAGES.get(type(event.message))) is not None:
            handler(self, event, event.message)

    def _has_been_heard(self, message: messages.Message) -> bool:
        """Whether it speaks of something that this very process, and no earlier one, has said."""
        echo = message.echo if isinstance(message, messages.Heartbeat) else None
        if isinstance(message, messages.Adopt):
            return self._promiser.has_reported(message.epoch, message.digest)
        return echo is not None and echo.process == self._state.me.process

    def _on_hello(self, event: events.Received, message: messages.Hello) -> None:
        self._founding.on_hello(event.node, event.incarnation, message)
        self._primary.on_stranger((event.node, event.incarnation))

    def _on_heartbeat_answer(self, event: events.Received, message: messages.HeartbeatAnswer) -> None:
        self._primary.on_stranger((event.node, event.incarnation))
        self._primary.on_heartbeat_answer(_replica(event), message)

    def _on_promised(self, event: events.Received, message: messages.Promised) -> None:
        report = self._claimant.on_page(_replica(event), event.process, message)
        if report is not None:
            self._primary.on_report(report)

    def _on_refusal(self, event: events.Received, message: messages.Refusal) -> None:
        self._claimant.on_refusal(message)
        self._primary.on_stranger(_replica(event))  # one that knows a newer record says nothing else
        self._primary.on_refusal(_replica(event), message)

    def _on_lease_returned(self, event: events.Received, message: messages.LeaseReturned) -> None:
        self._backup.on_lease_returned(message.epoch, _owner(event))
        self._promiser.release_parked()
        self._claimant.try_now()

    # ── the store ──

    def _on_promise_written(self, event: events.PromiseWritten) -> None:
        self._state.counter = max(self._state.counter, event.counter)
        self._state.promise = event.promise
        self._backup.on_promise_written()
        self._promiser.on_promise_written(event.promise)
        self._claimant.on_promise_written(event.promise)

    def _on_record_written(self, event: events.RecordWritten) -> None:
        state = self._state
        state.counter = max(state.counter, event.counter)
        # A founder's is what it has stored last: an emptied coordinator numbers its proposals anew.
        if state.role is Role.FOUNDING or (event.epoch, event.record.version) >= state.record_order:
            state.record, state.record_epoch = event.record, event.epoch
        if event.founded:
            state.founded = True
        if state.role in (Role.FOUNDING, Role.JOINING):
            self._founding.on_record_written(event.record, event.founded)
        elif state.role is Role.BACKUP and not state.is_member:
            state.change_role(Role.JOINING, "the member record names another incarnation of this node (R20)")
        self._primary.on_record_written(event.record, event.epoch)
        self._backup.on_record_written(event.record, event.epoch)

    def _on_accepted(self, event: events.Accepted) -> None:
        self._state.counter = max(self._state.counter, event.counter)
        head = self._state.accepted(event.manifest, event.epoch)
        self._primary.on_accepted(event.manifest, event.epoch)
        self._backup.on_accepted(head)

    def _on_accept_refused(self, event: events.AcceptRefused) -> None:
        self._primary.on_accept_refused(event)
        self._backup.on_accept_refused(event)

    def _on_heads_adopted(self, event: events.HeadsAdopted) -> None:
        self._state.counter = max(self._state.counter, event.counter)
        digest = self._state.heads_adopted(event.epoch)
        self._primary.on_heads_adopted(event.epoch)
        self._backup.on_heads_adopted(event.epoch, digest)
        self._promiser.on_heads_adopted()

    def _on_rotten(self, event: events.HeadRotten) -> None:
        self._backup.on_rotten(event)
        self._primary.on_rotten(event.stream, event.digest)

    def _on_room(self, event: events.StoreRoom) -> None:
        if event.full != self._state.full:
            self._state.full = event.full
            self._state.notice(
                "the disk is full: new checkpoints are refused" if event.full else "room again"
            )
            if not event.full:
                self._primary.on_room()
                self._backup.on_room()

    # ── the data path ──

    def _on_publication(self, event: events.ManifestReceived | events.Seen) -> None:
        if not self._counters.has_compared(event.node):
            return  # it is fetched afterwards, if this store is sound
        if isinstance(event, events.Seen):
            self._backup.on_seen(event)
        else:
            self._backup.on_manifest(event)

    def _on_fetched(self, event: events.Fetched | events.FetchFailed) -> None:
        if (digest := self._state.end_fetch(event.stream, event.number)) is None:
            return
        manifest = event.manifest if isinstance(event, events.Fetched) else None
        # Recovery may wait for the very stream whose rot is being mended: both are told.
        self._backup.on_fetched(event.stream, digest, manifest)
        self._primary.on_fetched(event.stream, digest, manifest)

    # ── the elector and the engine ──

    def _on_granted(self, event: events.Granted) -> None:
        self._primary.handover.grant()
        self._claimant.on_granted()

    def _on_revoked(self, event: events.Revoked) -> None:
        if self._primary.reign is not None:
            self._primary.handover.revoke()
        self._claimant.on_revoked()

    def _on_engine_ready(self, event: events.EngineReady) -> None:
        self._claimant.on_engine(event.ready)
        if not event.ready:
            self._primary.end("the engine has left", hand_over=True)

    def _on_submitted(self, event: events.Submitted | events.DeleteAsked) -> None:
        deletes = isinstance(event, events.DeleteAsked)
        self._primary.on_submitted(event.epoch, Flight(event.handle, event.stream, event.sequence, deletes))


def _owner(event: events.Received) -> Owner:
    return Owner(event.node, event.incarnation, event.process)


def _replica(event: events.Received) -> ReplicaId:
    return (event.node, event.incarnation)


# What a faulty replica still takes: what peers say, and what the engine had sent before it heard of the end;
# its payloads are released, and the outcome is that of any checkpoint of an ended tenure (R17a).
_FAULTY_TOO = (events.Received, events.Submitted, events.DeleteAsked)

_HANDLERS: dict[type, Callable[..., None]] = {
    events.Tick: lambda self, event: self._tick(),
    events.Received: Replica._on_received,
    events.Granted: Replica._on_granted,
    events.Revoked: Replica._on_revoked,
    events.PromiseWritten: Replica._on_promise_written,
    events.RecordWritten: Replica._on_record_written,
    events.Accepted: Replica._on_accepted,
    events.AcceptRefused: Replica._on_accept_refused,
    events.HeadsAdopted: Replica._on_heads_adopted,
    events.HeadRotten: Replica._on_rotten,
    events.StoreRoom: Replica._on_room,
    events.StoreHangs: lambda self, event: self._state.disk_hangs(event.hangs),
    events.StoreFailed: lambda self, event: self._fail(event.reason),
    events.ManifestReceived: Replica._on_publication,
    events.Seen: Replica._on_publication,
    events.Published: lambda self, event: self._primary.on_published(event),
    events.Sent: lambda self, event: self._primary.window.sent(event.epoch, event.publish_index),
    events.Fetched: Replica._on_fetched,
    events.FetchFailed: Replica._on_fetched,
    events.StartedWithout: lambda self, event: self._primary.tenure.without(event),
    events.EngineReady: Replica._on_engine_ready,
    events.Submitted: Replica._on_submitted,
    events.DeleteAsked: Replica._on_submitted,
    events.ResignAsked: lambda self, event: self._primary.resign(event.successor, event.if_able),
    events.AbandonAsked: lambda self, event: self._primary.abandon(event.stream),
}

_MESSAGES: dict[type, Callable[..., None]] = {
    messages.Hello: Replica._on_hello,
    messages.Found: lambda self, event, message: self._founding.on_found(event.node, message.record),
    messages.FoundStored: lambda self, event, message: self._founding.on_found_stored(
        event.node, message.record
    ),
    messages.Founded: lambda self, event, message: self._founding.on_founded(message.record),
    messages.Probe: lambda self, event, message: self._promiser.on_probe(event.node, _owner(event), message),
    messages.ProbeAnswer: lambda self, event, message: self._claimant.on_probe_answer(
        _replica(event), message
    ),
    messages.Claim: lambda self, event, message: self._promiser.on_claim(event.node, _owner(event), message),
    messages.Promised: Replica._on_promised,
    messages.Refusal: Replica._on_refusal,
    messages.Adopt: lambda self, event, message: self._backup.on_adopt(event.node, message),
    messages.Adopted: lambda self, event, message: self._primary.on_adopted(_replica(event), message),
    messages.Members: lambda self, event, message: self._backup.on_members(event.node, message),
    messages.MembersAccepted: lambda self, event, message: self._primary.on_members_accepted(
        _replica(event), message
    ),
    messages.Behind: lambda self, event, message: (
        self._backup.on_behind(event.node, message) if self._counters.has_compared(event.node) else None
    ),
    messages.Ack: lambda self, event, message: self._primary.on_ack(_replica(event), message),
    messages.Progress: lambda self, event, message: self._primary.on_progress(_replica(event), message),
    messages.Heartbeat: lambda self, event, message: self._backup.on_heartbeat(
        event.node, _owner(event), message
    ),
    messages.HeartbeatAnswer: Replica._on_heartbeat_answer,
    messages.LeaseReturned: Replica._on_lease_returned,
    messages.Forget: lambda self, event, message: self._backup.on_forget(event.node, message),
}
