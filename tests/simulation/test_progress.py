"""Progress beside faults that last: a majority that is healthy and connected does not wait for the rest (I8).

The seeds of `test_simulation` ask for it after their faults alone, so that no wait within them is too long.
"""

from __future__ import annotations

from itertools import permutations
from random import Random

import pytest

from replicator.core.quorum import majority
from replicator.core.replica import Replica
from tests.simulation.world import Plan, World

SEEDS = 16
FOUNDED_WITHIN_S = 10.0
ROUNDS = 4
SILENCE_MAX_S = 1.5  # the elector's patience, a claim, and as long again
PLAN = Plan(
    node_count=5, stream_count=2, engine_chance=1.0, fault_s=0.0, fault_mean_s=1.0,
    submit_mean_s=0.03, delete_chance=0.0, heartbeat_interval_s=0.06, lease_s=0.3,
)  # fmt: skip


@pytest.mark.parametrize("seed", range(SEEDS))
def test_I8_no_cut_that_leaves_a_majority_connected_stops_commits_for_long(seed: int) -> None:
    """Whatever directions are cut for good, if those within some majority are not: commits go on."""
    random, world = Random(f"cut {seed}"), World(seed, PLAN, Replica, trace_kept=1)
    world.elector.is_fair = True
    world.paces = dict.fromkeys(world.streams, 1.0)
    history, names = world.history, sorted(world.nodes)
    assert world.run_until(FOUNDED_WITHIN_S, lambda: history.commit_count > 5)
    founded_at = world.now
    kept = random.sample(names, majority(len(names)))
    chance = random.choice((0.3, 0.5))
    cut = [link for link in permutations(names, 2) if not set(link) <= {*kept} and random.random() < chance]
    world.network.cut(cut)
    for round_ in range(1, ROUNDS + 1):
        before = history.commit_count
        world.run_until(founded_at + round_ * SILENCE_MAX_S)
        assert history.commit_count > before, f"{kept} are connected, cut are {cut}"
