"""Whole clusters under faults, for as many seeds as fit into a test run; `scripts/simulate` runs more."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from replicator.core.effects import Accept, Effect, Send
from replicator.core.events import Event
from replicator.core.messages import Ack, Acked
from replicator.core.replica import Replica
from replicator.model import NodeId
from tests.simulation.batches import ROOT, other_hash
from tests.simulation.run import run_seed

SEEDS = 200
FIRST_SEED = 1_000
CANARY_SEEDS_MAX = 5
# Seeds that showed a bug, with the kind of fault favoured in them. They mean something else as soon as plans
# or faults are drawn otherwise: each bug has a rule test too, and seeds from before the last change are gone.
REGRESSIONS = (
    ("begin_anew", 3, "commit marks of a stream that was begun anew were refused, and all of it kept (R23)"),
    ("full_disk", 1, "who was named with a brimful disk waited for its own adoption, and so did all (R21)"),
)


@pytest.mark.timeout(600)
def test_seeds() -> None:
    """No promise is broken under the faults of these seeds, and after them each cluster serves again.

    Each is at least a minute of simulated time with 30 faults and 100 commits, or it counts as failed.
    """
    command = [sys.executable, "-m", "tests.simulation", "--seeds", str(SEEDS), "--seed", str(FIRST_SEED)]
    command += ["--jobs", str(os.cpu_count() or 1), "--keep-going"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"\n{SEEDS} seeds, " in done.stdout, done.stdout


@pytest.mark.parametrize(("favoured", "seed", "bug"), REGRESSIONS)
def test_fixed_bugs_stay_fixed(favoured: str, seed: int, bug: str) -> None:
    """Each seed that once showed a bug of the core goes well."""
    outcome = run_seed(seed, changes={"favoured": favoured})
    if outcome.violation is not None:
        pytest.fail(f"once because {bug}")


def test_same_seed_same_run() -> None:
    """A seed replays exactly, in interpreters that order their sets differently as well."""
    hashes = {run_seed(1001, hashed=True).trace_hash, *(other_hash(1001, text) for text in ("1", "2"))}
    assert len(hashes) == 1


class Canary(Replica):
    """Acknowledges what it has only asked the store to accept."""

    def handle(self, event: Event, now: float) -> list[Effect]:
        effects = super().handle(event, now)
        hasty = []
        for effect in effects:
            promise = self._state.promise
            if isinstance(effect, Accept) and promise is not None and promise.owner != self._state.me:
                manifest = effect.manifest
                acked = Acked(manifest.stream, manifest.generation, manifest.sequence, manifest.digest)
                hasty.append(Send(NodeId(promise.owner.node), Ack(effect.epoch, (acked,))))
        return effects + hasty


def test_canary_is_found() -> None:
    """A core that acknowledges too early is found within a few seeds, or the simulator sees nothing."""
    violations = [run_seed(seed, replica_type=Canary).violation for seed in range(CANARY_SEEDS_MAX)]
    assert any(violation is not None and violation.startswith("I5") for violation in violations)
