"""The pace of who lags, and its patience, in time that the test gives (R18)."""

from __future__ import annotations

from itertools import pairwise

import pytest

from replicator.model import NodeId
from replicator.sizes import MIB
from replicator.worker.pace import BURST_S, PUBLISHING_S, Pace
from replicator.worker.patience import FADING, PATIENCE_MAX_S, PATIENCE_S, Patience

A, B = NodeId("a"), NodeId("b")


def fetched(pace: Pace, seconds: float, *, publications: bool) -> list[float]:
    """When each MiB is asked for by one who asks whenever it may, a thousand times in a second."""
    asked = []
    for step in range(int(seconds * 1000)):
        now = 5.0 + step / 1000
        pace.heard(step if publications else 7, now)
        if not pace.rests(now):
            pace.asked(MIB, now)
            asked.append(now)
    return asked


def test_bursts_keep_the_bound_and_leave_pauses() -> None:
    """A quarter of a second's worth at once, then nothing until its time is over."""
    asked = fetched(Pace(64 * MIB), 4.0, publications=True)
    pauses = [later - earlier for earlier, later in pairwise(asked) if later - earlier > 0.7 * BURST_S]
    assert len(pauses) >= 12
    assert abs(len(asked) - 4.0 * 64) <= 16


def test_without_publications_there_is_no_bound() -> None:
    """Nobody commits: nobody is held up. So it is when they stop."""
    assert len(fetched(Pace(64 * MIB), 4.0, publications=False)) > 0.7 * 4000
    pace = Pace(MIB)
    pace.heard(1, 5.0)
    pace.asked(1000 * MIB, 5.0)
    assert pace.rests(5.0 + PUBLISHING_S - 0.001)
    assert not pace.rests(5.0 + PUBLISHING_S)
    pace.heard(2, 7.0)
    pace.asked(1, 7.0)
    assert not pace.rests(7.0)  # what was asked for then is not to be paid for later


def test_zero_is_no_bound() -> None:
    """The setting's word for as much as the links give."""
    assert len(fetched(Pace(0), 1.0, publications=True)) == 1000


def test_answers_teach_patience() -> None:
    """The silence before an answer, since it was asked for or since the one before, and twice that. A quick
    one takes little of it back: it may have been small."""
    patience = Patience()
    patience.answered(A, 1.0, 4.0)
    assert (patience.of(A), patience.of(B)) == (6.0, PATIENCE_S)
    patience.answered(A, 1.0, 5.5)
    assert patience.of(A) == FADING * 6.0
    for _ in range(30):
        patience.answered(A, 100.0, 100.1)
    assert patience.of(A) == PATIENCE_S


@pytest.mark.parametrize(("answer_s", "learnt_s"), [(0.001, PATIENCE_S), (3600.0, PATIENCE_MAX_S)])
def test_patience_has_bounds(answer_s: float, learnt_s: float) -> None:
    """A quick answer makes nobody hasty, and one that was away for an hour is not waited for as long."""
    patience = Patience()
    patience.answered(A, 0.0, answer_s)
    assert patience.of(A) == learnt_s
