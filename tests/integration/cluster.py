"""A cluster of real engine processes on loopback, and what their logs say when put together.

Each node runs `engine_script` with a data directory of its own; killing, stopping and continuing act on the
engine and its worker together, as the loss of a machine would, unless said otherwise. Tests wait on
conditions over the logs, with a deadline, and never sleep for luck.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from replicator.errors import Unavailable
from replicator.worker.admin import ask

SCRIPT = Path(__file__).with_name("engine_script.py")
ROOT = Path(__file__).parents[2]
POLL_S = 0.01
LOG_LINES_SHOWN = 30
PORTS_PER_NODE = 3

Entry = dict[str, Any]


class Node:
    """One node over all its lives: a name, a data directory, the lines of its log."""

    def __init__(self, name: str, directory: Path, environ: Mapping[str, str], arguments: list[str]) -> None:
        self.name = name
        self.data_dir = directory / "data"
        self.environ = dict(environ)
        self.entries: list[Entry] = []
        self.prefix: tuple[str, ...] = ()  # of every command: what puts it into another namespace
        self.log = directory / "log.jsonl"
        self._output = directory / "output"
        self._command = [sys.executable, str(SCRIPT), str(self.log), *arguments]
        self._process: subprocess.Popen[bytes] | None = None
        self._offset = 0
        self._stopped: list[int] = []
        self._orphans: list[int] = []  # workers whose engine was killed alone
        directory.mkdir(parents=True)
        self.log.touch()

    def start(self, *command: str, **settings: str) -> None:
        """Begin a life, with another *command* than the engine's if one is given; *settings* are
        `REPLICATOR_*` variables for it alone."""
        assert not self.is_running, f"{self.name} runs already"
        environ = {**self.environ, **{f"REPLICATOR_{k.upper()}": v for k, v in settings.items()}}
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                (*self.prefix, *(command or self._command)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environ,
                cwd=ROOT,
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        """Whether the engine's process is there (it may be stopped)."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The engine's process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def worker_pids(self) -> list[int]:
        """The process ids of its worker, if that is a process."""
        return _descendants(self.pid) if self.is_running else []

    def kill(self) -> None:
        """SIGKILL for all processes of the node; the worker first, which alone could say farewell."""
        if self.is_running:
            for pid in [*self.worker_pids, self.pid]:
                _signal(pid, signal.SIGKILL)
        self.wait()

    def kill_engine(self) -> None:
        """SIGKILL for the engine's process alone: its worker has to notice."""
        self._orphans += self.worker_pids
        _signal(self.pid, signal.SIGKILL)
        self.wait()

    def kill_worker(self) -> None:
        """SIGKILL for the worker alone: its engine has to notice."""
        for pid in self.worker_pids:
            _signal(pid, signal.SIGKILL)

    def stop_worker(self) -> None:
        """SIGSTOP for the worker alone."""
        self._stopped = self.worker_pids
        for pid in self._stopped:
            _signal(pid, signal.SIGSTOP)

    def stop_engine(self) -> None:
        """SIGSTOP for the engine alone: its worker goes on."""
        self._stopped = [self.pid]
        _signal(self.pid, signal.SIGSTOP)

    def stop(self) -> None:
        """SIGSTOP for all processes of the node."""
        self._stopped = [*self.worker_pids, self.pid]  # it still reads what its worker had told it
        for pid in self._stopped:
            _signal(pid, signal.SIGSTOP)

    def cont(self) -> None:
        """SIGCONT for all that `stop` has stopped."""
        for pid in reversed(self._stopped):
            _signal(pid, signal.SIGCONT)
        self._stopped = []

    def terminate(self) -> None:
        """SIGTERM for the engine, and wait for its orderly end."""
        _signal(self.pid, signal.SIGTERM)
        self.wait()

    def wait(self, timeout_s: float = 15.0) -> int:
        """Wait for the engine's end; its status."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def wipe(self) -> None:
        """Lose the disk. The node must not run."""
        assert not self.is_running
        shutil.rmtree(self.data_dir, ignore_errors=True)

    def status(self) -> dict[str, Any]:
        """What the node's admin socket says; raises `Unavailable`."""
        return ask(self.data_dir, {"command": "status"})

    def members(self) -> dict[str, dict[str, Any]]:
        """The members that answer, by name, as this node's status has them; none while it gives no answer."""
        try:
            members = self.status()["members"]
        except Unavailable:
            return {}
        return {member["node"]: member for member in members if member["reachable"]}

    def hand_over(self, to: str | None = None) -> dict[str, Any]:
        """Tell a primary to make room for another; what its admin socket says to that."""
        return ask(self.data_dir, {"command": "handover", "to": to})

    def poll(self) -> None:
        """Read what has been logged since the last call."""
        with self.log.open("rb") as log:
            log.seek(self._offset)
            data = log.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        self.entries += [{"node": self.name, **json.loads(line)} for line in whole.splitlines()]

    def last_words(self) -> str:
        """The end of what it has printed."""
        lines = self.output().splitlines()
        return "\n".join(f"  {self.name}| {line}" for line in lines[-LOG_LINES_SHOWN:])

    def output(self) -> str:
        """All that it has printed, in all its lives."""
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    def close(self) -> None:
        """End every process of the node, for good."""
        if self._process is not None:
            self.cont()
            self.kill()
        for pid in filter(is_alive, self._orphans):
            _signal(pid, signal.SIGKILL)


