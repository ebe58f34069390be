"""Three nodes on this machine: the primary in this process, or beside it, and two that store and vote.

The two others are processes of their own (`bench.kit.node`), which end when this one does, however it does.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import msgspec

from replicator import Replicator, Settings, Tenure
from replicator.adapters.curve import PEER_KEYS_NAME, generate_keys
from replicator.addresses import Peers
from replicator.demo.node import free_peers

TIMEOUT_S = 60.0
END_TIMEOUT_S = 10.0
LEVEL_POLL_S = 0.02


class NodeProcess:
    """A node in a process of its own: without an engine, or (*module* `bench.kit.engine`) with one."""

    def __init__(self, settings: Settings, module: str = "bench.kit.node") -> None:
        self.settings = settings
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.tell(settings.to_json())

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def tell(self, line: bytes) -> None:
        """Write a line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()

    def read_line(self, timeout_s: float) -> bytes:
        """The next line that it says; raises TimeoutError if none comes."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], timeout_s)[0]:
            raise TimeoutError(f"{self.settings.node} says nothing for {timeout_s:.0f} s")
        return self._process.stdout.readline()

    def stop(self) -> None:
        """Have it end by itself; kill it if it does not."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class Cluster:
    """A cluster whose first node is this process's own; use it in a ``with`` statement.

    *changes* are settings that differ from the defaults; with *keys* all links are encrypted by CURVE;
    *modules* are what those nodes run that do not only store. `names` are the nodes' names, the primary's
    first, and `nodes` the others' processes. Without *own* the first node is the caller's to start.
    """

    def __init__(
        self,
        isolation: Literal["process", "thread"] = "thread",
        *,
        keys: bool = False,
        count: int = 3,
        directory: Path | None = None,
        modules: Mapping[str, str] | None = None,
        own: bool = True,
        **changes: Any,
    ) -> None:
        self._stack = ExitStack()
        self._changes = {"log_level": "ERROR", "isolation": isolation} | changes
        self._keys = keys
        self._parent = directory
        self._modules = dict(modules or {})
        self._own = own
        self.peers: Peers = free_peers(count) if count > 1 else {}
        self.names: list[str] = [*self.peers] or ["edge-1"]
        self.nodes: dict[str, NodeProcess] = {}
        self.replicator: Replicator
        self.tenure: Tenure

    def settings(self, name: str) -> Settings:
        """The settings of one node."""
        places: dict[str, Any] = {"node": name, "peers": self.peers, "data_dir": self.base / name}
        if self._keys:
            places["secret_key_file"] = self.base / "keys" / f"{name}.secret"
            places["peer_keys_file"] = self.base / "keys" / PEER_KEYS_NAME
        return msgspec.convert({**places, **self._changes}, Settings)

    def start(self, name: str, module: str = "bench.kit.node") -> NodeProcess:
        """Start a node of these; by default one that only stores and votes."""
        node = NodeProcess(self.settings(name), module)
        self.nodes[name] = node
        self._stack.callback(node.stop)
        return node

    def __enter__(self) -> Cluster:
        with self._stack:  # whatever fails below, what has been started is stopped
            directory = tempfile.TemporaryDirectory(prefix="replicator-bench-", dir=self._parent)
            self.base = Path(self._stack.enter_context(directory))
            if self._keys:
                generate_keys(list(self.peers), self.base / "keys")
            for name in self.names[1:]:
                self.start(name, self._modules.get(name, "bench.kit.node"))
            if self._own:
                self.replicator = self._stack.enter_context(Replicator(self.settings(self.names[0])))
                self.tenure = next(self.replicator.tenures(TIMEOUT_S))
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def pids(self) -> dict[str, int]:
        """The process of each node that stores, by name, the primary's worker first."""
        own = os.getpid()
        workers = _children(own) if self._changes["isolation"] == "process" else [own]
        others = {node.pid for node in self.nodes.values()}
        found = {self.names[0]: next(pid for pid in workers if pid not in others)}
        for name, node in self.nodes.items():  # what stores is the child of an engine, else the node itself
            found[name] = next(iter(_children(node.pid)), node.pid)
        return found

    def status(self) -> dict[str, Any]:
        """Each member's own word, by name."""
        members: Iterable[dict[str, Any]] = self.replicator.status()["members"]
        return {member["node"]: member for member in members}

    def level(self) -> list[dict[str, int]]:
        """What each node has sent and stored, the primary's first, once all have the same heads."""
        until = time.monotonic() + TIMEOUT_S
        while True:
            status = self.status()
            members = [status[name] for name in self.names]
            heads = [{each["stream"]: each["head"] for each in m.get("streams", ())} for m in members]
            if all(each == heads[0] for each in heads):
                return [member["usage"] for member in members]
            if time.monotonic() > until:
                raise TimeoutError(f"the nodes do not come to have the same heads: {heads}")
            time.sleep(LEVEL_POLL_S)


def descendants(pid: int) -> list[int]:
    """The children of a process and theirs, parents first."""
    found = [pid]
    for each in found:
        found += _children(each)
    return found[1:]


def _children(pid: int) -> list[int]:
    """The children of a process."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, path.read_text().split())
    return found
