"""The log limit: each kind once in a while, and a bounded memory of kinds."""

from __future__ import annotations

from replicator.adapters.loglimit import KINDS_MAX, LOG_INTERVAL_S, LogLimit
from replicator.worker.datathread import DataThread


class Idle(DataThread):
    """Refuses what the test says."""

    def _run(self) -> None: ...

    def _end(self) -> None: ...


def test_each_kind_is_logged_once_in_a_while() -> None:
    """One that comes all the time is neither silent for ever nor hides another; the first comes at once."""
    limit = LogLimit()
    assert [limit.permits(1000.0 + step, "a", "why") for step in range(25)].count(True) == 3
    assert limit.permits(1001.0, "b", "why")
    assert limit.permits(0.0)
    assert not limit.permits(LOG_INTERVAL_S - 0.001)
    assert limit.permits(LOG_INTERVAL_S)


def test_kinds_that_are_made_up_take_no_memory() -> None:
    """I12: the one that was logged longest ago is forgotten; those logged since are not logged again."""
    limit = LogLimit()
    assert limit.permits(0.0, "old")
    assert limit.permits(1.0, "first")
    assert limit.permits(LOG_INTERVAL_S, "old")
    assert all(limit.permits(LOG_INTERVAL_S, str(number)) for number in range(KINDS_MAX - 1))
    assert not limit.permits(LOG_INTERVAL_S, "old")
    assert limit.permits(LOG_INTERVAL_S, "first")
    assert len(limit._logged) == KINDS_MAX


def test_reasons_that_name_a_chunk_take_no_memory_of_a_data_thread() -> None:
    """A peer whose disk rots sends many damaged chunks, and each has a reason of its own."""
    thread = Idle("idle")
    for number in range(2 * KINDS_MAX):
        thread._refuse("edge-2", f"chunk {number} is absent or damaged")
    assert thread.counters["dropped"] == 2 * KINDS_MAX
    assert len(thread._log_limit._logged) == KINDS_MAX
    thread.close()
