"""The driver: the worker's control thread, which pumps events into the core and its effects out of it.

It owns the control sockets, those that publications come in by, the core, the elector and the worker's end
of the link; nothing here is shared, so nothing is locked. Each turn it sleeps until something comes or is
due, then hands everything that has come to the core, one event at a time, and does what the core wants done,
in that order. Nothing of the protocol is decided here.

The instant that goes with an event is read after the event has come and before its effects go out: a
lender's lease starts after the question was sent, a holder's before its question leaves (R24).

::

    control sockets ─┐                                  ┌─► store, data path
    link ────────────┼─► events ─► core ─► effects ─────┼─► mesh (envelopes)
    publications ────┤      ▲                           └─► tenancy, standbys ─► link
    inbox (threads) ─┘      │
    elector, clock ─────────┘
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import zmq

from replicator.adapters.ports import MEND_INTERVAL_S, DataPath, Elector, Store
from replicator.core import effects, events
from replicator.core.events import Event
from replicator.core.messages import Raft, StatusReport, StatusRequest
from replicator.core.replica import Replica
from replicator.link import messages as link
from replicator.model import Epoch, NodeId, Role, Sequence, StreamName
from replicator.settings import Settings
from replicator.worker.candidacy import Candidacy
from replicator.worker.inbox import Inbox, Loaded, Post
from replicator.worker.mesh import Mesh
from replicator.worker.neighbours import Neighbours
from replicator.worker.operator import Operator
from replicator.worker.silence import End
from replicator.worker.standby import Standbys
from replicator.worker.status import Census
from replicator.worker.tenancy import Tenancy

log = logging.getLogger(__name__)

T = TypeVar("T")

SLEEP_S_MAX = 1.0
SLICE_S = 0.01  # how long one source is drained before the others, and what is due, have their turn
FAREWELL_S = 0.1  # how long a leaving primary waits until another leads, and has its promise


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that the driver drives; made by `main`, in this order, and closed there in reverse."""

    settings: Settings
    inbox: Inbox
    end: End
    store: Store
    data: DataPath
    mesh: Mesh
    elector: Elector
    core: Replica
    tenancy: Tenancy
    standbys: Standbys
    census: Census


# The worker's clock: seconds of CLOCK_BOOTTIME, which counts suspended time too.
boottime: Callable[[], float] = partial(time.clock_gettime, time.CLOCK_BOOTTIME)


def _poller(sources: Iterable[object]) -> zmq.Poller:
    poller = zmq.Poller()
    for source in sources:
        poller.register(source, zmq.POLLIN)
    return poller


