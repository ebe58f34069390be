"""An engine with a fake worker."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from replicator import Replicator, Settings, Tenure
from replicator.engine import host, keeper
from tests.engine.fake_worker import DEADLINE_S, FakeWorker


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> FakeWorker:
    """In the place of the real one, for replicators with their worker in a thread."""
    fake = FakeWorker()
    module = ModuleType("replicator.worker.main")
    module.run = fake.run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "replicator.worker.main", module)
    return fake


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., Settings]:
    """Settings of a node whose worker is a thread, unless a test wants others."""

    def make(**values: Any) -> Settings:
        return Settings(**{"data_dir": tmp_path, "isolation": "thread", "close_timeout_s": 1.0, **values})

    return make


@pytest.fixture
def replicator(worker: FakeWorker, make_settings: Callable[..., Settings]) -> Iterator[Replicator]:
    """One with a fake worker, started."""
    with Replicator(make_settings()) as replicator:
        yield replicator
        replicator.close(0)


@pytest.fixture
def tenure(replicator: Replicator, worker: FakeWorker) -> Tenure:
    """Of epoch 1, active, nothing restored."""
    worker.start_tenure()
    return next(iter(replicator.tenures(DEADLINE_S)))


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Settings]:
    """Settings for a child process that plays the role given."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(host, "WORKER_MODULE", "fake_child")
    monkeypatch.setattr(keeper, "BACK_OFF_MIN_S", 0.01)
    monkeypatch.setattr(keeper, "STORE_WAIT_S", 0.0)

    def make(role: str, data_dir: Path = tmp_path / "data", restarts: int = 1) -> Settings:
        monkeypatch.setenv("FAKE_CHILD", role)
        return Settings(data_dir=data_dir, worker_restarts_max=restarts, close_timeout_s=1)

    return make


def before(call: Callable[..., Any]) -> Callable[..., Any]:
    """*call*, before which, the first time, a signal's handler raises."""
    return _interrupted(call, is_early=True)


def after(call: Callable[..., Any]) -> Callable[..., Any]:
    """*call*, after which, the first time, a signal's handler raises."""
    return _interrupted(call, is_early=False)


def _interrupted(call: Callable[..., Any], is_early: bool) -> Callable[..., Any]:
    raised: list[bool] = []

    def interrupted(*arguments: Any) -> Any:
        found = None if is_early and not raised else call(*arguments)
        if not raised:
            raised.append(True)
            raise KeyboardInterrupt
        return found

    return interrupted
