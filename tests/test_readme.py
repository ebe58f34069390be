"""The README's example is a program that runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.adapters.power import teeth as power
from tests.exploration.mutants import MUTANTS
from tests.simulation.batches import Sum, read_record
from tests.simulation.teeth.table import TEETH

README = Path(__file__).parent.parent / "README.md"
EVENTS = 20_000


@pytest.fixture
def example(tmp_path: Path) -> list[str]:
    """The command that runs the README's first Python block."""
    block = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert block is not None
    program = tmp_path / "engine.py"
    program.write_text(block[1])
    return [sys.executable, str(program)]


def test_the_example_runs_and_goes_on_where_it_was(example: list[str], tmp_path: Path) -> None:
    """Standalone, it commits its checkpoints; started again, it restores the last and is done."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("REPLICATOR_")}
    environ |= {"REPLICATOR_DATA_DIR": str(tmp_path / "data"), "REPLICATOR_LOG_LEVEL": "WARNING"}
    environ["PYTHONPATH"] = str(README.parent)
    first = subprocess.run(example, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert (first.returncode, first.stderr) == (0, "")
    assert "Committed(" in first.stdout
    export = [sys.executable, "-m", "replicator", "export", "totals"]
    stored = subprocess.run(export, env=environ, capture_output=True, check=True, timeout=60).stdout
    assert json.loads(stored) == {"offset": EVENTS, "total": sum(range(EVENTS))}
    second = subprocess.run(example, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")


ENDING = """
from concurrent.futures import Future

class Restored(dict):
    unavailable = frozenset()

class Replicator:
    active, restored, tickets = True, Restored(), []

    @classmethod
    def from_env(cls): return cls()

    def __enter__(self): return self

    def __exit__(self, *_):
        for ticket in self.tickets:
            ticket.set_exception(RuntimeError("the tenure ended first"))

    def tenures(self): return [self]

    def submit(self, stream, payload):
        self.tickets.append(Future())
        return self.tickets[-1]
"""  # all of the library that the example uses, where nothing commits any more


def test_the_example_s_tickets_may_end_with_the_tenure(example: list[str], tmp_path: Path) -> None:
    """What becomes of each is printed, and nothing is logged of its callback."""
    (tmp_path / "replicator.py").write_text(ENDING)
    done = subprocess.run(example, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["the tenure ended first"] * (EVENTS // 1_000)


UNREADABLE = (
    ENDING.replace("return [self]", "return [Waiting(), self]")
    + """
class Waiting:
    class restored:
        unavailable = frozenset({"totals"})

    def wait_ended(self): print("waits")
"""
)


def test_the_example_stays_primary_where_its_checkpoint_cannot_be_read(
    example: list[str], tmp_path: Path
) -> None:
    """It waits for the tenure's end: an engine that died of it would leave no primary to be told by
    `replicator abandon`, start after start (R8)."""
    (tmp_path / "replicator.py").write_text(UNREADABLE)
    done = subprocess.run(example, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["waits", *["the tenure ended first"] * (EVENTS // 1_000)]


def test_the_proof_counts_what_there_is() -> None:
    """Teeth, seeds, and the kinds of what went wrong in them, are as many as the README says."""
    readme, record = README.read_text(), Sum()
    for batch in read_record(README.parent / "tests" / "simulation" / "record.jsonl"):
        record.add(batch)
    assert f"| {len(TEETH)} of {len(TEETH)} | `scripts/test tests/simulation/test_teeth.py` |" in readme
    ways = len(power.TEETH) + len(power.TEETH_AFTER_A_DEATH)
    assert f"; {ways} of {ways} ways to lose what was answered for are found |" in readme
    assert f"; {len(MUTANTS)} of {len(MUTANTS)} broken rules found |" in readme
    assert f"under {len(record.faults)} kinds of fault and {len(record.frames)} of what becomes" in readme
    assert f"| {record.seeds:,} seeds while it was built" in readme
    assert f"; {len(record.failures)} seeds failed at their commit" in readme
    simulation = (README.parent / "tests" / "simulation" / "README.md").read_text()
    counted = f"every recorded run, {record.seeds:,} seeds, with its commit and what failed in it: "
    assert f"{counted}{len(record.failures)} seeds" in simulation
