"""I11: a tombstone outlives every older record of its stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from replicator.core.effects import Accept, ForgetTombstone
from replicator.core.events import Event
from replicator.model import StreamName
from tests.simulation.checkers.base import Checker, Violation
from tests.simulation.disk import Disk, Operation

if TYPE_CHECKING:
    from tests.simulation.world import World

EPOCH_MAX = 2**62


class Tombstones(Checker):
    """When a tombstone is forgotten, no member's disk may have anything older of its stream. An old copy that
    was put back has it; its replica is faulty as soon as it hears anybody (R21)."""

    writes: ClassVar[tuple[type, ...]] = (Accept, ForgetTombstone)

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._epochs: dict[tuple[str, int], int] = {}  # of the deletions, by stream and sequence

    def wrote(self, disk: Disk, operation: Operation, event: Event | None) -> None:
        if isinstance(operation, Accept) and operation.manifest.tombstone:
            manifest = operation.manifest
            self._epochs[manifest.stream, manifest.sequence] = manifest.epoch
        if not isinstance(operation, ForgetTombstone) or operation.stream in disk.image.streams:
            return
        epoch = self._epochs.get((operation.stream, operation.sequence), EPOCH_MAX)
        record = disk.image.record
        present = {one.incarnation for one in record.members} if record else set()
        for node in self.world.nodes.values():
            newest = node.disk.image.newest(StreamName(operation.stream))
            if newest is None or node.disk.image.incarnation not in present or node.disk.image.is_old:
                continue
            # A stream that is made anew where it is forgotten already counts from 1, in a later epoch.
            if newest.manifest.epoch <= epoch and newest.manifest.sequence < operation.sequence:
                raise Violation(
                    "I11",
                    f"{disk.node} forgets the deletion of {operation.stream} at {operation.sequence}, "
                    f"{node.name} still has {newest.manifest.position}",
                )


CHECKER = Tombstones
