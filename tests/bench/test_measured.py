"""The README's figures are those of the committed results, and every measurement can be asked for help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.all import PLAN, command
from bench.kit.measured import BEGIN, END, RESULTS, WRITERS, shown, table, write
from bench.kit.report import Report

ROOT = Path(__file__).parent.parent.parent
NAMES = sorted(path.stem for path in (ROOT / "bench").glob("*.py") if path.stem != "__init__")


def test_the_readme_shows_the_committed_results() -> None:
    """The README's table is what the committed results render (`python -m bench.kit.measured --write`)."""
    assert shown() == table()


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_results_tell_where_they_are_from(path: Path) -> None:
    """Each committed result names its command, machine and versions, has rows, and no path of a machine."""
    report = Report.load(path)
    assert report.command.startswith(f"scripts/bench {path.stem}")
    assert report.rows
    assert {"processor", "cores", "memory"} <= report.machine.keys()
    assert {"python", "replicator", "pyzmq"} <= report.versions.keys()
    assert "/tmp" not in path.read_text()
    assert "/home" not in path.read_text()


def test_the_table_is_put_between_its_markers(tmp_path: Path) -> None:
    """Renewing the table changes nothing around it, and a README without a place for it is refused."""
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write(readme, tmp_path)
    assert readme.read_text() == f"before\n{BEGIN}\n{table(tmp_path)}\n{END}\nafter\n"
    readme.write_text("nothing")
    with pytest.raises(ValueError, match="no place"):
        shown(readme)


@pytest.mark.parametrize("name", [*NAMES, "compare"])
def test_every_measurement_has_help(name: str) -> None:
    """--help works without servers, clients or plots, and says what the figures mean."""
    words = [sys.executable, "-m", f"bench.{name}", "--help"]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.startswith("usage: scripts/bench")
    assert "--quick" in found.stdout
    assert len(found.stdout) > 600


def test_the_plan_runs_what_the_table_shows() -> None:
    """All that the README quotes is among what `scripts/bench all` runs."""
    assert set(WRITERS) <= set(PLAN)
    assert "--quick" in command("delta", quick=True)
