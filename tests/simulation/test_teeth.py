"""The tests have teeth: what breaks one rule is noticed by the harness that the table names for it."""

from __future__ import annotations

import pytest

from tests.simulation.teeth.table import RULES, TEETH, Tooth, bite


@pytest.mark.parametrize("tooth", TEETH, ids=lambda tooth: tooth.name)
def test_broken_rule_is_found(tooth: Tooth, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness that the table names for it sees the rule broken, within the stated number of seeds."""
    found = bite(tooth, monkeypatch)
    assert found is not None, f"{tooth.promise} And {tooth.harness} does not see it."
    assert "TypeError(" not in found[1], f"the substitution does not fit what it stands for: {found[1]}"


def test_every_rule_has_teeth() -> None:
    """The table has every rule of the protocol, and says in one sentence what each substitution breaks."""
    assert {tooth.rule for tooth in TEETH} == set(RULES)
    assert len({tooth.name for tooth in TEETH}) == len(TEETH)
    assert all(tooth.promise.endswith((".", ")")) for tooth in TEETH)
