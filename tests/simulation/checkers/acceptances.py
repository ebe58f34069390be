"""I2: no acceptance below the promise at the instant it is written; the head's order never falls."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from replicator.core.effects import Accept, AdoptHeads, ForgetTombstone
from replicator.core.events import Accepted, Event, HeadsAdopted
from replicator.model import Incarnation, StreamName
from tests.simulation.checkers.base import Checker, Violation
from tests.simulation.disk import Disk, Operation

if TYPE_CHECKING:
    from tests.simulation.world import World


class Acceptances(Checker):
    """Follows every disk's heads, and tells the history who accepted what."""

    writes: ClassVar[tuple[type, ...]] = (Accept, AdoptHeads, ForgetTombstone)

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._orders: dict[tuple[Incarnation, StreamName], tuple[int, int]] = {}

    def wrote(self, disk: Disk, operation: Operation, event: Event | None) -> None:
        if disk.image.is_old:
            return  # of an old copy that was put back nothing counts: whoever counts it has no majority (R21)
        if isinstance(operation, Accept) and isinstance(event, Accepted):
            self._accepted(disk, StreamName(operation.manifest.stream), operation.epoch)
        elif isinstance(operation, AdoptHeads) and isinstance(event, HeadsAdopted):
            for stream in disk.image.streams:
                if stream not in operation.exceptions:
                    self._accepted(disk, stream, operation.epoch)
        elif isinstance(operation, ForgetTombstone) and operation.stream not in disk.image.streams:
            self._orders.pop((disk.image.incarnation, StreamName(operation.stream)), None)

    def _accepted(self, disk: Disk, stream: StreamName, epoch: int) -> None:
        image = disk.image
        newest = image.newest(stream)
        assert newest is not None
        if epoch < image.promised_epoch:
            raise Violation("I2", f"{disk.node} accepts {stream} in {epoch}, has {image.promised_epoch}")
        order = (newest.accepted_epoch, newest.manifest.sequence)
        key = (image.incarnation, stream)
        if order < self._orders.get(key, (0, 0)):
            raise Violation("I2", f"{disk.node}: {stream} falls from {self._orders[key]} to {order}")
        self._orders[key] = order
        self.history.accept(newest.accepted_epoch, image.incarnation, newest.manifest)


CHECKER = Acceptances
