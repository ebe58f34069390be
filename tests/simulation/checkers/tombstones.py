"""I11: a tombstone outlives every older record of its stream."""

from __future__ import annotations

from replicator.core.effects import ForgetTombstone
from replicator.core.events import Event
from replicator.model import StreamName
from tests.simulation.checkers.base import Checker, Violation
from tests.simulation.disk import Disk, Operation


class Tombstones(Checker):
    """When a tombstone is forgotten, no member's disk may have anything older of its stream. An old copy that
    was put back has it; its replica is faulty as soon as it hears anybody (R21)."""

    writes = (ForgetTombstone,)

    def wrote(self, disk: Disk, operation: Operation, event: Event | None) -> None:
        if not isinstance(operation, ForgetTombstone) or operation.stream in disk.image.streams:
            return
        record = disk.image.record
        present = {one.incarnation for one in record.members} if record else set()
        for node in self.world.nodes.values():
            newest = node.disk.image.newest(StreamName(operation.stream))
            if newest is None or node.disk.image.incarnation not in present or node.disk.image.is_old:
                continue
            if (
                newest.manifest.sequence < operation.sequence
                and newest.manifest.generation <= operation.generation
            ):
                raise Violation(
                    "I11",
                    f"{disk.node} forgets the deletion of {operation.stream} at {operation.sequence}, "
                    f"{node.name} still has {newest.manifest.position}",
                )


CHECKER = Tombstones
