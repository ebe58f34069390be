"""The worker as a process: it follows its engine, whatever happens to that, and heeds no group's signal."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from replicator.adapters.store import LmdbStore
from replicator.errors import Unavailable
from replicator.link import messages as link
from replicator.link.endpoint import EngineEnd
from replicator.link.lease import LeaseWords
from replicator.model import NodeId
from replicator.settings import Settings
from replicator.worker.admin import ask
from replicator.worker.watch import EngineWatch
from tests.worker.nodes import free_addresses

DEADLINE_S = 10.0
SPAWNER = """
import os, subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", sys.argv[5], *sys.argv[1:5],
    "--engine-pid", str(os.getpid())], stdin=subprocess.PIPE, pass_fds=(int(sys.argv[4]),))
worker.stdin.write(sys.stdin.buffer.readline()); worker.stdin.flush()
print(worker.pid, flush=True)
if sys.stdin.buffer.readline().strip() == b"exec":
    os.execvp("sleep", ["sleep", "60"])
"""
WORKER = "import sys; from replicator.worker.main import main; sys.exit(main())"
STUCK_WORKER = f"""
import threading; from replicator.adapters.store import LmdbStore
LmdbStore.close = lambda self: threading.Event().wait()
{WORKER}"""


class Spawned:
    """A process that has spawned a worker, and that worker."""

    def __init__(self, directory: Path, program: str = WORKER) -> None:
        self.settings = Settings(node=NodeId("alone"), data_dir=directory / "data")
        self.words = LeaseWords.create()
        address = f"ipc://{directory}/link"
        self.end = EngineEnd(address)
        self.parent = subprocess.Popen(
            [sys.executable, "-c", SPAWNER, "--link", address, "--lease-fd", str(self.words.fd), program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(self.words.fd,),
        )
        assert self.parent.stdout is not None
        self.tell_parent(self.settings.to_json())
        self.pid = int(self.parent.stdout.readline())
        self.pidfd = os.pidfd_open(self.pid)

    def tell_parent(self, line: bytes) -> None:
        """Write that to its standard input."""
        assert self.parent.stdin is not None
        self.parent.stdin.write(line + b"\n")
        self.parent.stdin.flush()

    def wait(self, kind: type[object]) -> None:
        """Wait for a message of that kind."""
        deadline = time.monotonic() + DEADLINE_S
        while not any(isinstance(message, kind) for message, _ in self.end.receive()):
            assert time.monotonic() < deadline
            self.end.socket.poll(100)

    def wait_ended(self, timeout_s: float = DEADLINE_S) -> float:
        """Wait until the worker has ended; how long that took."""
        poller = zmq.Poller()
        poller.register(self.pidfd, zmq.POLLIN)
        began = time.monotonic()
        assert poller.poll(int(timeout_s * 1000)), "the worker lives on"
        return time.monotonic() - began

    def close(self) -> None:
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self.parent.kill()
        self.parent.wait()
        for pipe in (self.parent.stdin, self.parent.stdout):
            assert pipe is not None
            pipe.close()
        os.close(self.pidfd)
        self.end.close()
        self.words.close()


def status_of(data_dir: Path) -> dict[str, Any]:
    """The node's status, as soon as it serves its admin socket."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            return ask(data_dir, {"command": "status"})
        except Unavailable:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def spawned(tmp_path: Path) -> Iterator[Spawned]:
    spawned = Spawned(tmp_path)
    spawned.wait(link.Started)
    yield spawned
    spawned.close()


def test_the_worker_follows_a_killed_engine(spawned: Spawned) -> None:
    """SIGKILL for the engine: the worker closes its store and ends, and leaves no socket behind."""
    spawned.end.send(link.Ready(True))
    spawned.wait(link.TenureStarted)
    spawned.parent.kill()
    assert spawned.wait_ended() < 2
    assert not (spawned.settings.data_dir / "admin.sock").exists()


