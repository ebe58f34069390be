"""A node that is not yet a member says now and then whom it waits for, and what may be wrong (R20); a member
says once who is out of reach."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from replicator.addresses import PORTS_PER_NODE, Address
from replicator.core import effects
from replicator.core.messages import Hello
from replicator.model import NodeId, Role
from replicator.worker.neighbours import TELL_INTERVAL_S
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


def ports_of(bench: Bench, node: NodeId, first: int = 0) -> list[tuple[NodeId, Address]]:
    """All ports of a node, or those of its data path alone."""
    host, port = bench.settings.peers[node]
    return [(node, (host, each)) for each in range(port + first, port + PORTS_PER_NODE)]


def pass_time(bench: Bench, seconds: float) -> None:
    """Have the driver turn once in a second."""
    for _ in range(int(seconds)):
        bench.clock.now += 1
        bench.turn()


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
    bench.control.closed = ports_of(bench, B)
    (line,) = told(bench, caplog)
    assert line.startswith("still founding node=a waits_for=")
    assert "b at 127.0.0.1:7410 cannot be reached: it does not run, or has other keys" in line
    assert "c at 127.0.0.1:7420 says nothing" in line
    bench.arrive(HELLO, node=C, key=C)
    bench.turn()
    (line,) = told(bench, caplog)
    assert "7420" not in line
    pass_time(bench, TELL_INTERVAL_S - 1)
    assert caplog.text.count("still founding") == 1
    bench.control.closed = []
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


def test_a_member_says_once_who_is_cut_off_and_once_that_it_is_back(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Not of a moment; with the reason, or with the ports that are closed where others are open."""
    begin(bench, Role.BACKUP)
    bench.control.closed = ports_of(bench, B)
    pass_time(bench, TELL_INTERVAL_S - 1)
    bench.control.closed = []
    pass_time(bench, 1)
    assert "out of reach" not in caplog.text
    caplog.clear()
    bench.control.closed = ports_of(bench, B) + ports_of(bench, C, first=1)
    pass_time(bench, 3 * TELL_INTERVAL_S)
    assert [record.getMessage() for record in caplog.records] == [
        "peer out of reach node=a peer=b reason='b at 127.0.0.1:7410 cannot be reached: it does not run, or "
        "has other keys'",
        "peer out of reach node=a peer=c reason='c is reached, but not at 127.0.0.1:7421, "
        "127.0.0.1:7422: all its ports are needed'",
    ]
    caplog.clear()
    bench.control.closed = ports_of(bench, C, first=1)
    pass_time(bench, 3 * TELL_INTERVAL_S)
    assert caplog.messages == ["peer within reach again node=a peer=b"]


def test_a_primary_says_of_whom_it_hears_nothing(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """As of one that has another address for it; backups have nothing to say to each other."""
    begin(bench, Role.BACKUP)
    pass_time(bench, 3 * TELL_INTERVAL_S)
    assert "out of reach" not in caplog.text
    bench.emit(effects.Changed(Role.BACKUP, Role.PRIMARY, "a majority has adopted epoch 1"))
    for _ in range(3 * int(TELL_INTERVAL_S)):
        bench.arrive(HELLO)
        pass_time(bench, 1)
    (line,) = [message for message in caplog.messages if "out of reach" in message]
    assert "peer=c" in line
    assert "says nothing: it has another address for this node" in line
    bench.arrive(HELLO, node=C, key=C)
    pass_time(bench, 2)
    assert caplog.messages[-1] == "peer within reach again node=a peer=c"
