"""A whole worker, real in every part, driven from the engine's end of its link."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from replicator.core.effects import Effect
from replicator.core.replica import Replica
from replicator.link import messages as link
from replicator.link.endpoint import EngineEnd, WorkerEnd
from replicator.link.lease import LeaseWords
from replicator.model import NodeId, Position
from replicator.settings import Settings
from replicator.worker.admin import AdminServer, ask
from replicator.worker.main import run

DEADLINE_S = 10.0
MessageT = TypeVar("MessageT")


class Engine:
    """The engine's end, and a worker in a thread at the other."""

    def __init__(self, settings: Settings) -> None:
        self.words = LeaseWords.create()
        self.end = EngineEnd("inproc://test")
        self.heard: list[tuple[link.ToEngine, list[memoryview]]] = []
        self.status: int | None = None
        self._settings = settings
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.status = run(self._settings, WorkerEnd("inproc://test", self.end.context), self.words)

    def wait(self, kind: type[MessageT], count: int = 1) -> MessageT:
        """The *count*-th message of that kind."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            found = [message for message, _ in self.heard if isinstance(message, kind)]
            if len(found) >= count:
                return found[count - 1]
            assert time.monotonic() < deadline, f"no {kind.__name__}, but {self.heard}"
            self.end.socket.poll(50)
            self.heard += self.end.receive()

    def parts(self, kind: type[object]) -> list[bytes]:
        """The parts that came with the first message of that kind."""
        return next([bytes(p) for p in parts] for message, parts in self.heard if isinstance(message, kind))

    def close(self) -> int:
        """Have the worker end; its status."""
        self.end.send(link.Close())
        return self.join()

    def join(self) -> int:
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        self.end.close()
        self.words.close()
        assert self.status is not None
        return self.status


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(node=NodeId("alone"), data_dir=tmp_path / "data", isolation="thread")


@pytest.fixture
def started(settings: Settings) -> Iterator[Callable[[], Engine]]:
    engines: list[Engine] = []

    def start() -> Engine:
        engines.append(Engine(settings))
        return engines[-1]

    yield start
    for engine in engines:
        if engine.status is None:
            engine.close()


def test_the_leisurely_side_s_end_is_told_with_its_cause(
    started: Callable[[], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker ends with it, and says what it failed with, not that its loop is closed."""

    async def fail(server: AdminServer) -> None:
        raise ValueError("out of luck")

    monkeypatch.setattr(AdminServer, "start", fail)
    engine = started()
    failed = engine.wait(link.Failed)
    assert (failed.kind, failed.text) == ("WorkerFailed", "ValueError: out of luck")
    assert engine.join() == 1


def test_a_node_alone_commits_and_restores(started: Callable[[], Engine]) -> None:
    """Without peers the first tenure starts at once; what it commits is what the next worker restores."""
    engine = started()
    assert engine.wait(link.Started).node == "alone"
    engine.end.send(link.Ready(True))
    tenure = engine.wait(link.TenureStarted)
    word = engine.words.slot(tenure.lease_slot)
    assert word.deadline_ns > time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    engine.end.send(link.Submit(tenure.epoch, "orders", 1, 7, b"offset", ("a", "b"), True), (b"one", b""))
    committed = engine.wait(link.Committed)
    assert (committed.handle, committed.position) == (7, Position(tenure.epoch, 1))
    assert committed.holders == ("alone",)
    assert set(committed.stages) == {"publish", "store", "commit"}
    assert engine.wait(link.Released).handle == 7
    assert engine.close() == 0
    assert word.deadline_ns == 0

    engine = started()
    engine.wait(link.Started)
    engine.end.send(link.Ready(True))
    second = engine.wait(link.TenureStarted)
    restored = engine.wait(link.Restored)
    assert second.epoch > tenure.epoch
    assert (restored.stream, restored.position, restored.meta) == ("orders", committed.position, b"offset")
    assert (restored.part_names, engine.parts(link.Restored)) == (("a", "b"), [b"one", b""])
    assert engine.close() == 0


def test_no_tenure_before_the_engine_is_ready(started: Callable[[], Engine]) -> None:
    """A worker whose engine does not wait for a tenure starts none."""
    engine = started()
    engine.wait(link.Started)
    engine.end.send(link.AskStatus(1))
    engine.wait(link.StatusReply)
    assert not any(isinstance(message, link.TenureStarted) for message, _ in engine.heard)


def test_a_store_in_use_is_told_as_such(started: Callable[[], Engine]) -> None:
    """A second worker on the same directory says why it cannot start, and ends with status 1."""
    started().wait(link.Started)
    second = started()
    assert second.wait(link.Failed).kind == "StoreInUse"
    assert second.join() == 1


@pytest.mark.parametrize("offset", [0, 1, 2])
def test_a_start_that_fails_for_a_port_claims_no_data_directory(settings: Settings, offset: int) -> None:
    """Whichever of its three ports is in use: the directory is still free for whomever it was meant for."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = ("127.0.0.1", taken.getsockname()[1] - offset)
        peers = {settings.node: address, NodeId("b"): ("127.0.0.1", 7400), NodeId("c"): ("127.0.0.1", 7410)}
        engine = Engine(msgspec.structs.replace(settings, peers=peers))
        failed = engine.wait(link.Failed)
        assert engine.join() == 1
    assert (failed.kind, "cannot listen" in failed.text) == ("TransportError", True)
    assert [path.name for path in settings.data_dir.iterdir()] == ["lock"]


def test_a_start_that_fails_for_its_keys_claims_no_data_directory(settings: Settings, tmp_path: Path) -> None:
    """A key file that is not there yet is put right before anything belongs to this node."""
    keys = {"secret_key_file": tmp_path / "alone.secret", "peer_keys_file": tmp_path / "peers.keys"}
    engine = Engine(msgspec.structs.replace(settings, **keys))
    assert engine.wait(link.Failed).kind == "TransportError"
    assert engine.join() == 1
    assert not settings.data_dir.exists()


def test_admin_socket_answers(started: Callable[[], Engine], settings: Settings) -> None:
    """The admin socket gives the status, is the owner's alone, and is gone when the worker is."""
    engine = started()
    engine.wait(link.Started)
    engine.end.send(link.Ready(True))
    engine.wait(link.TenureStarted)
    status = ask(settings.data_dir, {"command": "status"})
    assert [member["role"] for member in status["members"]] == ["primary"]
    assert os.stat(settings.data_dir / "admin.sock").st_mode & 0o777 == 0o600
    assert "error" in ask(settings.data_dir, {"command": "dance"})
    engine.close()
    assert not (settings.data_dir / "admin.sock").exists()


def test_a_bug_ends_the_worker_and_is_told(
    started: Callable[[], Engine], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What nobody foresaw ends the worker rather than leaving it half alive: the engine is told, the store
    is closed, and the next worker goes on."""

    def fail(self: Replica, event: object, now: float) -> list[Effect]:
        raise AssertionError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(Replica, "handle", fail)
        engine = started()
        failed = engine.wait(link.Failed)
        assert (failed.kind, failed.text) == ("WorkerFailed", "AssertionError: a bug")
        assert engine.join() == 1
    engine = started()
    engine.wait(link.Started)
    engine.end.send(link.Ready(True))
    engine.wait(link.TenureStarted)
