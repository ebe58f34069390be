"""This project in the comparison: worker as a process (the default) or a thread, synced or in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from bench.compare.system import Durability, System
from bench.kit.cluster import TIMEOUT_S, Cluster
from replicator import Committed


class Ours(System):
    """Three nodes; a put is a checkpoint, submitted and committed."""

    name = "replicator, process"
    durability: ClassVar[Durability] = "synced on a majority"
    changes: ClassVar[dict[str, Any]] = {"isolation": "process"}

    def start(self, base: Path) -> None:
        self.cluster = self.stack.enter_context(Cluster(directory=base, **self.changes))

    def put(self, stream: int, payload: bytearray) -> None:
        ticket = self.cluster.tenure.submit(f"{len(payload)}-{stream}", payload)
        if not isinstance(ticket.result(TIMEOUT_S), Committed):
            raise TimeoutError(f"{ticket} has not committed")
        ticket.released.wait(TIMEOUT_S)


class OursThread(Ours):
    """The worker as a thread of this process."""

    name = "replicator, thread"
    changes: ClassVar[dict[str, Any]] = {"isolation": "thread"}


class OursMemory(Ours):
    """Nothing waits for a sync."""

    name = "replicator, process"
    durability: ClassVar[Durability] = "not synced, on a majority"
    changes: ClassVar[dict[str, Any]] = {"isolation": "process", "durability": "memory"}


class OursMemoryThread(Ours):
    """Nothing waits for a sync; the worker as a thread of this process."""

    name = "replicator, thread"
    durability: ClassVar[Durability] = "not synced, on a majority"
    changes: ClassVar[dict[str, Any]] = {"isolation": "thread", "durability": "memory"}
