"""The keeper by itself: when another worker is started, when they are given up, and how long it waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from replicator import Settings, Tenure, WorkerFailed
from replicator.engine import keeper as module
from replicator.engine.keeper import BACK_OFF_MAX_S, BACK_OFF_MIN_S, HEALTHY_AFTER_S, Keeper
from replicator.engine.life import Failure
from replicator.engine.session import Session
from tests.engine.fake_worker import DEADLINE_S, soon

RESTARTS_MAX = 10
DIED = Failure("WorkerDied", "died")
SAID = Failure("StoreError", "its own word")


class Script:
    """Lives of workers: how long each lasts, whether it starts, and what ends it. `spans` are the pauses."""

    def __init__(self, lives: list[tuple[float, bool, Failure]]) -> None:
        self.lives = lives
        self.now = 0.0
        self.spans: list[float] = []

    def begin(self, session: Session[Tenure]) -> Any:
        """The next one."""
        span_s, has_started, failure = self.lives.pop(0) if self.lives else (0.0, True, DIED)
        session.started |= has_started

        def serve(stop_at: object) -> Failure:
            self.now += span_s
            return failure

        return SimpleNamespace(has_started=has_started, serve=serve, bury=lambda: None)

    def sleep(self, keeper: Keeper, span_s: float) -> None:
        """Until another one is due."""
        if keeper._session.failure is None:
            self.spans.append(span_s)
        else:
            soon(lambda: keeper._stop_at is not None)


@pytest.fixture
def session(tmp_path: Path) -> Session[Tenure]:
    return Session(Settings(data_dir=tmp_path, worker_restarts_max=RESTARTS_MAX), Tenure)


@pytest.fixture
def keep(session: Session[Tenure], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Script]:
    """Have workers live so, until they are given up."""

    def run(*lives: tuple[float, bool, Failure]) -> Script:
        script = Script(list(lives))
        monkeypatch.setattr(module, "Life", script.begin)
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: script.now))
        monkeypatch.setattr(Keeper, "_sleep", lambda keeper, span_s: script.sleep(keeper, span_s))
        keeper = Keeper(session)
        soon(lambda: session.failure is not None)
        assert session.failure is not None
        assert isinstance(session.failure(), WorkerFailed)
        keeper.stop(0)
        return script

    return run


def test_each_worker_is_started_later_than_the_one_before(keep: Callable[..., Script]) -> None:
    """Twice as late, up to a bound."""
    spans = keep().spans
    assert len(spans) == RESTARTS_MAX
    assert spans == [min(BACK_OFF_MIN_S * 2**number, BACK_OFF_MAX_S) for number in range(RESTARTS_MAX)]


def test_a_worker_that_lived_long_begins_a_new_row(keep: Callable[..., Script]) -> None:
    """One that took as long to start, and never did, is one more of the old row."""
    long_s = HEALTHY_AFTER_S + 1
    spans = keep((0, True, DIED), (long_s, True, DIED), (0, True, DIED), (long_s, False, DIED)).spans
    assert [span_s / BACK_OFF_MIN_S for span_s in spans[:5]] == pytest.approx([1, 1, 2, 4, 8])
    assert len(spans) == 1 + RESTARTS_MAX


def test_a_word_of_its_own_is_final_at_the_first_start_only(keep: Callable[..., Script]) -> None:
    """Later it may be a passing one, as of a disk that is full: another worker is tried."""
    assert len(keep((0, True, DIED), (0, False, SAID)).spans) == RESTARTS_MAX


@pytest.fixture
def waiting(session: Session[Tenure], monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeper]:
    """One whose worker ends at its limit only."""
    is_over = threading.Event()

    def serve(stop_at: Callable[[], float | None]) -> Failure:
        while not is_over.wait(0.001) and ((at := stop_at()) is None or time.monotonic() < at):
            pass
        return DIED

    life = SimpleNamespace(has_started=True, serve=serve, bury=lambda: None)
    monkeypatch.setattr(module, "Life", lambda session: life)
    keeper = Keeper(session)
    yield keeper
    is_over.set()
    keeper._thread.join()


@pytest.mark.parametrize("limits_s", [(60.0, 0.0), (0.2, 60.0)])
def test_the_shortest_limit_counts(waiting: Keeper, limits_s: tuple[float, float]) -> None:
    """Of several who close: the impatient one ends the worker for all."""
    closers = [threading.Thread(target=waiting.stop, args=(limit_s,)) for limit_s in limits_s]
    for closer in closers:
        closer.start()
        soon(lambda: waiting._stop_at is not None)
    for closer in closers:
        closer.join(DEADLINE_S)
        assert not closer.is_alive()
