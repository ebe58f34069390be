"""One node of the demo: a name and a data directory, and one engine process after the other.

An engine ends by itself when the director does (`tie`).
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Literal

from replicator.addresses import PORTS_PER_NODE, Peers, format_peers
from replicator.demo.records import Entry, Journal, Prediction, Predictions, Result
from replicator.model import NodeId, Position
from replicator.settings import Settings

State = Literal["starting", "backup", "restoring", "primary", "finished", "dead"]

PORTS = range(20_000, 30_000, PORTS_PER_NODE)  # below those that systems hand out by themselves
OWN_SETTINGS = ("NODE", "PEERS", "DATA_DIR", "CLUSTER", "SECRET_KEY_FILE", "PEER_KEYS_FILE", "ACKS")
LOG_LINES_SHOWN = 15


class Node:
    """A node over all its lives. Each has a directory of its own for what it writes down."""

    def __init__(self, name: str, base: Path, environ: Mapping[str, str]) -> None:
        self.name = name
        self.state: State = "dead"
        self.epoch = 0  # of its newest tenure
        self.head: Position | None = None  # what its store held when it last looked
        self.entries: list[Entry] = []
        self.directories: list[Path] = []
        self._usage: list[dict[str, float]] = []  # of each life, when it last looked
        self._base = base
        self._environ = environ

    def start(self, command: list[str]) -> None:
        """Begin a life; the program is told the life's directory as its last argument."""
        directory = self._base / f"{self.name}-life-{len(self.directories) + 1}"
        directory.mkdir()
        self.directories.append(directory)
        self._usage.append({})
        self._journal = Journal(directory)
        self.state, self.head = "starting", None
        with (directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*command, str(directory)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self._environ,
                start_new_session=True,
            )

    def read_new(self) -> list[Entry]:
        """The entries that have come since the last call; keeps up with the state that they tell."""
        new = self._journal.read_new()
        for entry in new:
            match entry.kind:
                case "waiting" | "ended":
                    self.state = "backup"
                case "restored":
                    self.state, self.epoch = "restoring", entry.epoch
                case "serving":
                    self.state = "primary"
                case "finished":
                    self.state = "finished"
                case "status":
                    self.head, self._usage[-1] = entry.position, entry.numbers
        self.entries += new
        return new

    def count_committed(self) -> int:
        """How many commits it has been told of in its newest tenure."""
        return sum(entry.kind == "committed" and entry.epoch == self.epoch for entry in self.entries)

    def total(self, what: str) -> int:
        """The sum over all lives of what each has counted."""
        return int(sum(usage.get(what, 0) for usage in self._usage))

    @property
    def stored_bytes(self) -> int:
        """What its store holds."""
        return int(self._usage[-1].get("stored_bytes", 0))

    @property
    def has_died(self) -> bool:
        """Whether its engine process has ended without having been killed here."""
        return self.state != "dead" and self._process.poll() is not None

    def kill(self) -> None:
        """SIGKILL for all its processes; the worker first, which alone could say farewell to the others."""
        if self.state == "dead":
            return
        with self._process:  # which waits for its end, too
            for pid in [*reversed(_descendants(self._process.pid)), self._process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.read_new()
        self.state = "dead"

    def predictions(self) -> Iterator[Prediction]:
        """Those of all its lives."""
        for directory in self.directories:
            yield from Predictions(directory).read()

    def result(self) -> Result | None:
        """What the present life has come to, once it has."""
        return Result.read(self.directories[-1])

    def last_words(self) -> str:
        """The end of the present life's log."""
        lines = (self.directories[-1] / "log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_LINES_SHOWN:]) or "(nothing)"


def make_nodes(count: int, base: Path) -> list[Node]:
    """*count* nodes on free ports of this machine; they share the settings of this process's environment.

    Raises `SettingsError` if those are wrong.
    """
    peers = free_peers(count)
    own = {f"REPLICATOR_{name}" for name in OWN_SETTINGS}
    shared = {name: value for name, value in os.environ.items() if name not in own}
    shared["REPLICATOR_CLUSTER"] = "demo"
    shared["REPLICATOR_PEERS"] = format_peers(peers)
    own_to_each = {
        node: {**shared, "REPLICATOR_NODE": node, "REPLICATOR_DATA_DIR": str(base / node)} for node in peers
    }
    for environ in own_to_each.values():
        Settings.from_env(environ)
    return [Node(node, base, environ) for node, environ in own_to_each.items()]


def free_peers(count: int) -> Peers:
    """*count* nodes of this machine, on ports that nobody uses just now."""
    ports = islice(_free_ports(), count)
    return {NodeId(f"edge-{number}"): ("127.0.0.1", port) for number, port in enumerate(ports, start=1)}


def _free_ports() -> Iterator[int]:
    """First ports of free runs of `PORTS_PER_NODE`."""
    for first in random.sample(PORTS, len(PORTS)):
        with contextlib.ExitStack() as sockets, contextlib.suppress(OSError):
            for port in range(first, first + PORTS_PER_NODE):
                sockets.enter_context(socket.socket()).bind(("127.0.0.1", port))
            sockets.close()
            yield first


def _descendants(pid: int) -> list[int]:
    """All children of a process and theirs, parents first."""
    found = [pid]
    for parent in found:
        for path in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, path.read_text().split())
    return found[1:]
