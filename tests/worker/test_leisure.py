"""The leisurely side: what it sees of the disk."""

from __future__ import annotations

from replicator.core.events import StoreHangs
from replicator.worker.leisure import Leisure
from tests.worker.driver_fakes import Bench


def test_r21_a_disk_that_hangs_is_told_of_once_and_once_that_it_goes_on() -> None:
    """Or the node would never be taken for a healthy one again. A process that was stopped, and finds a
    write under way since long ago, looks once more."""
    bench = Bench(lapse_max_s=5.0)
    leisure = Leisure(bench.settings, bench.driver, bench.inbox, bench.store)
    for writing_s in (0.0, 25.0, 0.1, 5.0, 5.1, 5.6, 7.0, 0.1, 0.0, 9.0, 9.5):
        bench.store.writing_s = lambda writing_s=writing_s: writing_s
        leisure._look()
    bench.turn()
    assert bench.core.events == [StoreHangs(True), StoreHangs(False), StoreHangs(True)]
    leisure._loop.close()
    bench.close()
