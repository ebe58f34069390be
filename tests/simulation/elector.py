"""The elector as an adversary: one stable leader when it is calm, anybody, several or nobody when not."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from replicator.model import NodeId

if TYPE_CHECKING:
    from tests.simulation.node import Node
    from tests.simulation.world import World

STEP_S = 0.1
ELECTION_MIN_S, ELECTION_MAX_S = 0.3, 0.8


class Mood(enum.Enum):
    """How the elector behaves."""

    CALM = "calm"  # one leader, connected with a majority; replaced some time after it is lost
    NOBODY = "nobody"  # nobody leads
    ANYBODY = "anybody"  # grants and revokes anybody at random, several at once
    TWO = "two"  # two nodes both believe that they lead
    RESTLESS = "restless"  # another leader again and again
    STUCK = "stuck"  # whoever is named stays named, also when nobody hears it any longer


class Elector:
    """Grants and revokes; knows nothing of data, leases or epochs."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.mood = Mood.CALM
        self.is_fair = False  # after the faults: transfers are always honoured
        self.granted: set[NodeId] = set()
        self._lost_since: float | None = None
        self._patience = 0.0
        self._declined: dict[NodeId, float] = {}
        self._named_until = 0.0

    @property
    def leader(self) -> NodeId | None:
        """The one leader of a calm elector."""
        return min(self.granted) if self.granted else None

    def start(self) -> None:
        """Begin to step."""
        self._world.schedule(STEP_S, self._step)

    def started(self, node: Node) -> None:
        """A process has started: it knows of no grant."""
        self.granted.discard(node.name)

    def stopped(self, node: Node) -> None:
        """A process has died."""
        self.granted.discard(node.name)

    def set_mood(self, mood: Mood) -> None:
        """Behave otherwise from now on."""
        self.mood = mood
        if mood is Mood.NOBODY:
            self._let_go(sorted(self.granted))

    def name(self, name: NodeId) -> None:
        """Name that node as well, and let it be for a while."""
        self._grant(name)
        self._named_until = self._world.now + self._world.random.uniform(0.3, 2.0)

    def transfer(self, node: Node, to: NodeId | None) -> None:
        """A replica gives leadership away; honoured mostly."""
        world = self._world
        self._declined[node.name] = world.now
        if node.name not in self.granted or not (self.is_fair or world.random.random() < 0.8):
            return
        self._let_go([node.name])
        if to is not None and to in world.nodes and world.random.random() < 0.8:
            world.schedule(world.random.uniform(0.02, 0.2), self._hand, to)

    def _hand(self, to: NodeId) -> None:
        if not self.granted and self.mood is Mood.CALM:
            self._grant(to)

    def _grant(self, name: NodeId) -> None:
        node = self._world.nodes[name]
        if name not in self.granted and node.is_running:
            self.granted.add(name)
            self._world.trace.add(self._world.now, name, "grant")
            node.grant()

    def _let_go(self, names: list[NodeId]) -> None:
        for name in names:
            if name in self.granted:
                self.granted.discard(name)
                self._world.trace.add(self._world.now, name, "revoke")
                self._world.nodes[name].revoke()

    def _step(self) -> None:
        world, random = self._world, self._world.random
        world.schedule(STEP_S, self._step)
        names = sorted(world.nodes)
        if world.now < self._named_until and not self.is_fair:
            return
        if self.mood is Mood.CALM:
            self._step_calm()
        elif self.mood is Mood.ANYBODY and random.random() < 0.3:
            name = random.choice(names)
            if name in self.granted:
                self._let_go([name])
            else:
                self._grant(name)
        elif self.mood is Mood.TWO and len(self.granted) < min(2, len(names)) and random.random() < 0.3:
            self._grant(random.choice(names))
        elif self.mood is Mood.RESTLESS and random.random() < 0.15:
            self._let_go(sorted(self.granted))
            self._grant(random.choice(names))

    def _step_calm(self) -> None:
        world, random = self._world, self._world.random
        leader = self.leader
        self._let_go([name for name in sorted(self.granted) if name != leader])
        if leader is not None and self._is_fit(leader):
            self._lost_since = None
            return
        fit = [name for name in sorted(world.nodes) if self._is_fit(name)]
        if self._lost_since is None:
            self._lost_since = world.now
            self._patience = random.uniform(ELECTION_MIN_S, ELECTION_MAX_S)
        elif world.now - self._lost_since >= self._patience and fit:
            self._let_go(sorted(self.granted))
            eager = [name for name in fit if world.now - self._declined.get(name, -9.0) > 3.0]
            self._grant(random.choice(eager or fit))
            self._lost_since = None

    @staticmethod
    def _can_lead(node: Node) -> bool:
        return node.replica is not None and node.replica.can_lead

    def _is_fit(self, name: NodeId) -> bool:
        """Up, awake, and heard by a majority of all nodes; when fair, also able to lead, which a worker tells
        its elector again and again (T17)."""
        world = self._world
        node = world.nodes[name]
        if not node.is_running or node.is_paused or (self.is_fair and not self._can_lead(node)):
            return False
        heard = [
            peer
            for peer in world.nodes.values()
            if peer.is_running and not peer.is_paused and world.network.connected(name, peer.name)
        ]
        return 2 * len(heard) > len(world.nodes)
