"""Plots: several faults in the order that hurts, which chance alone would seldom bring about.

`usurp` takes a primary's hearing away while its lease still runs and names another (T22, the lease);
`orphan` leaves a stream's newest checkpoint with one reachable holder, and lets it rot (T13, T26);
`spoil` takes a primary down with the only good copy of a stream, which its successor finds out late (R8);
`comeback` brings a deposed primary back with a head that never committed, when its successor goes (T1, T2);
`lose_holder` destroys one of the few disks that hold what has committed, puts a new one in its place, and
takes the primary down as soon as it counts (T11);
`swap_back` has a backup's lost disk come back within the change of members that takes an empty one in, and
names its node (R27);
`revert` puts a backup's disk back to what it was a moment ago, and lets it speak before it hears, while the
primary waits for the others (T19);
`duel` names two claimants at once and cuts them off from each other (equal epochs, T28);
`begin_anew` deletes a stream, lets one backup miss that all know of it, and has another node take over (T18).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replicator.model import NodeId, Role, Sequence, StreamName
from tests.simulation.image import Image

if TYPE_CHECKING:
    from tests.simulation.faults import Faults
    from tests.simulation.node import Node

LOOK_S = 0.1
STEP = 1000  # of a sequence, above which a stream does not come again by itself


class Plots:
    """Plots against one world, with the means of its faults."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._world = faults.world
        self._random = faults.random

    def kinds(self) -> list[tuple[float, Callable[[], str]]]:
        """The kinds of fault with their weights."""
        return [
            (2.0, self.usurp), (0.7, self.orphan), (1.5, self.lag_behind), (1.0, self.duel),
            (1.0, self.comeback), (0.7, self.lose_holder), (0.5, self.begin_anew), (0.7, self.revert),
            (0.5, self.spoil), (0.5, self.swap_back),
        ]  # fmt: skip

    def _primary(self) -> Node | None:
        active = [node for node in self._world.nodes.values() if node.role is Role.PRIMARY]
        return self._random.choice(active) if active else None

    def usurp(self) -> str:
        """The primary's answers come late, then it is cut off, in one direction or both, and another one is
        granted; perhaps those that lend to it are started anew meanwhile."""
        primary, random = self._primary(), self._random
        others = self._world.others(primary.name) if primary is not None else []
        others = [node for node in others if node.is_running and node.config.has_engine]
        if primary is None or not others:
            return ""
        rival = random.choice(others)
        lease_s = primary.config.lease_s
        lag_s = random.choice((0.0, 0.3, 0.6)) * lease_s
        into = [(node.name, primary.name) for node in self._world.others(primary.name)]
        for link in into:
            self._world.network.lags[link] = lag_s
        out = [(to, source) for source, to in into]
        pair = [(primary.name, rival.name), (rival.name, primary.name)]
        links = random.choice((out, pair, pair, out + into))
        self._world.schedule(3 * lease_s, self._cut_off, links, rival, into)
        return f"{rival.name} against {primary.name}, answers {lag_s:.2f} s late"

    def _cut_off(
        self, links: list[tuple[NodeId, NodeId]], rival: Node, lagging: list[tuple[NodeId, NodeId]]
    ) -> None:
        if not self._faults.is_on:
            return
        self._world.network.cut(links)
        self._world.elector.name(rival.name)
        self._faults.for_a_while(self._world.network.mend, links, mean_s=1.5)
        self._faults.for_a_while(self._catch_up, lagging, mean_s=2.0)
        if self._random.random() < 0.5:
            span = self._random.uniform(0.5, 2.0) * rival.config.lease_s
            self._world.schedule(span, self._start_lenders_anew, rival)

    def _start_lenders_anew(self, rival: Node) -> None:
        for node in self._world.others(rival.name):
            if self._faults.is_on and node.role is Role.BACKUP:
                node.crash()
                self._world.schedule(self._random.uniform(0.0, 0.1), self._world.ensure_running, node)

    def _catch_up(self, links: list[tuple[NodeId, NodeId]]) -> None:
        for link in links:
            self._world.network.lags.pop(link, None)

    def orphan(self) -> str:
        """Those that hold a stream's newest checkpoint go down, all but one, whose copy rots."""
        streams = [s for node in self._world.nodes.values() for s in node.disk.image.streams]
        if not streams or not self._faults.disks.may_rot():
            return ""
        stream = self._random.choice(sorted(streams))
        heads = {
            n: node.disk.image.newest(stream) for n, node in self._world.nodes.items() if node.is_running
        }
        orders = {n: (h.accepted_epoch, h.manifest.sequence) for n, h in heads.items() if h is not None}
        if not orders:
            return ""
        holders = sorted(name for name, order in orders.items() if order == max(orders.values()))
        keeper = self._world.nodes[self._random.choice(holders)]
        down = [name for name in holders if name != keeper.name]
        self._random.shuffle(down)
        for name in down[: (len(self._world.nodes) - 1) // 2]:
            self._faults.take_down(self._world.nodes[name], power=False, mean_s=3.0)
        if keeper.disk.damage(stream):
            self._faults.disks.scrub(keeper)
        return f"{stream} at {keeper.name}, of {' '.join(holders)}"

    def spoil(self) -> str:
        """All copies of a stream's newest checkpoint but the primary's rot, unseen, and it goes down."""
        primary = self._primary()
        streams = sorted(primary.disk.image.streams) if primary is not None else []
        if primary is None or not streams or not self._faults.disks.may_rot():
            return ""
        stream = self._random.choice(streams)
        newest = primary.disk.image.streams[stream][-1].manifest
        rotten = []
        for node in self._world.others(primary.name):
            theirs = node.disk.image.newest(stream)
            if theirs is not None and theirs.manifest == newest and node.disk.damage(stream):
                rotten.append(node.name)
        if not rotten:
            return ""
        self._faults.take_down(primary, power=False, mean_s=5.0)
        return f"{stream} at {' '.join(rotten)}, not at {primary.name}"

    def comeback(self) -> str:
        """A primary goes down with what only it has, and is back when its successor goes down (T1, T2)."""
        primary, random = self._primary(), self._random
        if primary is None or len(self._world.nodes) < 3:
            return ""
        links = [(primary.name, other.name) for other in self._world.others(primary.name)]
        links += [(to, source) for source, to in links]
        self._world.network.cut(links)
        self._world.schedule(random.uniform(0.1, 0.6), self._go_down, primary, links)
        return primary.name

    def _go_down(self, node: Node, links: list[tuple[NodeId, NodeId]]) -> None:
        if self._faults.is_on:
            self._world.network.mend(links)
            self._faults.take_down(node, power=False, mean_s=8.0)
            self._world.schedule(LOOK_S, self._look_for_successor, node, self._world.now + 6.0)

    def _look_for_successor(self, node: Node, until: float) -> None:
        successor = self._primary()
        if successor is not None and successor is not node:
            self._world.schedule(self._random.uniform(0.1, 0.8), self._come_back, node, successor)
        elif self._world.now < until:
            self._world.schedule(LOOK_S, self._look_for_successor, node, until)

    def _come_back(self, node: Node, successor: Node) -> None:
        if self._faults.is_on:
            self._faults.take_down(successor, power=False, mean_s=3.0)
            self._faults.bring_up(node)

    def lose_holder(self) -> str:
        """A backup is cut off while commits go on; then another one's disk is lost, and the first is back."""
        primary, random = self._primary(), self._random
        backups = [node for node in self._world.nodes.values() if node.role is Role.BACKUP]
        if primary is None or len(backups) < 2:
            return ""
        behind, loser = random.sample(backups, 2)
        links = [(behind.name, other.name) for other in self._world.others(behind.name)]
        links += [(to, source) for source, to in links]
        self._world.network.cut(links)
        self._world.schedule(random.uniform(0.5, 1.5), self._lose, loser, links)
        return f"{loser.name}, while {behind.name} is behind"

    def _lose(self, loser: Node, links: list[tuple[NodeId, NodeId]]) -> None:
        if not self._faults.is_on:
            return
        if self._faults.disks.lose(loser, mean_s=0.1):
            self._look_for_change(loser, self._world.now + 6.0)
        self._faults.for_a_while(self._world.network.mend, links, mean_s=0.1)

    def _look_for_change(self, loser: Node, until: float) -> None:
        """The primary goes down soon after the new disk counts."""
        if not self._faults.is_on:
            return
        primary, incarnation = self._primary(), loser.disk.image.incarnation
        record = primary.disk.image.record if primary is not None else None
        counts = record is not None and any(one.incarnation == incarnation for one in record.members)
        if primary is not None and record is not None and counts and not record.old:
            self._faults.take_down(primary, power=False, mean_s=3.0)
        elif self._world.now < until:
            self._world.schedule(LOOK_S / 4, self._look_for_change, loser, until)

    def swap_back(self) -> str:
        """A backup's disk is lost, and back while the members change to the one in its place (R27)."""
        backups = [node for node in self._world.nodes.values() if node.role is Role.BACKUP]
        node = self._random.choice(backups) if backups else None
        if node is None or not self._faults.disks.lose(node, mean_s=0.1):
            return ""
        self._look_for_joint(node, self._world.now + 6.0)
        return node.name

    def _look_for_joint(self, node: Node, until: float) -> None:
        if not self._faults.is_on or self._world.now > until:
            return
        if not self._faults.disks.put_back_within_a_change(node):
            self._world.schedule(LOOK_S / 100, self._look_for_joint, node, until)
            return
        primary = self._primary()
        if primary is not None and self._random.random() < 0.7:
            self._faults.take_down(primary, power=False, mean_s=1.0)
        self._faults.for_a_while(self._world.elector.name, node.name, mean_s=0.5)

    def lag_behind(self) -> str:
        """A backup gets no publications and hears little for a while: it is behind when it matters."""
        backups = [node for node in self._world.nodes.values() if node.role is Role.BACKUP]
        if not backups:
            return ""
        node = self._random.choice(backups)
        node.disk.sync_mean_s = 0.4
        self._faults.for_a_while(setattr, node.disk, "sync_mean_s", 0.002, mean_s=1.5)
        self._faults.for_a_while(self.orphan, mean_s=0.7)
        return node.name

    def duel(self) -> str:
        """Two claimants that do not hear each other, and no primary."""
        fit = [n for n, node in self._world.nodes.items() if node.is_running and node.config.has_engine]
        primary = self._primary()
        if len(fit) < 2:
            return ""
        left, right = self._random.sample(sorted(fit), 2)
        if primary is not None:
            self._faults.take_down(primary, power=False)
        links = [(NodeId(left), NodeId(right)), (NodeId(right), NodeId(left))]
        self._world.network.cut(links)
        self._faults.for_a_while(self._world.network.mend, links, mean_s=1.0)
        for name in (left, right):
            self._world.elector.name(name)
        return f"{left} {right}"

    def begin_anew(self) -> str:
        """A stream is deleted; one backup goes down before the word comes that all members know of it (R23),
        and the primary gives way to one that has forgotten the stream: it counts from 1 again."""
        primary = self._primary()
        backups = [node for node in self._world.nodes.values() if node.role is Role.BACKUP]
        if primary is None or not primary.engine.epoch or len(backups) < 2:
            return ""
        lines = primary.engine.lines
        unread = primary.engine.unread
        idle = [s for s, line in lines.items() if not (line.in_flight or line.deleted or s in unread)]
        if not idle:
            return ""
        stream, late = self._random.choice(sorted(idle)), self._random.choice(backups)
        sequence = Sequence(lines[stream].sequence + STEP)
        primary.engine.submit(stream, sequence, b"", deletes=True)
        self._look_for_tombstone(stream, late, primary, self._world.now + 2.0)
        return f"{stream}, {late.name} hears of it late"

    def _look_for_tombstone(self, stream: StreamName, late: Node, primary: Node, until: float) -> None:
        newest = [node.disk.image.newest(stream) for node in self._world.nodes.values()]
        if not self._faults.is_on or self._world.now > until:
            return
        if not all(one is not None and one.manifest.tombstone for one in newest):
            self._world.schedule(LOOK_S / 50, self._look_for_tombstone, stream, late, primary, until)
        elif late.is_running:
            self._faults.take_down(late, power=False, mean_s=3.0)
            self._world.schedule(2 * primary.config.heartbeat_interval_s, primary.engine.resign)

    def revert(self) -> str:
        """A backup goes down and is up again with its disk as it was a moment ago."""
        primary = self._primary()
        backups = [node for node in self._world.nodes.values() if node.role is Role.BACKUP]
        if primary is None or not backups:
            return ""
        node = self._random.choice(backups)
        copy = node.disk.image.copy()
        self._world.schedule(LOOK_S, self._go_back, primary, node, copy, 20)
        return node.name

    def _go_back(self, primary: Node, node: Node, copy: Image, looks: int) -> None:
        """It has connected to its peers at once, and they connect to it later; the other disks are slow."""
        if not self._faults.is_on or not looks or primary.role is not Role.PRIMARY:
            return
        if not self._faults.disks.put_copy_back(node, copy, mean_s=0.1):
            node.greet_all()  # a primary hears it anyhow; who takes over has to know too
            self._world.schedule(LOOK_S, self._go_back, primary, node, copy, looks - 1)
            return
        others = self._world.others(node.name)
        links = [(other.name, node.name) for other in others]
        self._world.network.lags.update(dict.fromkeys(links, self._random.choice((0.2, 0.6))))
        self._faults.for_a_while(self._catch_up, links)
        for other in others:
            if other is not primary:
                other.disk.sync_mean_s = 0.5
                self._faults.for_a_while(setattr, other.disk, "sync_mean_s", 0.002)
