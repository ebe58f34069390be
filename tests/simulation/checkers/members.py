"""I10: quorums of adjacent member records intersect; records do not go back, and name who proposes them."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, ClassVar

from replicator.core.effects import Effect, WriteRecord
from replicator.core.events import Event
from replicator.model import Incarnation, MemberRecord
from tests.simulation.checkers.base import Checker, Violation
from tests.simulation.disk import Disk, Operation
from tests.simulation.history import is_quorum
from tests.simulation.node import Node
from tests.simulation.trace import show

if TYPE_CHECKING:
    from tests.simulation.world import World


def quorums_intersect(left: MemberRecord, right: MemberRecord) -> bool:
    """Whether every quorum of *left* meets every quorum of *right* (tried out: records are small)."""
    both = {Incarnation(one.incarnation) for record in (left, right) for one in record.members + record.old}
    everyone = sorted(both)
    return not any(
        is_quorum(left, set(some)) and is_quorum(right, both - set(some))
        for count in range(len(everyone) + 1)
        for some in combinations(everyone, count)
    )


class Members(Checker):
    """Follows the member records on all disks, and what each primary proposes after what."""

    watches: ClassVar[tuple[type, ...]] = (WriteRecord,)
    writes: ClassVar[tuple[type, ...]] = (WriteRecord,)

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._on_disk: dict[Incarnation, tuple[int, int]] = {}
        self._proposed: dict[tuple[bytes, int], MemberRecord] = {}
        self._fine: set[tuple[MemberRecord, MemberRecord]] = set()

    def performed(self, node: Node, effect: Effect) -> None:
        assert isinstance(effect, WriteRecord)
        if node.reign != effect.epoch or not effect.epoch:
            return
        key = (bytes(node.process), effect.epoch)
        before = self._proposed.setdefault(key, effect.record)
        self._proposed[key] = effect.record
        if (before, effect.record) not in self._fine and not quorums_intersect(before, effect.record):
            raise Violation("I10", f"quorums of {show(before)} and {show(effect.record)} need not meet")
        self._fine.add((before, effect.record))
        named = {member.incarnation for member in effect.record.members + effect.record.old}
        if node.disk.image.incarnation not in named:
            raise Violation(
                "I10", f"{node.name} reigns and proposes {show(effect.record)}, which leaves it out"
            )

    def wrote(self, disk: Disk, operation: Operation, event: Event | None) -> None:
        if not isinstance(operation, WriteRecord):
            return
        record, image = operation.record, disk.image
        if operation.epoch < image.promised_epoch:
            raise Violation("I2", f"{disk.node} accepts a member record below its promise")
        if operation.founded:
            order = (operation.epoch, record.version)
            if order < self._on_disk.get(image.incarnation, (0, 0)):
                raise Violation("I10", f"{disk.node}: the member record goes back to {order}")
            self._on_disk[image.incarnation] = order
            self.history.records.add(record)


CHECKER = Members
