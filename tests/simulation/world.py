"""The simulated world: one thread, one seed, one queue of what happens next in virtual time."""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from replicator.core.config import Config
from replicator.core.effects import Publish, StartTenure, WritePromise
from replicator.core.events import Durable, Event
from replicator.model import Digest, Epoch, Incarnation, Manifest, MemberRecord, NodeId, Process, StreamName
from tests.simulation.checkers import Checker, Violation, all_checkers
from tests.simulation.clock import Clock
from tests.simulation.disk import Disk, Operation
from tests.simulation.elector import Elector
from tests.simulation.history import Content, History, Tenure
from tests.simulation.network import Network
from tests.simulation.node import Node
from tests.simulation.trace import Trace

if TYPE_CHECKING:
    from replicator.core.replica import Replica

ReplicaType = Callable[[Config, Durable, Process, float, Callable[[], float]], "Replica"]
DiskType = type[Disk]


class Plan(Struct, frozen=True, kw_only=True):
    """How large the world is, and for how long it runs; drawn per seed by `draw_plan`."""

    node_count: int
    stream_count: int
    engine_chance: float
    fault_s: float
    fault_mean_s: float
    submit_mean_s: float
    delete_chance: float
    heartbeat_interval_s: float
    lease_s: float
    clock_rate_bound: float = 0.01
    window_frames_max: int = 32
    fetches_max: int = 16
    behind_heads_max: int = 256
    bump_after_s: float = 1.0
    lapse_max_s: float = 5.0
    favoured: str = ""  # a kind of fault that comes again and again, to test that it is of use


def draw_plan(random: Random) -> Plan:
    """The plan of a seed."""
    heartbeat = random.choice((0.06, 0.15, 0.2, 0.2, 0.25, 0.25))
    return Plan(
        node_count=random.choice((1, 2, 3, 3, 3, 3, 3, 4, 5, 5, 7)),
        stream_count=random.choice((1, 2, 2, 4)),
        engine_chance=random.choice((1.0, 1.0, 0.7)),
        fault_s=55.0,
        fault_mean_s=random.choice((0.4, 0.8, 1.1)),
        submit_mean_s=random.choice((0.12, 0.3, 0.6)),
        delete_chance=random.choice((0.0, 0.01, 0.05)),
        heartbeat_interval_s=heartbeat,
        lease_s=random.choice((3.0, 4.0)) * heartbeat,
        clock_rate_bound=random.choice((0.01, 0.01, 0.1)),
        window_frames_max=random.choice((4, 8, 32)),
        fetches_max=random.choice((1, 2, 16)),
        behind_heads_max=random.choice((1, 256)),
        bump_after_s=random.choice((0.3, 1.0)),
        lapse_max_s=random.choice((1.0, 5.0)),
    )


class _Adapted(Protocol):
    def __call__(self, *args: object) -> None: ...


