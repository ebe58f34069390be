"""One seed from its first event to its verdict.

Every seed is at least SIMULATED_MIN_S of simulated time, FAULTS_MIN injected faults and COMMITS_MIN
commits: faults go on until there have been enough of them, and the healed cluster works on until there is
enough of the rest. A seed that falls short of it has failed.
"""

from __future__ import annotations

import time
import traceback
from random import Random

from msgspec import Struct, structs

from replicator.core.replica import Replica
from tests.simulation.checkers import Violation
from tests.simulation.checkers.liveness import Liveness
from tests.simulation.disk import Disk
from tests.simulation.faults import Faults
from tests.simulation.world import DiskType, Plan, ReplicaType, World, draw_plan

SIMULATED_MIN_S = 60.0
FAULTS_MIN = 30
COMMITS_MIN = 100
FAULTS_WITHIN_S = 600.0


class Outcome(Struct, frozen=True, kw_only=True):
    """What came of a seed."""

    seed: int
    violation: str | None
    simulated_s: float
    wall_s: float
    events: int
    faults: dict[str, int]
    frames: dict[str, int]  # what happened to single frames
    commits: int
    tenures: int
    trace_hash: str | None
    trace: tuple[str, ...]


def run_seed(
    seed: int,
    *,
    replica_type: ReplicaType = Replica,
    disk_type: DiskType = Disk,
    hashed: bool = False,
    changes: dict[str, object] | None = None,
    trace_lines: int = 400,
) -> Outcome:
    """Run a seed to its end. *changes* override the plan; the trace is kept if a promise is broken."""
    started = time.perf_counter()
    plan: Plan = structs.replace(draw_plan(Random(f"plan {seed}")), **(changes or {}))
    world = World(seed, plan, replica_type, disk_type, None if hashed else trace_lines)
    faults = Faults(world)
    violation = None
    try:
        _play(world, faults)
    except Violation as broken:
        violation = str(broken)
        if broken.__cause__ is not None:
            violation += "\n" + "".join(traceback.format_exception(broken.__cause__)[-12:])
    except Exception as error:  # the seed is to be known whatever happens
        violation = f"the simulator: {error!r}\n" + "".join(traceback.format_exception(error)[-12:])
    return Outcome(
        seed=seed,
        violation=violation,
        simulated_s=world.now,
        wall_s=time.perf_counter() - started,
        events=world.event_count,
        faults=dict(sorted(faults.injected.items())),
        frames=dict(world.network.counts),
        commits=world.history.commit_count,
        tenures=len(world.history.tenures),
        trace_hash=world.trace.trace_hash if hashed else None,
        trace=tuple(world.trace.lines(trace_lines)) if violation else (),
    )


def _play(world: World, faults: Faults) -> None:
    faults.start()
    world.run_until(world.plan.fault_s)
    while faults.injected_count < FAULTS_MIN and world.now < FAULTS_WITHIN_S:
        world.run_until(world.now + 1.0)
    faults.heal()
    liveness = Liveness(world, faults)
    liveness.require(SIMULATED_MIN_S, COMMITS_MIN)
    liveness.require_beside_bad_disks()
    world.check("finished")
    done = (world.now, faults.injected_count, world.history.commit_count)
    if any(is_ < least for is_, least in zip(done, (SIMULATED_MIN_S, FAULTS_MIN, COMMITS_MIN), strict=True)):
        raise Violation("seed", f"{done[0]:.0f} s, {done[1]} faults, {done[2]} commits are too few")