def test_the_worker_follows_an_engine_that_becomes_another_program(spawned: Spawned) -> None:
    """After an exec the process lives on, and has the worker for a child; but nobody serves there."""
    spawned.end.send(link.Ready(True))
    spawned.wait(link.TenureStarted)
    spawned.tell_parent(b"exec")
    spawned.wait_ended()
    assert spawned.parent.poll() is None


def test_a_worker_that_is_stuck_at_its_end_does_not_outlive_its_engine(tmp_path: Path) -> None:
    """A part that does not close, as one whose disk does not answer, keeps the store from nobody: the
    engine's next process opens it."""
    spawned = Spawned(tmp_path, STUCK_WORKER)
    try:
        spawned.wait(link.Started)
        spawned.parent.kill()
        spawned.wait_ended()
        LmdbStore.open(spawned.settings.data_dir, cluster="replicator", node=NodeId("alone")).close()
    finally:
        spawned.close()


def test_the_worker_may_have_all_descriptors_that_there_are(tmp_path: Path) -> None:
    """A worker's soft limit is its hard one; a process that has started one keeps its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = (min(soft, 256), hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, low)
    try:
        spawned = Spawned(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    spawned.wait(link.Started)
    assert resource.prlimit(spawned.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    assert resource.prlimit(spawned.parent.pid, resource.RLIMIT_NOFILE) == low
    spawned.close()


def test_the_worker_ends_when_it_is_told_to(spawned: Spawned) -> None:
    """Close is the orderly way."""
    spawned.end.send(link.Close())
    spawned.wait_ended()


def test_signals_of_the_group_do_not_end_the_worker(spawned: Spawned) -> None:
    """Ctrl-C, a service manager's SIGTERM and a terminal's end are the engine's to act upon: it has a
    checkpoint to commit."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.pidfd_send_signal(spawned.pidfd, each)
    assert status_of(spawned.settings.data_dir)["node"] == "alone"
    spawned.end.send(link.Ready(True))
    spawned.wait(link.TenureStarted)


def test_a_node_without_engine_ends_on_sigterm(tmp_path: Path) -> None:
    """`run_node` stores and votes in the foreground until SIGTERM, and ends with status 0."""
    program = (
        "import sys; from replicator.worker.main import run_node; from replicator.settings import Settings; "
    )
    program += "sys.exit(run_node(Settings.from_json(sys.stdin.buffer.readline())))"
    settings = Settings(
        node=NodeId("a"),
        peers=dict(zip((NodeId("a"), NodeId("b")), free_addresses(2), strict=True)),
        data_dir=tmp_path / "data",
    )
    node = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
    assert node.stdin is not None
    with node.stdin as stdin:
        stdin.write(settings.to_json() + b"\n")
    member = status_of(settings.data_dir)["members"][0]
    assert (member["role"], member["waiting_for"]) == ("founding", "b")
    node.terminate()
    assert node.wait(DEADLINE_S) == 0


def test_the_watch_notices_an_engine_that_was_gone_before() -> None:
    """Its id may be another process's by now: whoever is not the parent is not the engine."""
    assert _watch(os.getpid())
    assert not _watch(os.getppid())


def test_the_watch_works_without_pidfds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent's id tells it, a little later."""

    def refuse(pid: int, flags: int = 0) -> int:
        raise OSError("no pidfd here")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    assert not _watch(os.getppid())
    assert _watch(os.getppid(), lambda: monkeypatch.setattr(os, "getppid", lambda: 1))


def _watch(pid: int, then: Callable[[], None] = lambda: None) -> bool:
    """Whether a watch on *pid* says within a moment that it is gone."""
    gone = asyncio.Event()
    pipe, other_end = os.pipe()

    async def watch() -> bool:
        each = EngineWatch(asyncio.get_running_loop(), pid, pipe, gone.set)
        then()
        try:
            await asyncio.wait_for(gone.wait(), 0.3)
        except TimeoutError:
            return False
        finally:
            each.close()
        return True

    try:
        return asyncio.run(watch())
    finally:
        os.close(pipe)
        os.close(other_end)