class World:
    """Everything that there is. Build it, then `run_until`; a broken promise raises `Violation`."""

    def __init__(
        self,
        seed: int,
        plan: Plan,
        replica_type: ReplicaType,
        disk_type: DiskType = Disk,
        trace_kept: int | None = None,
    ) -> None:
        self.seed = seed
        self.plan = plan
        self.replica_type = replica_type
        self.random = Random(f"world {seed}")
        self.core_random = Random(f"core {seed}")
        self.now = 0.0
        self.trace = Trace(trace_kept)
        self.note = self.trace.entries.append
        self.history = History()
        self.event_count = 0
        self.restarts = True  # whether processes that die come back by themselves
        self.submit_mean_s = plan.submit_mean_s
        self.delete_chance = plan.delete_chance
        self.streams = [StreamName(f"s{index}") for index in range(plan.stream_count)]
        self.paces = {stream: self.random.choice((1.0, 1.0, 1.0, 6.0)) for stream in self.streams}
        self._queue: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._order = itertools.count()
        self._handles = itertools.count(1)
        self.network = Network(self.random, self.schedule, self._arrive)
        self.network.watch(lambda: self.now)
        self.elector = Elector(self)
        self.nodes: dict[NodeId, Node] = {}
        self._make_nodes(disk_type)
        self._checks: dict[str, list[_Adapted]] = {}
        self._writes: defaultdict[type, list[Callable[[Disk, Any, Event | None], None]]] = defaultdict(list)
        self.looks: defaultdict[type, list[Callable[[Node, Any], None]]] = defaultdict(list)
        for checker in all_checkers(self):
            self._register(checker)
        self.elector.start()

    # ── time ──

    def schedule(self, delay: float, function: Callable[..., None], *args: object) -> None:
        """Call *function* after *delay* seconds of true time."""
        due = self.now + delay if delay > 0.0 else self.now
        heapq.heappush(self._queue, (due, next(self._order), function, args))

    def run_until(self, end: float, done: Callable[[], bool] | None = None) -> bool:
        """Let things happen up to the instant *end*; True at once when *done* (asked as time goes on)."""
        queue, pop = self._queue, heapq.heappop
        asked = self.now
        while queue and queue[0][0] <= end:
            self.now, _, function, args = pop(queue)
            function(*args)
            if done is not None and self.now - asked > 0.05:
                asked = self.now
                if done():
                    return True
        self.now = end
        return done is not None and done()

    # ── nodes ──

    def add_stream(self) -> None:
        """One more stream, which whatever tenure there is begins at once."""
        stream = StreamName(f"s{len(self.streams)}")
        self.streams.append(stream)
        self.paces[stream] = 1.0
        for node in self.nodes.values():
            node.engine.begin(stream)

    def _make_nodes(self, disk_type: DiskType) -> None:
        plan, random = self.plan, self.random
        names = [NodeId(f"n{index}") for index in range(1, plan.node_count + 1)]
        for index, name in enumerate(names):
            others = frozenset(names) - {name}
            config = Config(
                node=name,
                peers=others,
                address=f"{name}:1",
                has_engine=index == 0 or random.random() < plan.engine_chance,
                heartbeat_interval_s=plan.heartbeat_interval_s,
                lease_s=plan.lease_s,
                clock_rate_bound=plan.clock_rate_bound,
                window_frames_max=plan.window_frames_max,
                fetches_max=plan.fetches_max,
                behind_heads_max=plan.behind_heads_max,
                bump_after_s=plan.bump_after_s,
                lapse_max_s=plan.lapse_max_s,
            )
            rate = 1 + random.uniform(-1, 1) * config.clock_rate_bound * 0.99
            clock = Clock(rate, random.uniform(0.0, 1000.0))
            disk = disk_type(name, self.new_incarnation(), random, self.schedule)
            disk.wrote = self._wrote
            self.nodes[name] = Node(self, name, config, clock, disk)
            self.schedule(random.uniform(0.0, 0.5), self.ensure_running, self.nodes[name])

    def new_incarnation(self) -> Incarnation:
        """The id of a store just made."""
        return Incarnation(self.random.randbytes(16))

    def new_process(self, node: NodeId) -> Process:
        """The id of a process about to start."""
        return Process(self.random.randbytes(16))

    def others(self, name: NodeId) -> list[Node]:
        """All nodes but that one."""
        return [node for other, node in self.nodes.items() if other != name]

    def ensure_running(self, node: Node) -> None:
        """Start the node's process unless it runs or is kept down."""
        if not node.is_running and not node.down_until_restart:
            node.start()

    def restart_later(self, node: Node) -> None:
        """A process has died by itself: its supervisor starts it again."""
        if self.restarts:
            self.schedule(self.random.uniform(0.05, 1.0), self.ensure_running, node)

    def store_failed(self, node: Node) -> None:
        """A store is dead until its process has been started again; somebody does that after a while."""
        self.schedule(self.random.uniform(0.2, 2.0), self._restart_failed, node, node.life)

    def _restart_failed(self, node: Node, life: int) -> None:
        if node.life == life:
            node.crash()
            self.restart_later(node)

    def newest_record(self) -> MemberRecord | None:
        """The newest founded member record on any disk."""
        images = [node.disk.image for node in self.nodes.values()]
        founded = [image for image in images if image.founded and image.record is not None]
        if not founded:
            return None
        return max(
            founded, key=lambda image: (image.record_epoch, image.record.version if image.record else 0)
        ).record

    def _arrive(self, source: NodeId, to: NodeId, frame: bytes) -> None:
        self.nodes[to].receive(source, frame)

    # ── what truly happens ──

    def next_handle(self) -> int:
        """The handle of the next payload."""
        return next(self._handles)

    def _register(self, checker: Checker) -> None:
        for effect in checker.watches:
            self.looks[effect].append(checker.performed)
        for operation in checker.writes:
            self._writes[operation].append(checker.wrote)
        for name in ("tenure", "restored", "submitted", "finished"):
            method = getattr(type(checker), name)
            if method is not getattr(Checker, name):
                self._checks.setdefault(name, []).append(getattr(checker, name))

    def stop_checking(self) -> None:
        """Let happen whatever happens, for tests of what no honest replica would do."""
        for looks in (self.looks, self._writes, self._checks):
            looks.clear()

    def check(self, what: str, *args: object) -> None:
        """Ask all checkers that look at *what*."""
        for method in self._checks.get(what, ()):
            method(*args)

    def content_for(self, effect: Publish) -> Content:
        """The content that a publication stands for."""
        if effect.handle in self.history.handles:
            return self.history.handles[effect.handle]
        for content in sorted(self.history.tombstones):
            if self.history.places[content] == (effect.epoch, effect.sequence):
                return content
        raise Violation("I7", f"publication of {effect.stream} at {effect.epoch}.{effect.sequence}: of what?")

    def published(self, node: Node, manifest: Manifest, content: Content) -> None:
        """A manifest has been made."""
        known = self.history.contents.setdefault(Digest(manifest.digest), content)
        key = (StreamName(manifest.stream), manifest.position)
        digest = self.history.positions.setdefault(key, Digest(manifest.digest))
        if known != content or digest != manifest.digest:
            raise Violation("I4", f"{node.name} names two contents {manifest.stream}@{manifest.position}")

    def tenure_started(self, node: Node, effect: StartTenure, restored: dict[StreamName, Content]) -> None:
        """An engine is handed a tenure."""
        unavailable = frozenset(StreamName(head.stream) for head in effect.unavailable)
        tenure = Tenure(self.now, node.name, node.process, effect.epoch, restored, unavailable)
        self.check("tenure", node, tenure, effect)
        self.history.tenures[effect.epoch] = tenure

    def submitted(self, node: Node, handle: int) -> None:
        """An engine has submitted."""
        self.check("submitted", node, handle)

    def _wrote(self, disk: Disk, operation: Operation, event: Event | None) -> None:
        if type(operation) is WritePromise:
            node = self.nodes[disk.node]
            if operation.promise.owner.process == node.process:
                node.reign = Epoch(operation.promise.epoch)
        for look in self._writes[type(operation)]:
            look(disk, operation, event)
