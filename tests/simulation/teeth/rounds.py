"""The long form of the teeth: every tooth on three ranges of seeds, each with five times as many as in CI."""

from __future__ import annotations

import pytest

from tests.simulation.run import run_seed
from tests.simulation.teeth.table import TEETH, Simulator, Tooth, bite

RANGES = (0, 10_000, 20_000)
SEEDS_FACTOR = 5


def show_teeth() -> int:
    """Print the table with what was noticed after how many seeds; 1 if any tooth does not bite."""
    blunt = []
    for tooth in TEETH:
        found = [_round(tooth, first) for first in (RANGES if isinstance(tooth.harness, Simulator) else (0,))]
        tries = " / ".join(str(one[0]) if one is not None else "none" for one in found)
        seen = next((one[1] for one in found if one is not None), "nobody sees it")
        print(
            f"{tooth.name}: {tooth.promise}\n    {tooth.harness}\n    after {tries}: {seen[:160]}", flush=True
        )
        if None in found:
            blunt.append(tooth.name)
    print(f"{len(TEETH)} teeth, {len(blunt)} do not bite: {blunt}")
    return 1 if blunt else 0


def _round(tooth: Tooth, first: int) -> tuple[int, str] | None:
    """One range of seeds; the seed that shows the broken rule must go well with the honest code."""
    with pytest.MonkeyPatch.context() as patch:
        seeds_max = SEEDS_FACTOR * tooth.harness.seeds_max if isinstance(tooth.harness, Simulator) else None
        found = bite(tooth, patch, first, seeds_max)
    if found is not None and isinstance(tooth.harness, Simulator):
        honest = run_seed(first + found[0] - 1, changes=tooth.harness.changes)
        assert honest.violation is None, f"without the tooth too: {honest.violation}"
    return found
