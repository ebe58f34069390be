"""A node that is not yet a member says now and then whom it waits for, and what may be wrong (R20)."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from replicator.core import effects
from replicator.core.messages import Hello
from replicator.model import Role
from replicator.worker.newcomer import TELL_INTERVAL_S
from tests.worker.driver_fakes import B, Bench, C

HELLO = Hello(False, None, "", "")


@pytest.fixture
def bench(caplog: pytest.LogCaptureFixture) -> Iterator[Bench]:
    caplog.set_level(logging.INFO)
    bench = Bench()
    yield bench
    bench.close()


def begin(bench: Bench, role: Role) -> None:
    """Have the node start in a role, and its loop end at once."""
    bench.core.role = role
    bench.inbox.post(bench.driver.leave)
    bench.driver.run()


def told(bench: Bench, caplog: pytest.LogCaptureFixture) -> list[str]:
    """What is said when the interval has passed."""
    caplog.clear()
    bench.clock.now += TELL_INTERVAL_S
    bench.turn()
    return [record.getMessage() for record in caplog.records if "waits_for" in record.getMessage()]


def test_a_founder_says_at_its_start_whom_it_waits_for(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """One line: who it is, where it listens, and that all others have to come."""
    begin(bench, Role.FOUNDING)
    assert caplog.messages[0] == ("node started node=a address=127.0.0.1:7400 role=founding waits_for='b, c'")


def test_each_peer_that_is_waited_for_is_named_with_what_may_be_wrong(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Not connected, connected but silent, and heard: the first two with their addresses."""
    begin(bench, Role.FOUNDING)
    bench.control.away = {B}
    bench.emit(effects.Send(B, HELLO), effects.Send(C, HELLO))
    (line,) = told(bench, caplog)
    assert line.startswith("still founding node=a waits_for=")
    assert "b at 127.0.0.1:7410 cannot be reached: it does not run, or has other keys" in line
    assert "c at 127.0.0.1:7420 says nothing" in line
    bench.arrive(HELLO, node=C, key=C)
    bench.turn()
    (line,) = told(bench, caplog)
    assert "7420" not in line
    bench.arrive(HELLO)
    bench.turn()
    assert told(bench, caplog) == ['still founding node=a waits_for="the members\' agreement"']


def test_a_member_waits_for_nobody(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Once it is one, or if it was at its start, nothing more is said."""
    begin(bench, Role.BACKUP)
    assert told(bench, caplog) == []
    bench.emit(effects.Changed(Role.BACKUP, Role.JOINING, "its store is new"))
    assert len(told(bench, caplog)) == 1
    bench.emit(effects.Changed(Role.JOINING, Role.BACKUP, "the record names it"))
    assert told(bench, caplog) == []
