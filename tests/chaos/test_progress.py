"""Liveness figures: who can commit when, and where the time without commits goes."""

from __future__ import annotations

import pytest

from tests.chaos.progress import Progress, Stall, Work, by_cause, has_majority

THREE, FIVE = ("a", "b", "c"), ("a", "b", "c", "d", "e")


@pytest.mark.parametrize(
    ("nodes", "down", "cuts", "able"),
    [
        (THREE, (), (), True),
        (THREE, ("a",), (), True),
        (THREE, ("a", "b"), (), False),
        (THREE, (), (("a", "b"),), True),  # a and c, or b and c
        (THREE, ("c",), (("b", "a"),), False),
        (THREE, (), (("a", "b"), ("b", "c"), ("c", "a")), False),
        (FIVE, ("a", "b"), (), True),
        (FIVE, ("a", "b"), (("c", "d"),), False),
        (("a", "b"), ("a",), (), False),
    ],
)
def test_who_is_a_majority(
    nodes: tuple[str, ...], down: tuple[str, ...], cuts: tuple[tuple[str, str], ...], able: bool
) -> None:
    """A majority is up, and each two of it hear each other in both directions."""
    assert has_majority(nodes, down, cuts) is able


def test_stalls_are_told_by_cause() -> None:
    """A stall is the time without a commit while a majority could; its cause was at work, or over lately."""
    progress = Progress()
    progress.set_able(0.0, True)
    progress.commits = [0.1, 0.2, 1.2, 1.3, 3.0, 9.0]
    progress.set_able(4.0, False)
    progress.set_able(8.8, True)
    faults = [Work(0.15, 0.5, "kill"), Work(1.0, 1.1, "handover")]
    stalls = progress.stalls(20.0, faults)
    assert [(round(stall.start, 1), round(stall.seconds, 1), stall.cause) for stall in stalls] == [
        (0.2, 1.0, "kill"),
        (1.3, 1.7, "after handover"),
        (3.0, 1.0, "after handover"),
        (9.0, 11.0, "unexplained"),
    ]
    assert progress.able_spans(20.0) == [(0.0, 4.0), (8.8, 20.0)]


def test_silence_counts_only_while_a_majority_can_commit() -> None:
    """It begins with the last commit or with the majority, whichever came last."""
    progress = Progress()
    assert progress.silence_s(1.0) == 0.0
    progress.set_able(1.0, True)
    assert progress.silence_s(3.0) == 2.0
    progress.commits.append(2.5)
    assert progress.silence_s(3.0) == 0.5
    progress.set_able(3.0, False)
    assert progress.silence_s(9.0) == 0.0
    progress.set_able(9.0, True)
    assert progress.silence_s(9.5) == 0.5


def test_causes_add_up() -> None:
    """Count, sum and longest of each cause, the costliest first."""
    stalls = [Stall(0.0, 0.5, "kill"), Stall(1.0, 2.0, "stop"), Stall(5.0, 1.0, "kill")]
    assert by_cause(stalls) == {
        "stop": {"count": 1, "seconds": 2.0, "longest_s": 2.0},
        "kill": {"count": 2, "seconds": 1.5, "longest_s": 1.0},
    }
