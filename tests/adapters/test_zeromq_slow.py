"""Data channels over slow and dead links: what moves is alive, what stands still for long is let go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from replicator.adapters import zeromq
from replicator.adapters.zeromq import REPAIR, RepairSockets, Transport
from replicator.model import NodeId
from replicator.settings import Settings
from tests.adapters.slow_link import STEP_BYTES, STEP_S, SlowLink
from tests.worker.nodes import free_addresses, make_settings, wait_until

N2 = NodeId("n2")
PATIENCE_MS = 1000
FRAME_BYTES = round(2 * PATIENCE_MS / 1000 / STEP_S) * STEP_BYTES  # carried in twice that time


@contextmanager
def linked(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[RepairSockets, RepairSockets, SlowLink]]:
    """Two nodes with little patience; the first reaches the second over the link."""
    shorter = [(option, min(value, PATIENCE_MS)) for option, value in zeromq.DATA_WATCH]
    monkeypatch.setattr(zeromq, "DATA_WATCH", shorter)
    first, second = make_settings(2)
    (host, port), (_, detour) = second.peers[N2], free_addresses(1)[0]
    first = Settings(node=first.node, peers={**first.peers, N2: (host, detour)})
    with SlowLink((host, detour + REPAIR), (host, port + REPAIR)) as link:
        transports = Transport(second), Transport(first)
        two, one = map(RepairSockets, transports)
        try:
            yield one, two, link
        finally:
            for each in (one, two, *transports):
                each.close()


def test_a_frame_may_take_longer_than_a_dead_connection_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a link that carries a chunk slowly it arrives, over the connection that it was sent on."""
    with linked(monkeypatch) as (one, two, link):
        wait_until(lambda: one.send_frames(N2, [bytes(FRAME_BYTES)]), "a connection")
        arrived: list[int] = []

        def has_arrived() -> bool:
            arrived.extend(len(frame) for _, frames in two.receive_frames() for frame in frames)
            return bool(arrived)

        wait_until(has_arrived, "the frame")
        assert arrived == [FRAME_BYTES]
        assert link.connections == 1


def test_a_peer_that_takes_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for it is given up, and it is connected anew."""
    with linked(monkeypatch) as (one, _, link):
        wait_until(lambda: one.can_send(N2), "a connection")
        link.is_stuck = True
        wait_until(lambda: not one.send_frames(N2, [bytes(2**20)]), "a queue that is full")
        before = link.connections
        wait_until(lambda: link.connections > before, "another connection")
