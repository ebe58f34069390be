"""Timeouts: seconds, however many, and nothing that is not a number."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import pytest

from replicator import Committed, Replicator, Tenure
from replicator.link import messages as link
from tests.engine.fake_worker import DEADLINE_S, FakeWorker, soon


@pytest.mark.parametrize("forever", [math.inf, 1e10])
def test_a_timeout_may_be_endless(
    replicator: Replicator, tenure: Tenure, worker: FakeWorker, forever: float
) -> None:
    """close() commits the last checkpoint first, however long that may take."""
    ticket = tenure.submit("s", b"last")
    submit, _ = worker.hear(link.Submit)
    closer = threading.Thread(target=replicator.close, args=(forever,))
    closer.start()
    soon(lambda: replicator._session.closing)
    worker.commit(submit)
    assert isinstance(ticket.result(DEADLINE_S), Committed)
    assert worker.hear(link.Resign)
    worker.say(link.TenureEnded(1, "resigned"))
    assert tenure.wait_ended(forever)
    closer.join(DEADLINE_S)
    assert not closer.is_alive()


@pytest.mark.parametrize(
    "wait",
    [
        lambda replicator, tenure: replicator.close(math.nan),
        lambda replicator, tenure: replicator.flush(math.nan),
        lambda replicator, tenure: replicator.status(math.nan),
        lambda replicator, tenure: next(replicator.follow(math.nan)),
        lambda replicator, tenure: next(replicator.tenures(math.nan)),
        lambda replicator, tenure: tenure.wait_ended(math.nan),
    ],
)
def test_what_is_no_number_is_no_timeout(
    replicator: Replicator, tenure: Tenure, wait: Callable[[Replicator, Tenure], object]
) -> None:
    """It would wait for ever, or not at all."""
    with pytest.raises(ValueError, match="nan"):
        wait(replicator, tenure)
    assert not replicator._session.closing
