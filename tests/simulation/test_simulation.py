"""Whole clusters under faults, for as many seeds as fit into a test run; `scripts/simulate` runs more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from replicator.core.effects import Accept, Effect, Send
from replicator.core.events import Event
from replicator.core.messages import Ack, Acked
from replicator.core.replica import Replica
from replicator.model import NodeId
from tests.simulation.run import Outcome, run_seed

SEEDS = range(1_000, 1_036)
CANARY_SEEDS_MAX = 5
FIXED_SEEDS = (
    38, 44, 68, 151, 227, 340, 455, 468, 472, 2016, 2042, 2049, 2129, 2159, 2284, 3000, 3013, 5075, 10354,
    40051, 40083,
)  # fmt: skip
ROOT = Path(__file__).resolve().parent.parent.parent


def fail(outcome: Outcome) -> None:
    """Fail a test with everything that is needed to look into a seed."""
    trace = "\n".join(outcome.trace[-60:])
    pytest.fail(f"{trace}\nseed {outcome.seed}: {outcome.violation}\nscripts/simulate --seed {outcome.seed}")


@pytest.mark.parametrize("seed", SEEDS)
def test_seed(seed: int) -> None:
    """No promise is broken under the faults of this seed, and after them the cluster serves again."""
    outcome = run_seed(seed)
    if outcome.violation is not None:
        fail(outcome)


def test_fixed_bugs_stay_fixed() -> None:
    """Each seed that once showed a bug of the core goes well."""
    for seed in (5075, 5862, 6233, 6282, 6749):
        outcome = run_seed(seed)
        if outcome.violation is not None:
            fail(outcome)


def test_same_seed_same_run() -> None:
    """A seed replays exactly, in interpreters that order their sets differently as well."""
    hashes = set()
    for hash_seed in ("1", "2"):
        command = [sys.executable, "-m", "tests.simulation", "--hash", "--seed", "1001"]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        run = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
        hashes.add(run.stdout)
    assert len(hashes) == 1
    assert run_seed(1001, hashed=True).trace_hash == hashes.pop().strip()


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
