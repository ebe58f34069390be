"""PySyncObj as the data path: the payload itself is a replicated call, three processes, in memory.

Its log is kept in memory, so an acknowledged call survives processes as long as one of a majority lives.
The two others stand for election much later than this process, which therefore leads.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from bench.compare.system import Absent, Durability, System, free_ports, wait_until

TIMEOUT_S = 60
# As shipped a call waits for two ticks of 50 ms, and a large one is sent in pieces of 64 KiB.
OPTIONS = {
    "appendEntriesUseBatch": False,  # a call wakes the node
    "appendEntriesPeriod": 0.02,
    "autoTickPeriod": 0.005,
    "appendEntriesBatchSizeBytes": 2**21,
}


def make_node(own: str, others: list[str], patience: float) -> Any:
    """A node that keeps the newest payload of each name."""
    pysyncobj: Any = import_module("pysyncobj")

    class Store(pysyncobj.SyncObj):  # type: ignore[misc]
        """The replicated object."""

        def __init__(self) -> None:
            config = pysyncobj.SyncObjConf(
                raftMinTimeout=patience,
                raftMaxTimeout=patience * 1.5,
                connectionTimeout=max(3.5, 2 * patience),
                **OPTIONS,
            )
            super().__init__(own, others, config)
            self.state: dict[int, bytes] = {}

        @pysyncobj.replicated  # type: ignore[untyped-decorator]
        def store(self, stream: int, payload: bytes) -> None:
            """Keep *payload*."""
            self.state[stream] = payload

    return Store()


class PySyncObj(System):
    """A replicated call for each put."""

    name = "PySyncObj as data path"
    durability: ClassVar[Durability] = "not synced, on a majority"
    remark = "in memory only; 16 MB it does not take; " + ", ".join(f"{k}={v}" for k, v in OPTIONS.items())
    size_max: ClassVar[int] = 2**20

    def start(self, base: Path) -> None:
        nodes = [f"127.0.0.1:{port}" for port in free_ports(3)]
        for number in (1, 2):
            others = [node for node in nodes if node != nodes[number]]
            command = [sys.executable, "-m", "bench.compare.raft", nodes[number], *others]
            self.spawn(command, base / f"n{number}.log")
        self._node = make_node(nodes[0], nodes[1:], 0.5)
        self.stack.callback(self._node.destroy)
        wait_until("a leader", lambda: self._node._isLeader() and self._node.isReady())

    def put(self, stream: int, payload: bytearray) -> None:
        done, failures = threading.Event(), []

        def ended(result: object, error: object) -> None:
            if error:
                failures.append(error)
            done.set()

        self._node.store(stream, bytes(payload), callback=ended)
        if not done.wait(TIMEOUT_S) or failures:
            raise Absent(f"PySyncObj did not take {len(payload)} bytes (error {failures})")


if __name__ == "__main__":
    make_node(sys.argv[1], sys.argv[2:], 20.0)
    signal.sigwait({signal.SIGTERM})
    os._exit(0)
