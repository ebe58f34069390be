"""What a tenure starts from: what came for this very tenure, and nothing of one that never started."""

from __future__ import annotations

from replicator.engine.restoring import Restoring
from replicator.engine.shelf import Shelf
from replicator.link import messages as link
from replicator.model import Position


def test_a_tenure_starts_from_what_came_for_it() -> None:
    """An earlier one that ended before it started leaves nothing: neither checkpoints nor sequences."""
    restoring, shelf = Restoring(), Shelf()
    restoring.take_in(link.Restored(4, "old", Position(3, 7), b"", ("",), False), [memoryview(b"x")], shelf)
    restored, sequences = restoring.start(5)
    assert (dict(restored), sequences) == ({}, {})
    restoring.take_in(link.Restored(4, "old", Position(3, 7), b"", ("",), False), [memoryview(b"x")], shelf)
    restoring.take_in(link.RestoredDeleted(6, "gone", Position(3, 8)), [], shelf)
    restoring.take_in(link.Restored(6, "new", Position(3, 9), b"", ("",), False), [memoryview(b"y")], shelf)
    restored, sequences = restoring.start(6)
    assert restored["new"].payload == b"y"
    assert (list(restored), sequences) == (["new"], {"gone": 8, "new": 9})
    restored, sequences = restoring.start(6)
    assert (dict(restored), sequences) == ({}, {})


def test_nothing_is_kept_of_a_worker_that_is_gone() -> None:
    """What it had sent may be large."""
    restoring = Restoring()
    restoring.take_in(link.Restored(4, "s", Position(3, 7), b"", ("",), False), [memoryview(b"x")], Shelf())
    restoring.clear()
    restored, sequences = restoring.start(4)
    assert (dict(restored), sequences) == ({}, {})
