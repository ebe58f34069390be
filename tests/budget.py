"""How long each part of `.ci/run` may take, and how long it took: 15 minutes are all there is.

`scripts/test` runs two sets of the tests side by side, so the whole takes less than the sum of its parts.
The budget is kept by hand, for a noisy machine must not fail a test: a part that is over it is marked in
the closing table of every run, and `.ci/run` as a whole has a hard limit. The virtual environment, lint and
types come before pytest and have 150 s; their times are in the log of `.ci/run`.
"""

from __future__ import annotations

from collections import Counter, defaultdict

BUDGET_S = {
    "adapters": 150,
    "chaos": 75,
    "demo": 60,
    "exploration": 100,
    "integration": 200,
    "rules": 30,  # with transcripts and traps
    "simulation": 180,  # 200 seeds and the quick form of the teeth
    "unit": 120,
}
PART_OF = {"transcripts": "rules", "traps": "rules"}


def part_of(nodeid: str) -> str:
    """The part that a test belongs to, by its directory; small ones are "unit"."""
    directory = nodeid.split("/")[1]
    part = PART_OF.get(directory, directory)
    return part if part in BUDGET_S else "unit"


class Budget:
    """Adds up the seconds of each part, set-up and teardown included."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._counts: Counter[str] = Counter()

    def add(self, nodeid: str, phase: str, seconds: float) -> None:
        """Count one phase of one test."""
        part = part_of(nodeid)
        self._seconds[part] += seconds
        self._counts[part] += phase == "call"

    def lines(self) -> list[str]:
        """The closing table: a line for each part that ran."""
        return [
            f"{part:12} {self._counts[part]:5} tests {seconds:6.1f} s of {BUDGET_S[part]:4} s"
            + ("  OVER ITS BUDGET" if seconds > BUDGET_S[part] else "")
            for part, seconds in sorted(self._seconds.items())
        ]
