"""What is compiled for long runs: everything that a seed runs, but for what has to stay as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation import compiled
from tests.simulation.batches import ROOT
from tests.simulation.compiled import BuildError, build, modules


def test_the_core_and_the_simulator_are_compiled() -> None:
    """The replica, the world and a checker are; a module that defines what is decoded is not, nor a test."""
    chosen = set(modules(ROOT))
    assert {"replicator/core/replica.py", "tests/simulation/world.py"} <= chosen
    assert "tests/simulation/checkers/chains.py" in chosen
    assert not chosen & {"replicator/core/messages.py", "tests/simulation/test_compiled.py"}


def test_what_stays_interpreted_exists() -> None:
    """A renamed module does not slip into the compiled ones unseen."""
    stems = {path.stem for folder in compiled.COMPILED for path in (ROOT / folder).glob("*.py")}
    assert stems >= compiled.INTERPRETED


def test_a_failed_build_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No compiler, no build: one clear error, and nothing that looks like a build is left."""
    for package in compiled.PACKAGES:
        (tmp_path / package).mkdir()
    monkeypatch.setattr(compiled.sys, "executable", str(tmp_path / "python"))  # type: ignore[attr-defined]
    with pytest.raises(BuildError, match="mypyc does not run: No such file"):
        build(tmp_path)
    assert not (tmp_path / "build" / "simulation" / compiled.STAMP_FILE).exists()
