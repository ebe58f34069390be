"""The bell: who dozes is woken once, whoever is awake costs no call of the system."""

from __future__ import annotations

import ast
import os
import select
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from replicator.bell import Bell

PACKAGE = Path(__file__).parent.parent / "replicator"
# Others use an eventfd for what is no bell with a flag: an end, a count of records, a wake-up each time.
OTHERS = {"adapters/curve.py", "engine/host.py", "link/memory.py", "link/ring.py", "worker/datathread.py"}


@pytest.fixture
def bell() -> Iterator[Bell]:
    bell = Bell()
    yield bell
    bell.close()


def is_ringing(bell: Bell) -> bool:
    """Whether a sleeper would wake."""
    return bool(select.select([bell], [], [], 0)[0])


def test_who_dozes_is_woken_once(bell: Bell) -> None:
    """However often it is rung; and it sleeps again once it has been silenced."""
    bell.doze()
    bell.ring()
    bell.ring()
    assert is_ringing(bell)
    assert os.eventfd_read(bell.fileno()) == 1
    bell.wake()
    bell.ring()
    assert not is_ringing(bell)
    bell.silence()


def test_who_is_awake_costs_nothing(bell: Bell, monkeypatch: pytest.MonkeyPatch) -> None:
    """No call of the system, for who rings and for the sleeper that knows it was not rung."""
    with monkeypatch.context() as patch:
        for name in ("eventfd_write", "eventfd_read"):
            patch.setattr(os, name, Mock(side_effect=AssertionError))
        bell.ring()
        bell.doze()
        bell.wake()
        bell.ring()
    assert not is_ringing(bell)


def test_a_ring_that_came_too_late_is_no_harm(bell: Bell) -> None:
    """The sleeper woke for something else just then: it wakes once more for nothing, and misses nothing."""
    bell.doze()
    bell.ring()
    bell.wake()
    bell.doze()
    assert is_ringing(bell)
    bell.silence()
    bell.silence()
    assert not is_ringing(bell)


def test_nobody_is_woken_by_a_closed_one() -> None:
    """A ring after the end writes to no descriptor: it may be another's by now."""
    bell = Bell()
    bell.doze()
    bell.close()
    bell.ring()


def test_there_is_one_bell() -> None:
    """The flag and its eventfd are nowhere made a second time."""
    makers = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr.startswith("eventfd")
    }
    assert makers == OTHERS | {"bell.py"}
