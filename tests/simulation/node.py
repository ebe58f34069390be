"""One simulated machine: clock, disk, engine, and while it is up one process with a real core in it.

The process does what the driver does: it takes events one at a time, performs the effects in order, and
sets one timer. It can be paused (events wait, the clock goes on) and killed between any two effects.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from replicator.codec.frames import decode_envelope, encode_envelope
from replicator.core.config import Config
from replicator.core.effects import (
    Abandoned,
    AbandonRefused,
    Abort,
    Accept,
    AdoptHeads,
    AllowPublish,
    CancelFetch,
    Changed,
    Commit,
    Effect,
    EndTenure,
    Fetch,
    ForgetTombstone,
    HandoverRefused,
    HeldByAll,
    MarkCommitted,
    Notice,
    Publish,
    Release,
    RememberCounters,
    Send,
    SetLease,
    Standby,
    StartTenure,
    StoredLocally,
    Supersede,
    Transfer,
    WritePromise,
    WriteRecord,
)
from replicator.core.events import (
    EngineReady,
    Event,
    Granted,
    Received,
    Revoked,
    StoreFailed,
    Tick,
)
from replicator.core.messages import PROTOCOL_VERSION, Envelope, Hello
from replicator.errors import MessageError
from replicator.model import Epoch, Incarnation, NodeId, Process, Role
from tests.simulation.checkers import CHECKED, Violation
from tests.simulation.clock import Clock
from tests.simulation.data import Fetcher, Publisher
from tests.simulation.disk import Disk
from tests.simulation.engine import Engine

if TYPE_CHECKING:
    from replicator.core.replica import Replica
    from tests.simulation.world import World

CLUSTER = "simulated"
STORE_EFFECTS = (
    WritePromise, WriteRecord, Accept, AdoptHeads, MarkCommitted, ForgetTombstone, RememberCounters,
)  # fmt: skip
ENGINE_EFFECTS = (
    StartTenure, EndTenure, SetLease, Commit, StoredLocally, HeldByAll, Supersede, Abort, Standby, Release,
)  # fmt: skip
EFFECTS_AT_ONCE_MAX = 2000
TICKS_AT_ONCE_MAX = 1000


class Node:
    """A machine of the cluster."""

    def __init__(self, world: World, name: NodeId, config: Config, clock: Clock, disk: Disk) -> None:
        self.world = world
        self.name = name
        self.config = config
        self.clock = clock
        self.disk = disk
        self.engine = Engine(self)
        self.life = 0
        self.process = Process(b"")
        self.replica: Replica | None = None
        self.publish_mean_s = 0.002
        self.reign = Epoch(0)  # the newest epoch that is durably promised to this very process
        self.last_frame: dict[NodeId, float] = {}
        self.down_until_restart = False
        self.damaged_streams: set[str] = set()
        self._inbox: deque[Event] = deque()
        self._paused = 0
        self._timer = float("inf")
        self._ticks_at = (-1.0, 0)
        self._die_after: int | None = None
        self._store_failed = False

    # ── life ──

    @property
    def is_running(self) -> bool:
        return self.replica is not None

    @property
    def role(self) -> Role | None:
        """What the replica is just now; None while the node is down."""
        return self.replica.role if self.replica is not None else None

    @property
    def is_paused(self) -> bool:
        return self._paused > 0

    def start(self) -> None:
        """Start a process: a new core on what the disk holds."""
        assert self.replica is None
        world = self.world
        self.life += 1
        self.process = world.new_process(self.name)
        durable = self.disk.durable(CLUSTER)
        self._timer, self._inbox, self._die_after = float("inf"), deque(), None
        self._store_failed, self.reign = False, Epoch(0)
        self.publisher, self.fetcher = Publisher(self), Fetcher(self)
        world.trace.add(world.now, self.name, "start", durable)
        self.replica = world.replica_type(
            self.config, durable, self.process, self.clock.local(world.now), world.core_random.random
        )
        self.disk.open(self.deliver)
        world.elector.started(self)
        if self.config.has_engine:
            self.later(world.random.uniform(0.0, 0.1), self._engine_ready)
        self._set_timer()

    def _engine_ready(self) -> None:
        self.engine.is_there = True
        self.deliver(EngineReady(ready=True))

    def crash(self, *, power: bool = False) -> None:
        """Kill the process; *power*: the machine with its engine and lease word too."""
        if self.replica is None:
            return
        self.world.trace.add(self.world.now, self.name, "power" if power else "kill")
        self.replica = None
        self.life += 1
        self._paused = 0
        self.disk.crash()
        self.engine.worker_died(power=power)
        self.world.elector.stopped(self)
        if power:
            self.clock.reboot(self.world.now, self.world.random.uniform(0.0, 5.0))

    def crash_within(self, effects_count: int) -> None:
        """Kill the process after so many more effects, in the middle of a batch if it so falls."""
        self._die_after = effects_count

    def pause(self, *, disk_too: bool) -> None:
        """Stop the control thread, or the whole process; `resume` takes one pause back."""
        self._paused += 1
        if disk_too:
            self.disk.set_stopped(True)

    def resume(self) -> None:
        """Go on; what came meanwhile is handled first."""
        if self._paused:
            self._paused -= 1
        if not self._paused and self.replica is not None:
            self.disk.set_stopped(False)
            self._drain()

    def later(self, delay: float, function: Callable[..., None], *args: object) -> None:
        """Call *function* after *delay* unless this process has died by then."""
        self.world.schedule(delay, self._if_alive, self.life, function, args)

    def _if_alive(self, life: int, function: Callable[..., None], args: tuple[object, ...]) -> None:
        if life == self.life:
            function(*args)

    @property
    def is_owner(self) -> bool:
        """Whether the newest promise on the disk is to this very process."""
        promise = self.disk.image.promise
        return promise is not None and promise.owner.process == self.process

    # ── events ──

    def receive(self, source: NodeId, frame: bytes) -> None:
        """A control frame has arrived."""
        if self.replica is None:
            return
        try:
            envelope = decode_envelope(frame)
        except MessageError:
            return
        if envelope.cluster != CLUSTER or envelope.version != PROTOCOL_VERSION or envelope.node != source:
            return
        self.deliver(
            Received(
                node=source,
                incarnation=Incarnation(envelope.incarnation),
                process=Process(envelope.process),
                counter=envelope.counter,
                remembered=envelope.remembered_of(self.disk.image.incarnation),
                message=envelope.message,
            )
        )

    def deliver(self, event: Event) -> None:
        """Hand in an event; it waits while the process is paused."""
        if self.replica is None:
            return
        self._inbox.append(event)
        if not self._paused and len(self._inbox) == 1:
            self._drain()

    def _drain(self) -> None:
        while self._inbox and not self._paused and self.replica is not None:
            self._handle(self._inbox[0])
            if self._inbox:
                self._inbox.popleft()

    def _handle(self, event: Event) -> None:
        world, replica = self.world, self.replica
        assert replica is not None
        now, kind = world.now, type(event)
        world.note((now, self.name, "handle", event))
        world.event_count += 1
        if kind is StoreFailed:
            self._store_failed = True
            world.store_failed(self)
        try:
            effects = replica.handle(event, self.clock.local(now))
        except CHECKED:
            raise
        except Exception as exc:
            raise Violation("I12", f"{self.name} crashed on {type(event).__name__}: {exc!r}") from exc
        if len(effects) > EFFECTS_AT_ONCE_MAX:
            raise Violation("I12", f"{self.name} asks for {len(effects)} effects at once")
        for effect in effects:
            if self._die_after is not None:
                self._die_after -= 1
                if self._die_after < 0:
                    self.crash()
                    world.restart_later(self)
                    return
            self._perform(effect, type(effect))
        self._set_timer()

    def _set_timer(self) -> None:
        assert self.replica is not None
        deadline = self.replica.deadline
        if deadline == float("inf"):
            return
        due = max(self.clock.true(deadline) + 1e-7, self.world.now)
        if due < self._timer:
            self._timer = due
            self.later(due - self.world.now, self._tick, due)

    def _tick(self, due: float) -> None:
        if due != self._timer:
            return
        self._timer = float("inf")
        assert self.replica is not None
        if self._paused:
            self._inbox.append(Tick())
            return
        if self.clock.local(self.world.now) < self.replica.deadline:
            self._set_timer()
            return
        at, count = self._ticks_at
        self._ticks_at = (self.world.now, count + 1) if at == self.world.now else (self.world.now, 1)
        if count > TICKS_AT_ONCE_MAX:
            raise Violation("I12", f"{self.name} asks for the same deadline again and again")
        self.deliver(Tick())

    # ── effects ──

    def _perform(self, effect: Effect, kind: type[Effect]) -> None:
        """Do what the core wants; the checkers look on."""
        world = self.world
        world.note((world.now, self.name, "do", effect))
        for look in world.looks[kind]:
            look(self, effect)
        _PERFORMERS[kind](self, effect)

    def _send(self, effect: Send) -> None:
        assert self.replica is not None
        counter, recipient, remembered = self.replica.counters(effect.to)
        envelope = Envelope(
            version=PROTOCOL_VERSION,
            cluster=CLUSTER,
            node=self.name,
            incarnation=self.disk.image.incarnation,
            process=self.process,
            counter=counter,
            remembered=remembered,
            message=effect.message,
            recipient=recipient,
        )
        if effect.to in self.world.nodes and effect.to != self.name:
            self.world.network.send(self.name, effect.to, encode_envelope(envelope))

    def greet_all(self) -> None:
        """Say to everybody that it is there, as any node may at any time."""
        if self.replica is not None and not self._paused:
            hello = Hello(True, self.disk.image.record, self.config.address, self.config.public_key)
            for other in self.world.others(self.name):
                self._send(Send(other.name, hello))

    # ── what the elector and the engine say ──

    def grant(self) -> None:
        """The elector names this node."""
        self.deliver(Granted())

    def _changed(self, effect: Changed) -> None:
        if effect.old is Role.PRIMARY:
            self.publisher.abandon()

    def _transfer(self, effect: Transfer) -> None:
        self.world.elector.transfer(self, effect.to)

    def revoke(self) -> None:
        """The elector no longer names this node."""
        self.deliver(Revoked())


_PERFORMERS: dict[type[Effect], Callable[[Node, Any], None]] = {
    **dict.fromkeys(STORE_EFFECTS, lambda node, effect: node.disk.perform(effect)),
    **dict.fromkeys(ENGINE_EFFECTS, lambda node, effect: node.engine.perform(effect)),
    Send: Node._send,
    Publish: lambda node, effect: node.publisher.publish(effect),
    AllowPublish: lambda node, effect: node.publisher.allow(effect.epoch, effect.publish_index),
    Fetch: lambda node, effect: node.fetcher.fetch(effect),
    CancelFetch: lambda node, effect: node.fetcher.cancel(effect.stream),
    Transfer: Node._transfer,
    Changed: Node._changed,
    HandoverRefused: lambda node, effect: None,
    Abandoned: lambda node, effect: None,
    AbandonRefused: lambda node, effect: None,
    Notice: lambda node, effect: None,
}
