"""Run whole simulated clusters, each from one seed; the first broken promise ends it with its seed.

scripts/simulate --seeds 1000            the seeds 0 to 999
scripts/simulate --seeds 1 --seed 4711   one seed again
scripts/simulate --minutes 10            as many seeds as fit
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from tests.simulation.run import run_seed

TWICE_EVERY = 100


def main() -> int:
    """Run the seeds that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, help="how many seeds")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--minutes", type=float, help="stop after so long")
    parser.add_argument("--keep-going", action="store_true", help="go on after a failing seed")
    parser.add_argument("--trace", type=int, default=60, help="lines of trace shown of a failing seed")
    parser.add_argument("--hash", action="store_true", help="print the trace hash of one seed")
    options = parser.parse_args()
    if options.hash:
        print(run_seed(options.seed, hashed=True).trace_hash)
        return 0
    count = options.seeds if options.seeds is not None else (10**9 if options.minutes else 100)
    end = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    started, failed, done, simulated_s, faults, commits = time.monotonic(), [], 0, 0.0, 0, 0
    for seed in range(options.seed, options.seed + count):
        if time.monotonic() > end:
            break
        outcome = run_seed(seed, trace_lines=options.trace)
        done += 1
        simulated_s += outcome.simulated_s
        faults += outcome.faults
        commits += outcome.commits
        violation = outcome.violation
        if violation is None and seed % TWICE_EVERY == 0 and len(hashes(seed)) > 1:
            violation = "the same seed has run differently in two interpreters"
        if violation is not None:
            failed.append(seed)
            print(*outcome.trace, f"seed {seed}: {violation}", sep="\n", flush=True)
            if not options.keep_going:
                break
        if done % 20 == 0:
            rate = done / (time.monotonic() - started)
            print(f"{done} seeds, {len(failed)} failed, {rate:.1f}/s", file=sys.stderr, flush=True)
    hours = simulated_s / 3600
    print(f"{done} seeds, {hours:.2f} simulated hours, {faults} faults, {commits} commits, failed: {failed}")
    return 1 if failed else 0


def hashes(seed: int) -> set[str]:
    """The trace hashes of a seed in two interpreters that order their sets differently."""
    command = [sys.executable, "-m", "tests.simulation", "--hash", "--seed", str(seed)]
    found = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        found.add(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    return found


if __name__ == "__main__":
    sys.exit(main())
