"""Faults of disks: slow, failing, full, rotten, lost, and replaced by an empty one or by an old copy.

A disk may be destroyed only while the rest of the members' disks are a majority; beyond that nothing is
promised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replicator.model import MemberRecord, NodeId
from tests.simulation.data import report_rot
from tests.simulation.history import is_quorum
from tests.simulation.image import Image

if TYPE_CHECKING:
    from tests.simulation.faults import Faults
    from tests.simulation.node import Node


class DiskFaults:
    """What can happen to the disks of one world."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._world = faults.world
        self._random = faults.random
        self._replaced: set[NodeId] = set()  # with an empty disk that does not count yet
        self._rolled_back: set[NodeId] = set()  # with last week's copy
        self._copies: dict[NodeId, Image] = {}
        self._shelf: dict[NodeId, Image] = {}  # disks that others have taken the place of

    def kinds(self) -> list[tuple[float, Callable[[], str]]]:
        """The kinds of fault with their weights."""
        return [
            (1.0, self.slow_disk), (1.0, self.failed_sync), (0.7, self.full_disk), (0.7, self.rot),
            (0.7, self.wipe), (0.8, self.roll_back), (0.4, self.all_full),
        ]  # fmt: skip

    def slow_disk(self) -> str:
        """Syncs take long for a while."""
        node = self._faults.any_node()
        if node is None:
            return ""
        node.disk.sync_mean_s = self._random.choice((0.02, 0.1, 0.5))
        self._faults.for_a_while(setattr, node.disk, "sync_mean_s", 0.002)
        return node.name

    def failed_sync(self) -> str:
        """The next sync fails (R21)."""
        node = self._faults.any_node()
        if node is None:
            return ""
        node.disk.fails_next = True
        return node.name

    def full_disk(self) -> str:
        """No room, and room again after a while."""
        node = self._faults.any_node()
        if node is None:
            return ""
        brimful = self._random.random() < 0.5
        node.disk.set_full(True, brimful)
        self._faults.for_a_while(node.disk.set_full, False, mean_s=3.0)
        return f"{node.name} to the brim" if brimful else node.name

    def all_full(self) -> str:
        """No room on any disk: until a stream is deleted, or somebody makes some after a while (R21)."""
        for node in self._world.nodes.values():
            node.disk.set_full(True)
            node.disk.is_freed_by_deletion = True
        self._faults.for_a_while(self._make_room, mean_s=3.0)
        return "all nodes"

    def _make_room(self) -> None:
        for node in self._world.nodes.values():
            node.disk.set_full(False)

    def rot(self) -> str:
        """A chunk rots; only while every other member's disk is whole, so that a good copy is left."""
        node = self._faults.any_node()
        if node is None or not self.may_rot(node):
            return ""
        streams = sorted(node.disk.image.streams)
        if not streams or not node.disk.damage(self._random.choice(streams)):
            return ""
        if self._random.random() < 0.5:
            self._faults.for_a_while(self.scrub, node)
        return node.name

    def may_rot(self, node: Node | None = None) -> bool:
        """Whether some node (or that one) may lose a chunk: only one node's disk may be bad at a time."""
        bad = self._bad_disks() - ({node.name} if node is not None else set())
        return len(self._world.nodes) > 1 and not bad

    @staticmethod
    def scrub(node: Node) -> None:
        """Find everything that is rotten."""
        for digest in sorted(node.disk.image.damaged):
            if node.is_running:
                report_rot(node, digest)

    def _bad_disks(self) -> set[NodeId]:
        """Nodes whose disk is not to be relied on: lost ones not yet put in their old place, and rotten."""
        nodes, record = self._world.nodes, self._world.newest_record()
        if record is not None and self._is_settled(record):
            present = {member.incarnation for member in record.members}
            self._replaced = {
                name for name in self._replaced if nodes[name].disk.image.incarnation not in present
            }
        return (
            self._replaced
            | self._rolled_back
            | {name for name, node in nodes.items() if node.disk.image.is_bad}
        )

    def _is_settled(self, record: MemberRecord, without: Node | None = None) -> bool:
        """Whether no change of members is under way, as a majority (of others) has it written down."""
        return not record.old and self._is_held(record, without)

    def _is_held(self, record: MemberRecord, without: Node | None = None) -> bool:
        stored = {
            node.disk.image.incarnation
            for node in self._world.nodes.values()
            if node.disk.image.record == record and node.disk.image.founded and node is not without
        }
        return is_quorum(record, stored)

    def may_lose(self, node: Node) -> bool:
        """Whether the node's disk may be destroyed: the rest are a majority, one of which can lead.

        What it has written down of others goes too, so nobody may depend on that to know of an old copy.
        """
        if self._rolled_back - {node.name}:
            return False
        record = self._world.newest_record()
        if record is not None and not self._is_settled(record, without=node):
            return False  # which disks count is open
        bad = self._bad_disks() | {node.name}
        good = [other for name, other in self._world.nodes.items() if name not in bad]
        if not any(_may_lead(other) for other in good):
            return False  # nobody who could take the new disk in
        return 2 * len(good) > len(self._world.nodes)

    def wipe(self) -> str:
        """An empty disk in the place of the old one (R20), or that old one again."""
        node = self._faults.any_node(running=False)
        assert node is not None
        if node.name in self._shelf and self._random.random() < 0.5:
            return self._put_back(node)
        return node.name if self.lose(node) else ""

    def lose(self, node: Node, mean_s: float | None = None) -> bool:
        """Put an empty disk in the place of the node's, if enough others are left; it is up again later."""
        if not self.may_lose(node):
            return False
        self._faults.take_down(node, power=True, mean_s=mean_s)
        self.replace_disk(node)
        return True

    def replace_disk(self, node: Node) -> None:
        """An empty disk, with a new incarnation, in the place of the old one."""
        self._replaced.add(node.name)
        self._rolled_back.discard(node.name)
        self._copies.pop(node.name, None)
        if node.disk.image.founded and not (node.disk.image.is_bad or node.disk.image.is_old):
            self._shelf[node.name] = node.disk.image
        node.disk.replace(Image(self._world.new_incarnation()))

    def _put_back(self, node: Node) -> str:
        """The disk that an empty one has taken the place of is there again: it was away for a while."""
        if not self.may_lose(node):
            return ""
        self._swap_back(node)
        return f"{node.name}, its old disk is back"

    def put_back_within_a_change(self, node: Node) -> bool:
        """The same while the members change from that disk to the one in its place, most others have that
        written down, and all others are good: both sets have a majority left without either (R27)."""
        record, old = self._world.newest_record(), self._shelf.get(node.name)
        if record is None or old is None or self._bad_disks() - {node.name}:
            return False
        leaves = {member.incarnation for member in record.old} - {
            member.incarnation for member in record.members
        }
        if leaves != {old.incarnation} or not self._is_held(record, without=node):
            return False
        self._swap_back(node, mean_s=0.1)
        return True

    def _swap_back(self, node: Node, mean_s: float | None = None) -> None:
        self._faults.take_down(node, power=True, mean_s=mean_s)
        self._replaced.add(node.name)
        self._rolled_back.discard(node.name)
        self._copies.pop(node.name, None)
        node.disk.replace(self._shelf.pop(node.name))

    def roll_back(self) -> str:
        """Somebody takes a copy of a disk; one day it is put back in the place of the disk (T19)."""
        node = self._faults.any_node(running=False)
        assert node is not None
        copy, image = self._copies.get(node.name), node.disk.image
        if copy is None or copy.incarnation != image.incarnation:
            self._copies[node.name] = image.copy()
            return ""
        return node.name if self.put_copy_back(node, copy) else ""

    def put_copy_back(self, node: Node, copy: Image, mean_s: float | None = None) -> bool:
        """Put that copy of the node's disk in its place, if all others know of something newer; the node is
        up again later."""
        if copy.incarnation != node.disk.image.incarnation or not copy.founded:
            return False
        if not self._is_remembered(node, copy) or not self.may_lose(node):
            return False
        self._faults.take_down(node, power=True, mean_s=mean_s)
        self._rolled_back.add(node.name)
        copy.is_old = True
        node.disk.replace(copy)
        self._copies.pop(node.name, None)
        return True

    def _is_remembered(self, node: Node, copy: Image) -> bool:
        """Whether all other disks hold a counter above the copy's.

        Whoever claims must be one of those that know, and what the peers have heard and not yet written down
        goes with their processes: a copy that is older by no more than that would not be noticed (R21).
        """
        others = [other.disk.image.remembered for other in self._world.others(node.name)]
        return all(dict(known.get(node.name, ())).get(copy.incarnation, 0) > copy.counter for known in others)


def _may_lead(node: Node) -> bool:
    """Whether the node has an engine and knows itself to be a member: it may not have heard yet."""
    image = node.disk.image
    known = image.record.members if image.record is not None and image.founded else ()
    return node.config.has_engine and any(one.incarnation == image.incarnation for one in known)
