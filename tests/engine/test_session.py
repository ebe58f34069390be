"""The session by itself: what it does when its worker is gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator import Settings, Tenure
from replicator.engine.session import Session
from replicator.engine.ticket import Latch
from replicator.link import messages as link
from replicator.model import Position


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session[Tenure]]:
    session = Session(Settings(data_dir=tmp_path), Tenure)
    yield session
    session.close()


def test_nothing_of_a_worker_outlives_it(session: Session[Tenure]) -> None:
    """No lease, no tenure, nothing to say to it, and nothing that it had sent. Who waits looks anew: one that
    closes waits for the tenure's end no longer."""
    session.handle(link.RestoredDeleted(4, "s", Position(3, 1)), [])
    session.handle(link.TenureStarted(4, 7, False, {}), [])
    session.handle(link.RestoredDeleted(5, "s", Position(4, 1)), [])
    session.handle(link.StandbyOffered("s", Position(3, 1), b"", ("",), False), [memoryview(b"x")])
    tenure = session.tenure
    assert tenure is not None
    word = session.words.slot(7)
    word.deadline_ns = 2**62
    assert tenure.active
    session.call(link.AskStatus(1))
    change = session.changed.next()
    session.worker_gone("for the test")
    assert word.deadline_ns == 0
    assert (tenure.active, tenure.ended_reason) == (False, "for the test")
    assert session.tenure is None
    assert change.is_set()
    assert session.take_calls() == []
    assert session._restoring.start(5)[1] == {}
    assert session._shelf.restored("s") == "what the standby was given is gone"  # type: ignore[arg-type]


def test_who_comes_when_a_latch_has_just_opened_goes_through() -> None:
    """It has looked before that: nobody would open it again."""
    latch = Latch()
    latch.set()
    went: list[bool] = []
    latch._enter(lambda: went.append(True))
    assert went == [True]