class Cluster:
    """Nodes ``n1``, ``n2``, …; use it in a ``with`` statement. One node is a standalone one."""

    def __init__(
        self,
        directory: Path,
        size: int = 3,
        *,
        streams: int = 1,
        interval_s: float = 0.02,
        payload_bytes: int | str = 1000,
        change_bytes: int = 1000,
        follow: bool = False,
        addresses: Sequence[str] = (),
        **settings: str,
    ) -> None:
        names = [f"n{index + 1}" for index in range(size)]
        addresses = addresses or [f"127.0.0.1:{port}" for port in free_ports(size)]
        environ = {k: v for k, v in os.environ.items() if not k.startswith("REPLICATOR_")}
        environ |= {f"REPLICATOR_{name.upper()}": value for name, value in settings.items()}
        environ["PYTHONPATH"] = str(ROOT)
        if size > 1:
            pairs = zip(names, addresses, strict=True)
            environ["REPLICATOR_PEERS"] = ",".join(map("=".join, pairs))
        arguments = [str(streams), str(interval_s), str(payload_bytes), str(change_bytes)]
        arguments += ["follow"] if follow else []
        self.nodes: dict[str, Node] = {}
        for name in names:
            own = {"REPLICATOR_NODE": name, "REPLICATOR_DATA_DIR": str(directory / name / "data")}
            self.nodes[name] = Node(name, directory / name, {**environ, **own}, arguments)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note("\n".join(node.last_words() for node in self.nodes.values()))
        for node in self.nodes.values():
            node.close()

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def start(self, *names: str) -> None:
        """Start these nodes, or all."""
        for name in names or self.nodes:
            self.nodes[name].start()

    def kill_all(self) -> None:
        """SIGKILL for every process of every node at once, as when the power goes."""
        running = [node for node in self.nodes.values() if node.is_running]
        for pid in [pid for node in running for pid in (*node.worker_pids, node.pid)]:
            _signal(pid, signal.SIGKILL)
        for node in running:
            node.wait()

    # ── what the logs say ──

    def entries(self, kind: str, node: str | None = None, since: float = 0.0) -> list[Entry]:
        """All lines of that kind, in the order of their instants."""
        for each in self.nodes.values():
            each.poll()
        found = [
            entry
            for each in self.nodes.values()
            if node in (None, each.name)
            for entry in each.entries
            if entry["kind"] == kind and entry["at"] >= since
        ]
        return sorted(found, key=lambda entry: float(entry["at"]))

    def wait(self, condition: Callable[[], Any], timeout_s: float = 15.0, what: str = "") -> Any:
        """Wait until *condition* gives something true, and return it."""
        return wait_until(condition, timeout_s, what)

    def wait_tenure(self, since: float = 0.0, node: str | None = None, timeout_s: float = 15.0) -> Entry:
        """The newest tenure that has started since then."""
        what = f"a tenure on {node}"
        found: list[Entry] = self.wait(lambda: self.entries("tenure", node, since), timeout_s, what)
        return found[-1]

    def wait_commits(
        self, count: int, since: float = 0.0, node: str | None = None, timeout_s: float = 15.0
    ) -> list[Entry]:
        """At least *count* commits since then."""

        def enough() -> list[Entry]:
            found = self.entries("committed", node, since)
            return found if len(found) >= count else []

        found: list[Entry] = self.wait(enough, timeout_s, f"{count} commits on {node}")
        return found

    def lost(self) -> list[Entry]:
        """The commits that a later tenure has not restored, neither themselves nor as an ancestor (I3)."""
        parents = {entry["digest"]: entry["parent"] for entry in self.entries("submitted")}
        commits = self.entries("committed")
        lines = {
            (entry["epoch"], entry["stream"]): _line(entry["digest"], parents)
            for entry in self.entries("restored")
        }
        return [
            commit
            for tenure in self.entries("tenure")
            for commit in commits
            if commit["position"][0] < tenure["epoch"]
            and commit["digest"] not in lines.get((tenure["epoch"], commit["stream"]), ())
        ]


def now() -> float:
    """The instant that log lines carry."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wait_until(condition: Callable[[], Any], timeout_s: float = 15.0, what: str = "") -> Any:
    """Wait until *condition* gives something true, and return it."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what or condition}"
        time.sleep(POLL_S)
    return found


def is_alive(pid: int) -> bool:
    """Whether the process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _line(digest: str, parents: Mapping[str, str]) -> set[str]:
    """A state and all its ancestors."""
    line = set()
    while digest and digest not in line:
        line.add(digest)
        digest = parents.get(digest, "")
    return line


def free_ports(count: int) -> list[int]:
    """First ports of free triples, below the range that the kernel gives out by itself."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 32_000, PORTS_PER_NODE)
        if port not in found and all(map(_is_free, range(port, port + PORTS_PER_NODE))):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _descendants(pid: int) -> list[int]:
    """All children of a process and theirs, the deepest first."""

    def below(parent: int) -> Iterator[int]:
        for path in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                for child in map(int, path.read_text().split()):
                    yield from below(child)
                    yield child

    return list(below(pid))


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
