"""Explore small worlds: `scripts/explore [--world NAME] [--depth N] [--minutes M]`."""

from __future__ import annotations

import argparse
import signal
import sys

from replicator.cli.output import complain, guarded
from replicator.signals import ending_signals, interrupt_each_time
from tests.arguments import above_zero, one_or_more
from tests.exploration.explorer import Explorer, Outcome
from tests.exploration.worlds import WORLDS


def main(given: list[str]) -> int:
    """Explore the worlds that are asked for; 1 if a promise is broken, else 130 if it was interrupted."""
    parser = argparse.ArgumentParser(prog="scripts/explore", description=__doc__)
    parser.add_argument("--world", action="append", choices=[world.name for world in WORLDS])
    parser.add_argument("--depth", type=one_or_more, default=10_000, help="steps at most (default 10000)")
    parser.add_argument("--minutes", type=above_zero, default=5.0, help="for each world (default 5)")
    parser.add_argument("--states", type=one_or_more, default=20_000_000, help="at most (default 20000000)")
    parser.add_argument("--quick", action="store_true", help="the small form of each, as the tests run it")
    options = parser.parse_args(given)
    for each in ending_signals():
        signal.signal(each, interrupt_each_time)
    broken = 0
    try:
        for world in WORLDS:
            if not options.world or world.name in options.world:
                broken |= show(Explorer(world if options.quick else world.long()), options)
    except KeyboardInterrupt:
        status = complain("interrupted", 130)
        return broken or status
    return broken


def show(explorer: Explorer, options: argparse.Namespace) -> bool:
    """Search one world and print what came of it; whether a promise is broken."""
    outcome = explorer.explore(options.states, options.depth, options.minutes * 60)
    print(line(outcome), flush=True)
    if outcome.violation:
        for step in outcome.path:
            print(" ", explorer.tell(step))
        print(" ", outcome.violation)
    return bool(outcome.violation)


def line(outcome: Outcome) -> str:
    """One search in one line."""
    rate = outcome.transitions / max(outcome.seconds, 1e-9)
    end = outcome.violation or ("exhausted" if outcome.complete else "not exhausted")
    return (
        f"{outcome.world:<12} {outcome.states:>10,} states {outcome.transitions:>12,} transitions "
        f"depth {outcome.depth:>3} "
        f"{outcome.tenures} tenures {outcome.commits} commits "
        f"{outcome.machines:>8,} machine states {outcome.calls:>9,} core calls "
        f"{outcome.seconds:>7.1f} s {rate:>9,.0f}/s  {end}"
    )


if __name__ == "__main__":
    sys.exit(guarded("scripts/explore", lambda: main(sys.argv[1:])))
