"""The elector that elects nobody: what was fixed, or said by hand, holds."""

from __future__ import annotations

import pytest

from replicator.adapters.ports import Elector
from replicator.adapters.static_elector import StaticElector
from replicator.model import NodeId

A, B = NodeId("a"), NodeId("b")


class Said:
    """What the elector said."""

    def __init__(self, node: NodeId, leader: NodeId | None, *, electable: bool = True) -> None:
        self.edges: list[bool] = []
        self.elector = StaticElector(
            node,
            leader,
            on_grant=lambda: self.edges.append(True),
            on_revoke=lambda: self.edges.append(False),
            electable=electable,
        )


def test_the_fixed_node_is_granted_at_its_first_tick() -> None:
    """Once, and nobody else is; every node names it."""
    fixed, other = Said(A, A), Said(B, A)
    elector: Elector = fixed.elector
    assert not fixed.elector.leading
    for now in (1.0, 2.0):
        elector.tick(now)
        other.elector.tick(now)
    assert (fixed.edges, other.edges) == ([True], [])
    assert fixed.elector.leader == other.elector.leader == A


def test_failover_by_hand() -> None:
    """Revoke here, grant there; each is told once."""
    one, other = Said(A, A), Said(B, A)
    one.elector.tick(1.0)
    other.elector.tick(1.0)
    one.elector.revoke()
    other.elector.grant()
    other.elector.grant()
    assert (one.edges, other.edges) == ([True, False], [True])
    assert (one.elector.leader, other.elector.leader) == (None, B)


def test_a_node_that_cannot_lead_gets_its_grant_later() -> None:
    """A grant is a level: held back while there is no engine, there again with it."""
    said = Said(A, A, electable=False)
    said.elector.tick(1.0)
    assert said.edges == []
    for electable in (True, False, True):
        said.elector.set_electable(electable)
    assert said.edges == [True, False, True]


@pytest.mark.parametrize(("to", "edges"), [(None, [True]), (A, [True]), (B, [True, False])])
def test_transfer_to_somebody_revokes(to: NodeId | None, edges: list[bool]) -> None:
    """Leadership is given to a named node only; to nobody it cannot be given."""
    said = Said(A, A)
    said.elector.tick(1.0)
    said.elector.transfer(to)
    assert said.edges == edges


def test_closed_means_not_leading() -> None:
    """After `close` nothing grants any more; messages were never listened to."""
    said = Said(A, A)
    said.elector.receive(B, b"anything")
    said.elector.tick(1.0)
    said.elector.close()
    said.elector.close()
    said.elector.grant()
    said.elector.tick(2.0)
    assert said.edges == [True, False]
    assert said.elector.leader is None


def test_callbacks_that_raise(caplog: pytest.LogCaptureFixture) -> None:
    """They are logged, no more."""

    def fail() -> None:
        raise KeyError("user")

    elector = StaticElector(A, A, on_grant=fail, on_revoke=fail)
    elector.tick(1.0)
    elector.revoke()
    assert not elector.leading
    assert caplog.text.count("elector callback failed") == 2
