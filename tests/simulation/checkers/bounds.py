"""I12: queues and disks stay within bounds. What a core asks for at once, and that it never raises, its node
checks."""

from __future__ import annotations

from typing import ClassVar

from replicator.core.effects import Accept, Effect, Fetch, MarkCommitted
from replicator.core.events import Event
from tests.simulation.checkers.base import Checker, Violation
from tests.simulation.disk import KEEP, Disk, Operation
from tests.simulation.node import Node

QUEUED_MAX = 400


class Bounds(Checker):
    """Counts what waits for the disk, what is being fetched, and what is kept below a committed head."""

    writes: ClassVar[tuple[type, ...]] = (Accept, MarkCommitted)
    watches: ClassVar[tuple[type, ...]] = (Fetch,)

    def performed(self, node: Node, effect: Effect) -> None:
        # One of the same stream gives way: the word of its end may have been on its way meanwhile.
        if isinstance(effect, Fetch) and node.fetcher.running_beside(effect) >= node.config.fetches_max:
            raise Violation("I12", f"{node.name} runs more than {node.config.fetches_max} fetches at once")

    def wrote(self, disk: Disk, operation: Operation, event: Event | None) -> None:
        if disk.queued_count > QUEUED_MAX:
            raise Violation("I12", f"{disk.queued_count} operations wait for the disk of {disk.node}")
        if isinstance(operation, MarkCommitted):
            kept = disk.image.streams.get(operation.stream, ())
            if len(kept) > KEEP + 1 and kept[-1].manifest.position == operation.position:
                what = f"{len(kept)} checkpoints of {operation.stream}, the newest of which has committed"
                raise Violation("I12", f"{disk.node} keeps {what}")


CHECKER = Bounds
