"""I12: queues stay within bounds. What a core asks for at once, and that it never raises, its node checks."""

from __future__ import annotations

from replicator.core.effects import Accept
from replicator.core.events import Event
from tests.simulation.checkers.base import Checker, Violation
from tests.simulation.disk import Disk, Operation

QUEUED_MAX = 400


class Bounds(Checker):
    """Counts what waits for the disk."""

    writes = (Accept,)

    def wrote(self, disk: Disk, operation: Operation, event: Event | None) -> None:
        if disk.queued_count > QUEUED_MAX:
            raise Violation("I12", f"{disk.queued_count} operations wait for the disk of {disk.node}")


CHECKER = Bounds
