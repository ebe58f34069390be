"""The elector that elects nobody: a node alone leads as long as it can."""

from __future__ import annotations

import pytest

from replicator.adapters.ports import Elector
from replicator.adapters.static_elector import StaticElector
from replicator.model import NodeId

A, B = NodeId("a"), NodeId("b")


class Said:
    """What the elector said."""

    def __init__(self) -> None:
        self.edges: list[bool] = []
        self.elector = StaticElector(
            A, on_grant=lambda: self.edges.append(True), on_revoke=lambda: self.edges.append(False)
        )


def test_the_node_is_granted_at_its_first_tick() -> None:
    """Once, and it names itself."""
    said = Said()
    elector: Elector = said.elector
    assert not said.elector.leading
    for now in (1.0, 2.0):
        elector.tick(now)
    assert said.edges == [True]
    assert said.elector.leader == A


def test_a_node_that_cannot_lead_gets_its_grant_later() -> None:
    """A grant is a level: held back while there is no engine, there again with it."""
    said = Said()
    said.elector.set_electable(False)
    said.elector.tick(1.0)
    assert said.edges == []
    for electable in (True, False, True):
        said.elector.set_electable(electable)
    assert said.edges == [True, False, True]


@pytest.mark.parametrize("to", [None, A, B])
def test_leadership_cannot_be_given_away(to: NodeId | None) -> None:
    """There is nobody else, whoever is named."""
    said = Said()
    said.elector.tick(1.0)
    said.elector.transfer(to)
    assert said.edges == [True]


def test_closed_means_not_leading() -> None:
    """After `close` nothing grants any more; messages were never listened to."""
    said = Said()
    said.elector.receive(B, b"anything")
    said.elector.tick(1.0)
    said.elector.close()
    said.elector.close()
    said.elector.set_electable(True)
    said.elector.tick(2.0)
    assert said.edges == [True, False]
    assert said.elector.leader is None


def test_callbacks_that_raise(caplog: pytest.LogCaptureFixture) -> None:
    """They are logged, no more."""

    def fail() -> None:
        raise KeyError("user")

    elector = StaticElector(A, on_grant=fail, on_revoke=fail)
    elector.tick(1.0)
    elector.set_electable(False)
    assert not elector.leading
    assert caplog.text.count("elector callback failed") == 2
