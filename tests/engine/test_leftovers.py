"""What a closed replicator leaves: nothing."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable

import pytest

from replicator import Replicator, Settings, Tenure
from replicator.engine import keeper
from replicator.engine.life import Life
from replicator.link import messages as link
from tests.engine.fake_worker import DEADLINE_S, FakeWorker, soon


def test_nothing_is_kept_for_a_worker_that_is_gone_for_good(
    replicator: Replicator, worker: FakeWorker
) -> None:
    """Whoever follows a closed replicator is given nothing, as often as he likes."""
    replicator.close(0)
    before = len(replicator._session._calls)
    for _ in range(100):
        assert list(replicator.follow(0)) == []
    assert len(replicator._session._calls) == before


def test_a_closed_replicator_leaves_nothing_to_the_collector(
    worker: FakeWorker, make_settings: Callable[..., Settings]
) -> None:
    """Its descriptors go with the last reference."""
    gc.disable()
    try:
        with Replicator(make_settings()) as replicator:
            session = weakref.ref(replicator._session)
            replicator.close(0)
        del replicator
        soon(lambda: session() is None)
    finally:
        gc.enable()


def test_a_tenure_that_is_renewed_while_it_closes_is_handed_over_too(
    replicator: Replicator, tenure: Tenure, worker: FakeWorker
) -> None:
    """What was asked of the old epoch may come too late for it (R11)."""
    closer = threading.Thread(target=replicator.close, args=(DEADLINE_S,))
    closer.start()
    assert worker.hear(link.Resign)[0].epoch == 1
    worker.start_tenure(2, slot=2)
    assert worker.hear(link.Resign)[0].epoch == 2
    worker.say(link.TenureEnded(2, "resigned"))
    closer.join(DEADLINE_S)
    assert not closer.is_alive()


def test_a_thread_that_is_late_hears_of_the_end(
    worker: FakeWorker, make_settings: Callable[..., Settings]
) -> None:
    """Still busy with its imports when all was closed, it ends when it has them, and holds no store."""
    worker.may_start.clear()
    replicator = Replicator(make_settings())
    soon(lambda: "replicator-worker" in _threads())
    replicator.close(0)
    assert "replicator-worker" in _threads()
    worker.may_start.set()
    worker.hear(link.Close)
    soon(lambda: "replicator-worker" not in _threads())


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_a_worker_whose_disk_hangs_is_not_put_down_to_the_engine_s_callbacks(
    replicator: Replicator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even SIGKILL ends it before the disk goes on. Closing waits for it no longer than it may, and who
    reads why looks for the fault in the right place, too."""
    goes_on, bury = threading.Event(), Life.bury

    def wait(life: Life) -> None:
        goes_on.wait()
        bury(life)

    monkeypatch.setattr(Life, "bury", wait)
    monkeypatch.setattr(keeper, "EXIT_TIMEOUT_S", 0.05)
    replicator.close(0)
    goes_on.set()
    assert "disk, hangs" in caplog.text
    replicator._keeper._thread.join()
