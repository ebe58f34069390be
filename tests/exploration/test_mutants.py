"""The search has teeth: each broken rule is found in a world of its own, within a stated number of states."""

from __future__ import annotations

import math

import pytest

from tests.exploration.explorer import Explorer
from tests.exploration.mutants import MUTANTS, Mutant
from tests.exploration.worlds import WORLDS


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.rule}-{mutant.break_it.__name__}")
def test_broken_rule_is_found(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some path breaks a promise."""
    (world,) = [world for world in WORLDS if world.name == mutant.world]
    mutant.break_it(monkeypatch)
    outcome = Explorer(world).explore(mutant.states_max, depth_max=1_000, seconds_max=math.inf)
    print(outcome.states, outcome.violation)
    assert outcome.violation, f"{mutant.rule} is broken, and nobody sees it"
    assert "TypeError(" not in outcome.violation, "the substitution does not fit what it stands for"
