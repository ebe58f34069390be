"""Liveness: whether commits flow whenever they can, and where the time goes when they do not (I8).

A majority *can* commit while some majority of nodes is up, has room on its disks, and each two of them hear
each other in both directions. Time in that condition without a commit is a stall, and is told by cause: the
fault that was at work, or had ended last, when it began.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

GAP_S = 0.25  # the engine submits five times as often: a longer pause between commits is a stall
CAUSE_S = 5.0  # a fault that ended longer ago has nothing to do with a stall

Span = tuple[float, float]


def has_majority(nodes: Sequence[str], down: Iterable[str], cuts: Iterable[tuple[str, str]]) -> bool:
    """Whether a majority of the nodes is up and connected with each other."""
    up = [node for node in nodes if node not in set(down)]
    broken = set(cuts)
    return any(
        not any(pair in broken or pair[::-1] in broken for pair in combinations(group, 2))
        for group in combinations(up, len(nodes) // 2 + 1)
    )


class Work(NamedTuple):
    """A fault at work, from one instant to the other."""

    start: float
    end: float
    what: str


class Stall(NamedTuple):
    """A time without a commit though a majority could have."""

    start: float
    seconds: float
    cause: str


class Progress:
    """Notes when a majority was able to commit, and when something did."""

    def __init__(self) -> None:
        self.commits: list[float] = []
        self._changes: list[tuple[float, bool]] = []

    def set_able(self, at: float, able: bool) -> None:
        """From *at* on a majority can commit, or cannot."""
        if not self._changes or self._changes[-1][1] is not able:
            self._changes.append((at, able))

    def able_spans(self, until: float) -> list[Span]:
        """When a majority could commit."""
        ends = [at for at, _ in self._changes[1:]] + [until]
        pairs = zip(self._changes, ends, strict=True)
        return [(at, end) for (at, able), end in pairs if able and end > at]

    def silence_s(self, now: float) -> float:
        """For how long a majority could have committed now, and did not."""
        if not self._changes or not self._changes[-1][1]:
            return 0.0
        return now - max(self._changes[-1][0], self.commits[-1] if self.commits else 0.0)

    def stalls(self, until: float, faults: Sequence[Work]) -> list[Stall]:
        """All stalls of more than `GAP_S`, with their causes."""
        commits = sorted(self.commits)
        found = []
        for start, end in self.able_spans(until):
            inside = commits[bisect_left(commits, start) : bisect_left(commits, end)]
            marks = [start, *inside, end]
            for first, second in pairwise(marks):
                if second - first > GAP_S:
                    found.append(Stall(first, second - first, _cause(first, second, faults)))
        return found


def _cause(start: float, end: float, faults: Sequence[Work]) -> str:
    """What was at work when the stall began, else what had ended last before, else what began during it."""
    working = [fault for fault in faults if fault.start <= start + GAP_S and fault.end > start]
    if working:
        return max(working, key=lambda fault: fault.start).what
    over = [fault for fault in faults if start - CAUSE_S < fault.end <= start]
    if over:
        return "after " + max(over, key=lambda fault: fault.end).what
    during = [fault for fault in faults if start < fault.start < end]
    return min(during, key=lambda fault: fault.start).what if during else "unexplained"


def by_cause(stalls: Iterable[Stall]) -> dict[str, dict[str, float]]:
    """Count, seconds in all and longest, for each cause; the one that cost most comes first."""
    groups: dict[str, list[float]] = defaultdict(list)
    for stall in stalls:
        groups[stall.cause].append(stall.seconds)
    ordered = sorted(groups.items(), key=lambda item: -sum(item[1]))
    return {
        cause: {"count": len(spans), "seconds": round(sum(spans), 2), "longest_s": round(max(spans), 2)}
        for cause, spans in ordered
    }
