"""Distributions: what is said of many samples of one thing, and taking samples of several things in turns.

A median alone hides how noisy a machine is, so the quartiles always stand beside it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from math import ceil

from msgspec import Struct


class Spread(Struct, frozen=True):
    """Samples of one thing, in the unit that its name says: how many, quartiles, tail."""

    count: int
    p50: float
    p25: float
    p75: float
    p99: float
    max: float

    @classmethod
    def of(cls, samples: Sequence[float], digits: int = 3) -> Spread:
        """The spread of *samples*, rounded to *digits*; raises ValueError if there are none."""
        ordered = sorted(samples)
        if not ordered:
            raise ValueError("no samples")
        ranks = [percentile(ordered, fraction) for fraction in (0.25, 0.75, 0.99, 1)]
        return cls(len(ordered), *(round(each, digits) for each in (statistics.median(ordered), *ranks)))


def percentile(ordered: Sequence[float], fraction: float) -> float:
    """The least sample of *ordered* (ascending) below or at which *fraction* of all lie."""
    return ordered[ceil(fraction * len(ordered)) - 1]


def ratios(over: Sequence[float], under: Sequence[float]) -> Spread:
    """The spread of the pairwise ratios, its p50 replaced by the ratio of the medians.

    Samples taken in turns meet the same noise, so a pair is compared; yet a median of ratios is biased
    where the two differ in their spread, so the figure that is quoted is the ratio of the medians.
    """
    pairs = Spread.of([a / b for a, b in zip(over, under, strict=False)])
    ratio = statistics.median(over) / statistics.median(under)
    return Spread(pairs.count, round(ratio, 3), pairs.p25, pairs.p75, pairs.p99, pairs.max)


class Budget(Struct, frozen=True):
    """How long to sample: at least *count_min* rounds, at most *count_max*, between them until *seconds*."""

    seconds: float
    count_min: int = 5
    count_max: int = 1000
    warm_up: int = 3


def take_in_turns(contenders: Mapping[str, Callable[[], float]], budget: Budget) -> dict[str, list[float]]:
    """Samples of each contender, one after the other, so that all meet the same noise of the machine.

    A contender does its work once and returns what it measured. Every second round goes the other way
    round: whoever comes second finds warmer caches, or the disk still busy.
    """
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders.items())
    for _ in range(budget.warm_up):
        for _, take in order:
            take()
    until = time.monotonic() + budget.seconds
    for number in range(budget.count_max):
        if number >= budget.count_min and time.monotonic() > until:
            break
        for name, take in order if number % 2 else reversed(order):
            samples[name].append(take())
    return samples
