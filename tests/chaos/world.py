"""The world of one chaos run: nodes, network and disks, who is primary, and what is whole just now.

Nodes are those of the integration tests. Their lines are read as they come, for steering and liveness only;
the verdict over the history is made from the files at the end (`history`). All of it belongs to one thread.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

from replicator.errors import Unavailable
from tests.chaos.network import Cut, Network, run
from tests.chaos.progress import Progress, Work, has_majority
from tests.integration.cluster import Cluster, Node, now
from tests.integration.commands import PROGRAM
from tests.integration.memory import MIB, resident_bytes

STREAMS = 4
SIZES = "200,20000,400000,1500000"  # from a few bytes to several chunks
CHANGE_BYTES = 20_000
INTERVAL_S = 0.05
DISK_BYTES = 192 * MIB  # of a node's small disk: several times what it holds
AGAIN_S = 0.2  # between questions to a node that is coming back
COMPLAINTS = ("Traceback (most recent call last)", " ERROR ", " CRITICAL ", "rotten checkpoint found")
TRACE_LINES = 25
MEMBER_ROLES = ("primary", "backup")


class Options(NamedTuple):
    """What a run is made of."""

    nodes: int
    seed: int
    namespaces: bool


class World:
    """Use it in a ``with`` statement; everything is gone after it."""

    def __init__(self, directory: Path, options: Options) -> None:
        self.random = random.Random(options.seed)
        self.progress = Progress()
        self.works: list[Work] = []  # faults that are over
        self.notes: Counter[str] = Counter()
        self.peak_bytes: Counter[str] = Counter()  # of memory, by kind of process
        self.names = [f"n{index + 1}" for index in range(options.nodes)]
        self.down: Counter[str] = Counter()  # node -> how many faults have it down
        self.cuts: Counter[Cut] = Counter()
        self.joining: dict[str, float] = {}  # nodes that come back -> when to ask them again
        self.thin: set[str] = set()  # nodes with a spoilt link
        self.small: list[str] = []  # nodes with a disk of their own
        self.primary = ""
        self._epoch = 0
        self._stack = ExitStack()
        self._directory = directory
        self.network: Network | None = None
        with ExitStack() as undo:
            if options.namespaces:
                self.network = Network(self.names, options.seed)
                undo.callback(self.network.close)
            disks = undo.enter_context(ExitStack())  # which go when all processes have gone
            self.cluster = undo.enter_context(self._make_cluster(self.network))
            if self.network is not None:
                self._mount_disks(disks)
            self._stack = undo.pop_all()

    def __enter__(self) -> World:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _make_cluster(self, network: Network | None) -> Cluster:
        scratch = self._directory / "scratch"
        scratch.mkdir()
        addresses = [network.address(name) for name in self.names] if network else ()
        # A worker killed again and again is what is wanted here: it is never given up.
        settings = {"worker_restarts_max": "1000", "scrub_interval_s": "20"}
        cluster = Cluster(
            self._directory,
            len(self.names),
            streams=STREAMS,
            interval_s=INTERVAL_S,
            payload_bytes=SIZES,
            change_bytes=CHANGE_BYTES,
            follow=True,
            addresses=addresses,
            **settings,
        )
        keys = self._directory / "keys"
        subprocess.run([*PROGRAM, "keygen", *self.names, "-o", str(keys)], check=True, capture_output=True)
        for name, node in cluster.nodes.items():
            node.environ["TMPDIR"] = str(scratch)
            node.environ["REPLICATOR_SECRET_KEY_FILE"] = str(keys / f"{name}.secret")
            node.environ["REPLICATOR_PEER_KEYS_FILE"] = str(keys / "peers.keys")
            node.prefix = network.prefix(name) if network else ()
        return cluster

    def _mount_disks(self, undo: ExitStack) -> None:
        """Give a minority a small disk of its own; the others keep the machine's, with real syncs."""
        self.small = self.names[: (len(self.names) - 1) // 2] or self.names[:1]
        for name in self.small:
            path = self[name].data_dir
            path.mkdir()
            run("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "chaos", str(path))
            undo.callback(run, "umount", str(path))

    def __getitem__(self, name: str) -> Node:
        return self.cluster[name]

    @property
    def nodes(self) -> Sequence[Node]:
        """All nodes."""
        return list(self.cluster.nodes.values())

    # ── what is whole ──

    @property
    def impaired(self) -> set[str]:
        """Nodes that do not count just now."""
        return {*(+self.down), *self.joining}

    def set_down(self, name: str, change: int) -> None:
        """A fault has the node down (1), or has it down no longer (-1)."""
        self.down[name] += change
        self.look()

    def set_cut(self, cuts: Sequence[Cut], change: int) -> None:
        """A fault cuts these (1), or cuts them no longer (-1)."""
        for cut in cuts:
            self.cuts[cut] += change
        self.look()

    def start(self, name: str) -> None:
        """Begin a life; the node counts when it says that it is a member."""
        self[name].start()
        self.ask_later(name)

    def ask_later(self, name: str) -> None:
        """The node counts again when it says that it is a member."""
        self.joining[name] = now() + AGAIN_S
        self.look()

    def look(self) -> None:
        """Note whether a majority can commit."""
        able = has_majority(self.names, self.impaired, +self.cuts)
        self.progress.set_able(now(), able)

    # ── what goes on ──

    def poll(self) -> None:
        """Read what the engines have logged, ask those who come back, look at the memory."""
        for node in self.nodes:
            node.poll()
            for entry in node.entries:
                self._heed(entry)
            node.entries.clear()
        for name in [name for name, due in self.joining.items() if now() >= due and not self.down[name]]:
            self.joining[name] = now() + AGAIN_S
            own = self.member(name)
            if own is not None and own["role"] in MEMBER_ROLES and not own["changing"]:
                del self.joining[name]
                self.look()

    def _heed(self, entry: dict[str, Any]) -> None:
        kind = entry["kind"]
        self.notes[kind] += 1
        if kind == "committed":
            self.progress.commits.append(entry["at"])
        elif kind == "tenure" and entry["epoch"] > self._epoch:
            self._epoch, self.primary = entry["epoch"], entry["node"]

    def watch_memory(self) -> None:
        """Note the largest anonymous memory of engines and of workers."""
        for node in self.nodes:
            if node.is_running:
                for kind, pids in (("engine", [node.pid]), ("worker", node.worker_pids)):
                    self.peak_bytes[kind] = max(self.peak_bytes[kind], *map(resident_bytes, pids), 0)

    def member(self, name: str) -> dict[str, Any] | None:
        """The node's own word about itself; None while it gives none."""
        with suppress(Unavailable, OSError):
            found = [member for member in self[name].status()["members"] if member["node"] == name]
            return found[0] if found and found[0]["reachable"] else None
        return None

    def is_whole(self) -> bool:
        """Whether every node is up and a member, hears all others, and lacks nothing for long."""
        if self.impaired or +self.cuts:
            return False
        members: dict[str, dict[str, Any]] = {}
        with suppress(Unavailable, OSError):
            members = self[self.primary or self.names[0]].members()
        roles = [member["role"] for member in members.values()]
        if len(members) < len(self.names) or roles.count("primary") != 1:
            return False
        lags = [stream["lag_s"] for member in members.values() for stream in member["streams"]]
        return (
            all(role in MEMBER_ROLES for role in roles)
            and not any(member["changing"] or member["full"] for member in members.values())
            and all(lag is not None and lag < 1.0 for lag in lags)
        )

    # ── the end ──

    def left_over(self) -> list[str]:
        """What the nodes have left behind when all have ended: sockets, temporary files, processes."""
        found = [str(path) for node in self.nodes for path in node.data_dir.rglob("*.sock")]
        found += [str(path) for path in (self._directory / "scratch").rglob("*")]
        return found + [f"process {pid}: {command}" for pid, command in _strangers(str(self._directory))]

    def complaints(self) -> list[str]:
        """What no node has a reason to print here: tracebacks, errors, and rot, for no disk rots in a run."""
        found = []
        for node in self.nodes:
            lines = node.output().splitlines()
            for number, line in enumerate(lines):
                if any(mark in line for mark in COMPLAINTS):
                    found.append(
                        "\n".join([f"{node.name}: {line}", *lines[number + 1 : number + TRACE_LINES]])
                    )
        return found


def _strangers(mark: str) -> list[tuple[int, str]]:
    """Processes whose environment names the run's directory, but for this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        pid = int(path.name)
        with suppress(OSError):
            if pid != os.getpid() and mark.encode() in (path / "environ").read_bytes():
                found.append((pid, (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()))
    return found
