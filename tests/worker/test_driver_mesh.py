"""What arrives at the control port is looked at only when it fits (R28)."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given, settings, strategies as st

from replicator.core.events import Received
from replicator.core.messages import Hello, StatusRequest
from replicator.model import NodeId
from tests.worker.driver_fakes import ID, A, B, Bench, C

HELLO = Hello(True, None, "", "")


def test_what_fits_reaches_the_core(bench: Bench) -> None:
    """With the sender's incarnation, process and counters; a key is not needed on loopback."""
    bench.arrive(HELLO)
    bench.arrive(HELLO, node=C, key=None)
    bench.turn()
    assert bench.core.events == [Received(node, ID, ID, 1, 2, HELLO) for node in (B, C)]  # type: ignore[arg-type]
    assert bench.mesh.refused == 0


def test_what_is_remembered_of_a_lost_store_says_nothing_of_this_one(bench: Bench) -> None:
    """R20, R21: a wiped node is not faulty because a peer remembers the counter of its old store."""
    bench.arrive(HELLO, recipient=b"the store before")
    bench.turn()
    (received,) = bench.core.events
    assert isinstance(received, Received)
    assert received.remembered is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 9}, "protocol version is not 1"),
        ({"cluster": "other"}, "cluster is not replicator"),
        ({"node": NodeId("z")}, "sender is not a peer"),
        ({"node": A}, "sender is not a peer"),
        ({"node": C}, "sender's key is another node's"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_reason(
    bench: Bench, changes: dict[str, object], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Another version or cluster, a stranger, one's own name, another node's key: dropped and counted, and
    logged once, however often it comes (T16)."""
    for _ in range(5):
        bench.arrive(HELLO, **changes)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        bench.turn()
    assert bench.core.events == []
    assert bench.mesh.refused == 5
    (line,) = [record.getMessage() for record in caplog.records]
    assert reason in line
    bench.clock.now += 60
    bench.arrive(HELLO, **changes)  # type: ignore[arg-type]
    bench.turn()
    assert "count=6" in caplog.records[-1].getMessage()


def test_a_stranger_is_not_answered(bench: Bench) -> None:
    """Not even with a status."""
    bench.arrive(StatusRequest(1), node=NodeId("z"), key=None)
    bench.turn()
    assert bench.control.sent == []


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_do_any_harm(data: bytes) -> None:
    """Whatever bytes arrive are counted, and nothing else happens (I12)."""
    bench = Bench()
    bench.control.waiting.append((B, data))
    bench.turn()
    assert bench.core.events == []
    assert bench.mesh.refused == 1
    bench.close()
