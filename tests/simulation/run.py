"""One seed from its first event to its verdict."""

from __future__ import annotations

import time
from random import Random

from msgspec import Struct, structs

from replicator.core.replica import Replica
from tests.simulation.checkers import Violation
from tests.simulation.checkers.liveness import Liveness
from tests.simulation.disk import Disk
from tests.simulation.faults import Faults
from tests.simulation.world import DiskType, Plan, ReplicaType, World, draw_plan


class Outcome(Struct, frozen=True, kw_only=True):
    """What came of a seed."""

    seed: int
    violation: str | None
    simulated_s: float
    wall_s: float
    events: int
    faults: int
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
    world = World(seed, plan, replica_type, disk_type)
    faults = Faults(world)
    violation = None
    try:
        _play(world, faults)
    except Violation as exc:
        violation = str(exc)
        cause = exc.__cause__
        if cause is not None:
            import traceback

            violation += "\n" + "".join(traceback.format_exception(cause)[-12:])
    return Outcome(
        seed=seed,
        violation=violation,
        simulated_s=world.now,
        wall_s=time.perf_counter() - started,
        events=world.event_count,
        faults=sum(faults.injected.values()),
        commits=world.history.commit_count,
        tenures=len(world.history.tenures),
        trace_hash=world.trace.trace_hash if hashed else None,
        trace=tuple(world.trace.lines(trace_lines)) if violation else (),
    )


def _play(world: World, faults: Faults) -> None:
    faults.start()
    world.run_until(world.plan.fault_s)
    faults.heal()
    Liveness(world, faults).require()
    world.check("finished")