class Driver:
    """Runs one replica until it is told to leave."""

    def __init__(self, parts: Parts, clock: Callable[[], float] = boottime) -> None:
        self._parts = parts
        self._clock = clock
        self._core = parts.core
        self._inbox, self._end = parts.inbox, parts.end
        self._mesh, self._data = parts.mesh, parts.data
        self._elector = parts.elector
        self._tenancy = parts.tenancy
        self._node = parts.settings.node
        self.operator = Operator(self._node, parts.elector, self._handle, clock)
        self._candidacy = Candidacy(parts.elector, parts.core)
        self._neighbours = Neighbours(parts.settings, parts.mesh)
        self._due = -math.inf  # when something is to be done though nothing comes
        self._leaving, self._leave_at = False, math.inf
        self._mend_at = -math.inf
        self._sources: dict[object, Callable[[], None]] = {self._inbox.fileno(): self._inbox.silence}
        self._sources.update((socket, self._receive_mesh) for socket in self._mesh.control.sockets)
        self._sources.update((source, self._receive_link) for source in self._end.sources)
        self._deaf_poller = _poller(self._sources)  # for as long as publications are left where they are
        self._sources.update((socket, self._receive_publications) for socket in parts.data.sockets)
        self._poller = _poller(self._sources)
        self._performers = self._make_performers()
        self._takers = self._make_takers()
        self._hearers = self._make_hearers()

    # ── the loop ──

    def run(self) -> None:
        """Pump until the engine closes the link, or `leave` is posted to the inbox."""
        self.operator.role = self._core.role  # a member from its start has not changed to it
        self._neighbours.begin(self._core.role, self._clock())
        self._handle(events.EngineReady(False))
        while not self._leaving or (self._leads and self._clock() < self._leave_at):
            self._turn()
        self._handle(events.EngineReady(False))  # if it could not hand over in time

    def leave(self) -> None:
        """End the tenure, give back the lease, and give leadership away before `run` returns.

        On the control thread; post it to the inbox from any other.
        """
        if not self._leaving:
            self._leaving = self._candidacy.is_leaving = True
            self._leave_at = self._clock() + FAREWELL_S
            self._handle(events.ResignAsked())
            self._candidacy.tell()

    @property
    def _leads(self) -> bool:
        """Whether somebody else would still take this node for the primary or the leader, or its own next
        process would, and promise nobody for as long as a lease may be: until its successor is promised."""
        leads = self.operator.role is Role.PRIMARY or self._elector.leader == self._node
        return (leads or self.operator.is_promised) and not self._parts.settings.standalone

    def _turn(self) -> None:
        timeout_s = 0.0
        if self._inbox.may_sleep():
            timeout_s = min(max(0.0, self._due - self._clock()), SLEEP_S_MAX)
        poller = self._poller if self._data.has_room else self._deaf_poller
        ready = poller.poll(math.ceil(timeout_s * 1000))
        self._inbox.wake()
        for source, _ in ready:
            self._sources[source]()
        self._drain_inbox()
        self._mesh.flush()
        self._due = self._deadline
        if self._clock() >= self._due:
            self._tick()
            self._mesh.flush()
            self._due = self._deadline

    def _slice(self, items: Iterable[T]) -> Iterator[T]:
        """Items, until there are no more or one comes after `SLICE_S`; the rest comes in the next turn."""
        until = math.inf
        for item in items:
            yield item
            now = self._clock()
            if now >= until:
                return
            until = min(until, now + SLICE_S)

    @property
    def _deadline(self) -> float:
        due = min(self._core.deadline, self._candidacy.deadline, self._leave_at, self._mend_at)
        due = min(due, self.operator.deadline, self._tenancy.deadline)
        return min(due, self._parts.census.deadline, self._neighbours.deadline)

    def _tick(self) -> None:
        """Do what is due."""
        now = self._clock()
        self._candidacy.tick(now)
        if now >= self._core.deadline:
            self._handle(events.Tick())
        self._tenancy.tick(now)
        self.operator.tick(now)
        self._parts.census.tick(now)
        self._neighbours.tick(now)
        if now >= self._mend_at:
            self._mend_at = now + MEND_INTERVAL_S
            self._mesh.control.mend(now)
            self._data.mend(now)

    def _handle(self, event: Event) -> None:
        """Hand one event to the core and do what it wants done."""
        now = self._clock()
        for effect in self._core.handle(event, now):
            self._performers[type(effect)](effect, now)

    # ── from the mesh ──

    def _receive_mesh(self) -> None:
        now = self._clock()
        for key_node, frame in self._slice(self._mesh.control.receive()):
            if (received := self._mesh.open(key_node, frame, now)) is None:
                continue
            message = received.message
            if isinstance(message, Raft):
                self._elector.receive(received.node, message.payload)
            elif isinstance(message, StatusRequest):
                self._parts.census.on_request(received.node, message, self._clock())
            elif isinstance(message, StatusReport):
                self._parts.census.on_report(received.node, message, self._clock())
            else:
                self._handle(received)

    def _receive_publications(self) -> None:
        list(self._slice(self._data.receive()))

    # ── from the other threads ──

    def _drain_inbox(self) -> None:
        for item in self._slice(self._inbox.take()):
            self._takers.get(type(item), self._handle)(item)

    def _make_takers(self) -> dict[type, Callable[[Any], None]]:
        """What is done with items of the inbox besides handing them to the core."""
        return {
            Post: lambda post: post.run(),
            tuple: self._on_loaded,
            events.Published: self._on_published,
            events.Fetched: self._on_fetched,
            events.Accepted: self._on_accepted,
            events.AcceptRefused: self._on_written,
        }

    def _on_accepted(self, event: events.Accepted) -> None:
        self._parts.census.accepted(event, self._clock())
        self._on_written(event)

    def _on_written(self, event: events.Accepted | events.AcceptRefused) -> None:
        self._handle(event)
        self._tenancy.written(event)

    def _on_published(self, event: events.Published) -> None:
        self._tenancy.published(event.handle, self._clock())
        self._handle(event)

    def _on_fetched(self, event: events.Fetched) -> None:
        self._tenancy.note("fetched", self._clock())
        self._handle(event)

    def _on_loaded(self, results: tuple[Loaded, ...]) -> None:
        if results[0].epoch is None:
            self._parts.standbys.loaded(results[0])
        else:
            self._tenancy.loaded(results, self._clock())

    # ── from the engine ──

    def _receive_link(self) -> None:
        for message, frames in self._slice(self._end.receive()):
            self._hearers[type(message)](message, frames)

    def _make_hearers(self) -> dict[type, Callable[[Any, list[memoryview]], None]]:
        """What is done with each message of the link."""
        standbys = self._parts.standbys
        return {
            link.Submit: self._on_submit,
            link.Delete: self._on_delete,
            link.Ready: lambda message, _: self._on_ready(message.ready),
            link.Resign: self._on_resign,
            link.Follow: lambda message, _: standbys.follow(message.on),
            link.StandbyTaken: lambda message, _: standbys.taken(message.stream, message.position),
            link.AskStatus: self._on_ask_status,
            link.Close: lambda _message, _: self.leave(),
        }

    def _on_submit(self, message: link.Submit, frames: list[memoryview]) -> None:
        payload = link.payload_of(message, frames)
        self._tenancy.keep(message.handle, payload, self._clock())
        what = (StreamName(message.stream), Sequence(message.sequence), message.handle, payload.size_bytes)
        self._handle(events.Submitted(Epoch(message.epoch), *what))

    def _on_delete(self, message: link.Delete, _: list[memoryview]) -> None:
        stream, sequence = StreamName(message.stream), Sequence(message.sequence)
        self._handle(events.DeleteAsked(Epoch(message.epoch), stream, sequence, message.handle))

    def _on_ready(self, ready: bool) -> None:
        self._candidacy.has_engine = ready
        self._handle(events.EngineReady(ready))
        self._candidacy.tell()

    def _on_resign(self, message: link.Resign, _: list[memoryview]) -> None:
        if message.epoch == self._tenancy.epoch:
            self._handle(events.ResignAsked(NodeId(message.successor) if message.successor else None))

    def _on_ask_status(self, message: link.AskStatus, _: list[memoryview]) -> None:
        def reply(report: bytes) -> None:
            self._end.send(link.StatusReply(message.nonce, report))

        self._parts.census.ask(reply, self._clock())

    # ── from the operator, on the control thread ──

    def ask_status(self, reply: Callable[[bytes], None]) -> None:
        """Have *reply* called with the members' status as JSON."""
        self._parts.census.ask(reply, self._clock())

    # ── what the core wants done ──

    def _make_performers(self) -> dict[type, Callable[[Any, float], object]]:
        """How each effect is performed."""
        store, data, tenancy = self._parts.store, self._parts.data, self._tenancy
        kept = (effects.WriteRecord, effects.Accept, effects.RememberCounters)
        return {
            effects.Send: lambda effect, _: self._mesh.send(effect.to, effect.message),
            **{kind: lambda effect, _: store.perform(effect) for kind in kept},
            effects.WritePromise: self._promise,
            effects.AdoptHeads: self._adopt,
            effects.MarkCommitted: self._mark_committed,
            effects.ForgetTombstone: self._forget,
            effects.Publish: self._publish,
            effects.AllowPublish: lambda effect, _: data.allow_publish(effect.epoch, effect.publish_index),
            effects.Fetch: lambda effect, _: data.fetch(effect),
            effects.CancelFetch: lambda effect, _: data.cancel_fetch(effect),
            effects.Release: tenancy.released,
            effects.StartTenure: tenancy.start,
            effects.EndTenure: tenancy.end,
            effects.SetLease: tenancy.set_lease,
            effects.Commit: tenancy.committed,
            effects.StoredLocally: tenancy.stored,
            effects.HeldByAll: tenancy.held_by_all,
            effects.Supersede: tenancy.superseded,
            effects.Abort: tenancy.aborted,
            effects.Standby: self._parts.standbys.committed,
            effects.Transfer: lambda effect, _: self._elector.transfer(effect.to),
            effects.HandoverRefused: self._handover_refused,
            effects.Abandoned: lambda effect, _: self.operator.abandoned(effect),
            effects.AbandonRefused: lambda effect, _: self.operator.abandon_refused(effect.reason),
            effects.Changed: self._changed,
            effects.Notice: lambda effect, _: log.warning("notice node=%s text=%r", self._node, effect.text),
        }

    def _promise(self, effect: effects.WritePromise, _: float) -> None:
        self._parts.store.perform(effect)
        self.operator.promised(effect.promise.owner)

    def _handover_refused(self, effect: effects.HandoverRefused, _: float) -> None:
        self.operator.handover_refused(effect.reason)
        if self._tenancy.epoch is not None:
            self._end.send(link.ResignRefused(self._tenancy.epoch, effect.reason))

    def _adopt(self, effect: effects.AdoptHeads, now: float) -> None:
        self._tenancy.note("claimed", now)  # a claimant's first act after a majority has promised
        self._parts.store.perform(effect)

    def _mark_committed(self, effect: effects.MarkCommitted, _: float) -> None:
        self._parts.census.committed(effect)
        self._parts.store.perform(effect)

    def _forget(self, effect: effects.ForgetTombstone, _: float) -> None:
        self._parts.census.forgotten(effect)
        self._parts.store.perform(effect)

    def _publish(self, effect: effects.Publish, _: float) -> None:
        payload = None if effect.tombstone else self._tenancy.payload(effect.handle)
        self._parts.data.publish(effect, payload)

    def _changed(self, effect: effects.Changed, now: float) -> None:
        self.operator.role = effect.new
        self._neighbours.changed(effect.new, now)
        self._candidacy.is_primary = effect.new is Role.PRIMARY
        if effect.old is Role.PRIMARY:
            self._data.abandon_publications()
        if effect.new is Role.CANDIDATE and effect.old is Role.BACKUP:
            self._tenancy.note("granted", now)
            self._tenancy.note("detected", self._elector.stood_at)
        log.info(
            "role changed node=%s old=%s new=%s reason=%r", self._node, effect.old, effect.new, effect.reason
        )
