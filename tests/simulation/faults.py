"""Faults, drawn per seed: each kind has a weight of its own (swarm), so that seeds differ in character.

A disk may be destroyed only while the rest of the members' disks are a majority; beyond that nothing is
promised. Every fault mends itself after a while; `heal` mends what is left at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replicator.model import NodeId, Role
from tests.simulation.data import report_rot
from tests.simulation.disk import Image
from tests.simulation.elector import Mood
from tests.simulation.history import is_quorum
from tests.simulation.network import CALM, Weather
from tests.simulation.plots import Plots

if TYPE_CHECKING:
    from tests.simulation.node import Node
    from tests.simulation.world import World

TRIES = 4  # draws until a kind of fault can be injected in the present state
COPY_AGE_MIN_S = 6.0  # peers need some seconds until what they heard of a store is on their own disks


class Faults:
    """Injects faults into a world until told to stop."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world.random
        self.injected: dict[str, int] = {}
        self.is_on = True
        self._replaced: set[NodeId] = set()  # with an empty disk that does not count yet
        self._rolled_back: set[NodeId] = set()  # with last week's copy
        self._copies: dict[NodeId, tuple[float, Image]] = {}
        plots = Plots(self)
        kinds: list[tuple[float, Callable[[], str]]] = [
            (2.0, self._kill), (2.0, self._kill_within), (1.0, self._power_loss), (1.5, self._pause),
            (2.0, self._split), (1.5, self._one_way), (1.0, self._flap), (2.0, self._storm),
            (2.0, self._moody), (1.0, self._slow_disk), (1.0, self._failed_sync), (0.7, self._full_disk),
            (0.7, self._rot), (0.7, self._wipe), (0.4, self._roll_back), (0.7, self._engine_gone),
            (0.7, self._resign), (0.5, self._clock), (0.5, self._slow_publisher), (0.5, self._copy_disk),
            (2.0, plots.usurp), (0.7, plots.orphan), (1.5, plots.lag_behind), (1.0, plots.duel),
            (1.0, plots.comeback),
        ]  # fmt: skip
        self._kinds = [kind for _, kind in kinds]
        self._weights = [
            weight * self.random.choice((0.0, 0.0, 0.5, 1.0, 1.0, 3.0)) + 0.001 for weight, _ in kinds
        ]
        for index, kind in enumerate(self._kinds):
            if kind.__name__ == world.plan.favoured:
                self._weights[index] = sum(self._weights)

    @property
    def injected_count(self) -> int:
        """All faults so far."""
        return sum(self.injected.values())

    def start(self) -> None:
        """The first fault comes after the cluster had some time to found itself, mostly."""
        self.world.schedule(self.random.choice((0.0, 2.0, 3.0)), self._next)

    def _next(self) -> None:
        if not self.is_on:
            return
        for kind in self.random.choices(self._kinds, self._weights, k=TRIES):
            what = kind()
            if what:
                name = kind.__name__.strip("_")
                self.injected[name] = self.injected.get(name, 0) + 1
                self.world.trace.add(self.world.now, "fault", name, what)
                break
        self.world.schedule(self.random.expovariate(1.0) * self.world.plan.fault_mean_s, self._next)

    def for_a_while(self, mend: Callable[..., object], *args: object, mean_s: float = 1.5) -> float:
        """Call *mend* after a random span, unless the faults are over by then."""
        span = min(8.0, 0.02 + self.random.expovariate(1.0) * mean_s)
        self.world.schedule(span, self._mend, mend, args)
        return span

    def _mend(self, mend: Callable[..., object], args: tuple[object, ...]) -> None:
        if self.is_on:
            mend(*args)

    def _any(self, running: bool = True) -> Node | None:
        """A node; mostly one that matters now."""
        nodes = [node for node in self.world.nodes.values() if node.is_running or not running]
        primaries = [node for node in nodes if node.role in (Role.PRIMARY, Role.CANDIDATE)]
        if primaries and self.random.random() < 0.4:
            return self.random.choice(primaries)
        return self.random.choice(nodes) if nodes else None

    # ── processes ──

    def take_down(self, node: Node, *, power: bool, mean_s: float | None = None) -> None:
        """Kill the node's process (or machine), and start it again after a while."""
        node.crash(power=power)
        node.down_until_restart = True
        self.for_a_while(self.bring_up, node, mean_s=mean_s or self.random.choice((0.1, 1.0, 3.0)))

    def bring_up(self, node: Node) -> None:
        """Start the node's process unless it runs."""
        node.down_until_restart = False
        self.world.ensure_running(node)

    def _kill(self) -> str:
        node = self._any()
        if node is None:
            return ""
        self.take_down(node, power=False)
        return node.name

    def _kill_within(self) -> str:
        node = self._any()
        if node is None:
            return ""
        node.crash_within(self.random.choice((0, 1, 2, 3, 5, 10, 30)))
        return node.name

    def _power_loss(self) -> str:
        names = sorted(self.world.nodes)
        count = self.random.choice((1, 2, len(names) // 2 + 1, len(names)))
        chosen = self.random.sample(names, min(count, len(names)))
        for name in chosen:
            self.take_down(self.world.nodes[name], power=True)
        return " ".join(chosen)

    def _pause(self) -> str:
        node = self._any()
        if node is None:
            return ""
        node.pause(disk_too=self.random.random() < 0.5)
        span = self.for_a_while(self._resume, node, node.life, mean_s=self.random.choice((0.1, 0.5, 3.0)))
        return f"{node.name} for {span:.2f} s"

    @staticmethod
    def _resume(node: Node, life: int) -> None:
        if node.life == life:
            node.resume()

    # ── network ──

    def _split(self) -> str:
        """Two sides that do not hear each other."""
        names = sorted(self.world.nodes)
        if len(names) < 2:
            return ""
        side = set(self.random.sample(names, self.random.randint(1, max(1, len(names) - 1))))
        node = self._any()
        if node is not None and self.random.random() < 0.4:
            side = {node.name}
        links = [(a, b) for a in names for b in names if (a in side) != (b in side)]
        return self._cut(links, f"{sorted(side)} from the rest")

    def _one_way(self) -> str:
        """Some directions work no longer: all into or out of a node, or a random few."""
        names = sorted(self.world.nodes)
        if len(names) < 2:
            return ""
        node = self._any() or self.world.nodes[names[0]]
        links = [(a, b) for a in names for b in names if a != b]
        kind = self.random.choice(("into", "out of", "some around"))
        if kind == "into":
            links = [link for link in links if link[1] == node.name]
        elif kind == "out of":
            links = [link for link in links if link[0] == node.name]
        else:
            links = [link for link in links if self.random.random() < 0.3]
        return self._cut(links, f"{kind} {node.name}")

    def _cut(self, links: list[tuple[NodeId, NodeId]], what: str) -> str:
        self.world.network.cut(links)
        span = self.for_a_while(self.world.network.mend, links, mean_s=self.random.choice((0.3, 2.0)))
        return f"{what} for {span:.2f} s"

    def _flap(self) -> str:
        names = sorted(self.world.nodes)
        if len(names) < 2:
            return ""
        left, right = self.random.sample(names, 2)
        links = [(left, right), (right, left)]
        at = 0.0
        for _ in range(self.random.randint(2, 8)):
            start, span = at + self.random.uniform(0.0, 0.4), self.random.uniform(0.05, 0.5)
            at = start + span
            self.world.schedule(start, self._mend, self.world.network.cut, (links,))
            self.world.schedule(at, self._mend, self.world.network.mend, (links,))
        return f"{left} {right}"

    def _storm(self) -> str:
        random = self.random
        if len(self.world.nodes) < 2:
            return ""
        self.world.network.weather = Weather(
            loss=random.choice((0.0, 0.02, 0.1, 0.3)),
            duplicate=random.choice((0.0, 0.05, 0.3)),
            reorder=random.choice((0.0, 0.1, 0.5)),
            replay=random.choice((0.0, 0.02, 0.1)),
            garbage=random.choice((0.0, 0.01)),
            delay_mean_s=random.choice((0.0005, 0.005, 0.03, 0.1)),
            publication_loss=random.choice((0.0, 0.1, 0.5, 1.0)),
        )
        self.for_a_while(self._clear_up, mean_s=3.0)
        return str(self.world.network.weather)

    def _clear_up(self) -> None:
        self.world.network.weather = CALM

    def _slow_publisher(self) -> str:
        node = self._any()
        if node is None:
            return ""
        node.publish_mean_s = 0.1
        self.for_a_while(setattr, node, "publish_mean_s", 0.002)
        return node.name

    # ── elector, engine, clock ──

    def _moody(self) -> str:
        mood = self.random.choice(list(Mood))
        self.world.elector.set_mood(mood)
        self.for_a_while(self.world.elector.set_mood, Mood.CALM, mean_s=2.0)
        return mood.value

    def _engine_gone(self) -> str:
        node = self._any()
        if node is None or not node.config.has_engine:
            return ""
        node.engine.set_there(False)
        self.for_a_while(node.engine.set_there, True)
        return node.name

    def _resign(self) -> str:
        node = self._any()
        if node is None or not node.engine.epoch:
            return ""
        successor = self.random.choice([None, None, *sorted(self.world.nodes)])
        node.engine.resign(successor, if_able=self.random.random() < 0.5)
        return f"{node.name} to {successor or 'anybody'}"

    def _clock(self) -> str:
        node = self._any(running=False)
        assert node is not None
        bound = node.config.clock_rate_bound * 0.99
        node.clock.change_rate(self.world.now, 1 + self.random.choice((-bound, bound, 0.0)))
        return f"{node.name} at {node.clock.rate:.4f}"

    # ── disks ──

    def _slow_disk(self) -> str:
        node = self._any()
        if node is None:
            return ""
        node.disk.sync_mean_s = self.random.choice((0.02, 0.1, 0.5))
        self.for_a_while(setattr, node.disk, "sync_mean_s", 0.002)
        return node.name

    def _failed_sync(self) -> str:
        node = self._any()
        if node is None:
            return ""
        node.disk.fails_next = True
        return node.name

    def _full_disk(self) -> str:
        node = self._any()
        if node is None:
            return ""
        node.disk.set_full(True)
        self.for_a_while(node.disk.set_full, False, mean_s=3.0)
        return node.name

    def _rot(self) -> str:
        """A chunk rots; only while every other member's disk is whole, so that a good copy is left."""
        node = self._any()
        if node is None or not self.may_rot(node):
            return ""
        streams = sorted(node.disk.image.streams)
        if not streams or not node.disk.damage(self.random.choice(streams)):
            return ""
        if self.random.random() < 0.5:
            self.for_a_while(self.scrub, node)
        return node.name

    def may_rot(self, node: Node | None = None) -> bool:
        """Whether some node (or that one) may lose a chunk: only one node's disk may be bad at a time."""
        bad = self._bad_disks() - ({node.name} if node is not None else set())
        return len(self.world.nodes) > 1 and not bad

    @staticmethod
    def scrub(node: Node) -> None:
        """Find everything that is rotten."""
        for digest in sorted(node.disk.image.damaged):
            if node.is_running:
                report_rot(node, digest)

    def _copy_disk(self) -> str:
        name = self.random.choice(sorted(self.world.nodes))
        if name not in self._copies:
            self._copies[name] = (self.world.now, self.world.nodes[name].disk.image.copy())
        return name

    def _bad_disks(self) -> set[NodeId]:
        """Nodes whose disk is not to be relied on: lost ones not yet put in their old place, and rotten."""
        record = self.world.newest_record()
        nodes = self.world.nodes
        if record is not None and not record.old:
            stored = {
                node.disk.image.incarnation
                for node in nodes.values()
                if node.disk.image.record == record and node.disk.image.founded
            }
            if is_quorum(record, stored):
                present = {member.incarnation for member in record.members}
                self._replaced = {
                    name for name in self._replaced if nodes[name].disk.image.incarnation not in present
                }
        return (
            self._replaced
            | self._rolled_back
            | {name for name, node in nodes.items() if node.disk.image.damaged}
        )

    def _may_lose(self, node: Node) -> bool:
        record = self.world.newest_record()
        if record is not None and record.old:
            return False  # a change is under way: which disks count is open
        bad = self._bad_disks() | {node.name}
        nodes = self.world.nodes
        if not any(other.config.has_engine for name, other in nodes.items() if name not in bad):
            return False  # nobody could lead who takes the new disk in
        return 2 * (len(self.world.nodes) - len(bad)) > len(self.world.nodes)

    def _wipe(self) -> str:
        node = self._any(running=False)
        assert node is not None
        if not self._may_lose(node):
            return ""
        self.take_down(node, power=True)
        self.replace_disk(node)
        return node.name

    def replace_disk(self, node: Node) -> None:
        """An empty disk, with a new incarnation, in the place of the old one."""
        self._replaced.add(node.name)
        self._rolled_back.discard(node.name)
        self._copies.pop(node.name, None)
        node.disk.replace(Image(self.world.new_incarnation()))

    def _roll_back(self) -> str:
        """An older copy of the disk in the place of the disk."""
        node = self._any(running=False)
        assert node is not None
        taken_at, copy = self._copies.get(node.name, (self.world.now, node.disk.image))
        fits = copy.founded and copy.incarnation == node.disk.image.incarnation
        if not fits or self.world.now - taken_at < COPY_AGE_MIN_S or not self._may_lose(node):
            return ""
        self.take_down(node, power=True)
        self._rolled_back.add(node.name)
        node.disk.replace(copy)
        del self._copies[node.name]
        return node.name

    # ── the end ──

    def heal(self) -> None:
        """Stop, and mend everything that is not beyond mending; faulty stores are replaced by new ones."""
        self.is_on = False
        world = self.world
        world.trace.add(world.now, "fault", "heal")
        world.network.heal()
        world.elector.is_fair = True
        world.elector.set_mood(Mood.CALM)
        for node in world.nodes.values():
            node.disk.sync_mean_s = node.publish_mean_s = 0.002
            node.disk.fails_next = False
            node.disk.set_full(False)
            node.crash_within(1_000_000_000)
            while node.is_paused:
                node.resume()
            node.engine.set_there(node.config.has_engine)
            self.bring_up(node)

    def replace_faulty(self) -> None:
        """What an operator does: a node that stays faulty gets an empty disk."""
        for node in self.world.nodes.values():
            if node.role is Role.FAULTY and node.is_running and self._may_lose(node):
                self.world.trace.add(self.world.now, "fault", "replace", node.name)
                node.crash(power=True)
                self.replace_disk(node)
                self.bring_up(node)
