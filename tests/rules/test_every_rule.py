"""R1-R28: every rule of the protocol has at least one test that is named after it."""

from __future__ import annotations

import ast
from pathlib import Path

HERE = Path(__file__).parent
RULES = [f"R{number}" for number in range(1, 29)] + ["R17a"]


def test_every_rule_has_a_test_of_its_name() -> None:
    """`test_R7_…` in a file beside this one says what R7 is worth."""
    names = {
        node.name.split("_")[1]
        for path in HERE.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_R")
    }
    assert [rule for rule in RULES if rule not in names] == []
    assert sorted(names - set(RULES)) == []
