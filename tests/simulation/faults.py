"""Faults, drawn per seed: each kind has a weight of its own (swarm), so that seeds differ in character.

Those of disks are in `disk_faults`, those that take several steps in `plots`. Every fault mends itself
after a while; `heal` mends what is left at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replicator.model import Incarnation, NodeId, Role
from tests.simulation.disk_faults import DiskFaults
from tests.simulation.elector import Mood
from tests.simulation.network import CALM, Weather
from tests.simulation.plots import Plots

if TYPE_CHECKING:
    from tests.simulation.node import Node
    from tests.simulation.world import World

TRIES = 4  # draws until a kind of fault can be injected in the present state


class Faults:
    """Injects faults into a world until told to stop."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world.random
        self.injected: dict[str, int] = {}
        self.is_on = True
        self.disks = DiskFaults(self)
        plots = Plots(self)
        kinds: list[tuple[float, Callable[[], str]]] = [
            (2.0, self._kill), (2.0, self._kill_within), (1.0, self._power_loss), (1.5, self._pause),
            (2.0, self._split), (1.5, self._one_way), (1.0, self._flap), (2.0, self._storm),
            (1.0, self._overflow), (2.0, self._moody), (0.7, self._engine_gone), (0.7, self._resign),
            (0.5, self._clock), (0.5, self._slow_publisher), *self.disks.kinds(), *plots.kinds(),
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

    def any_node(self, running: bool = True) -> Node | None:
        """A node; often one that matters now."""
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
        node = self.any_node()
        if node is None:
            return ""
        self.take_down(node, power=False)
        return node.name

    def _kill_within(self) -> str:
        node = self.any_node()
        if node is None:
            return ""
        node.crash_within(self.random.choice((0, 1, 2, 3, 5, 10, 30)))
        return node.name

    def _power_loss(self) -> str:
        names = sorted(self.world.nodes)
        count = self.random.choice((1, 2, len(names) // 2 + 1, len(names)))
        chosen = self.random.sample(names, min(count, len(names)))
        if not any(self.world.nodes[name].is_running for name in chosen):
            return ""
        for name in chosen:
            self.take_down(self.world.nodes[name], power=True)
        return " ".join(chosen)

    def _pause(self) -> str:
        node = self.any_node()
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
        node = self.any_node()
        if node is not None and self.random.random() < 0.4:
            side = {node.name}
        links = [(a, b) for a in names for b in names if (a in side) != (b in side)]
        return self._cut(links, f"{sorted(side)} from the rest")

    def _one_way(self) -> str:
        """Some directions work no longer: all into or out of a node, or a random few."""
        names = sorted(self.world.nodes)
        if len(names) < 2:
            return ""
        node = self.any_node() or self.world.nodes[names[0]]
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

    def _overflow(self) -> str:
        """A subscriber's queue is full: for a while nothing that one node publishes reaches another (R18)."""
        names = sorted(self.world.nodes)
        if len(names) < 2:
            return ""
        link = tuple(self.random.sample(names, 2))
        if link in self.world.network.deaf:
            return ""
        self.world.network.deaf.add(link)
        self.for_a_while(self.world.network.deaf.discard, link)
        return f"{link[0]} to {link[1]}"

    def _clear_up(self) -> None:
        self.world.network.weather = CALM

    def _slow_publisher(self) -> str:
        node = self.any_node()
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
        node = self.any_node()
        if node is None or not node.config.has_engine:
            return ""
        node.engine.set_there(False)
        self.for_a_while(node.engine.set_there, True)
        return node.name

    def _resign(self) -> str:
        node = self.any_node()
        if node is None or not node.engine.epoch:
            return ""
        successor = self.random.choice([None, None, *sorted(self.world.nodes)])
        node.engine.resign(successor, if_able=self.random.random() < 0.5)
        return f"{node.name} to {successor or 'anybody'}"

    def _clock(self) -> str:
        node = self.any_node(running=False)
        assert node is not None
        bound = node.config.clock_rate_bound * 0.99
        node.clock.change_rate(self.world.now, 1 + self.random.choice((-bound, bound, 0.0)))
        return f"{node.name} at {node.clock.rate:.4f}"

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
        """What an operator does: a node that stays faulty, or is not taken in, gets an empty disk."""
        for node in self.world.nodes.values():
            bad = node.role is Role.FAULTY or node.disk.image.incarnation in self._refused()
            if bad and node.is_running and self.disks.may_lose(node):
                self.world.trace.add(self.world.now, "fault", "replace", node.name)
                node.crash(power=True)
                self.disks.replace_disk(node)
                self.bring_up(node)

    def _refused(self) -> set[Incarnation]:
        """The stores that a primary does not take in: what they hold may be deleted (R23)."""
        replicas = [node.replica for node in self.world.nodes.values() if node.replica is not None]
        reigns = [replica._primary.reign for replica in replicas]
        return {who[1] for reign in reigns if reign is not None for who in reign.membership.refused}
