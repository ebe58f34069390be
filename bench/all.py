"""Run all measurements, one after the other, each for a bounded time; then renew the README's table.

Reports go to bench/results/NAME.json, plots to NAME.svg beside them. A measurement that fails leaves its old
results as they are and is named in the end. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from bench.kit.measured import RESULTS, ROOT, write
from bench.kit.report import progress

# What is run, and how long it may take; longer than that, it is stopped.
PLAN: dict[str, tuple[list[str], float]] = {
    "commit_latency": (["--variants", "thread", "process", "curve", "memory", "--seconds", "1.5"], 300),
    "compare": (["--seconds", "0.8"], 400),
    "ingestion": (["--full"], 1200),
    "throughput": (["--seconds", "2"], 200),
    "delta": (["--rounds", "5"], 200),
    "streams": (["--seconds", "1.5"], 600),
    "catch_up": (["--seconds", "8"], 200),
    "footprint": ([], 120),
}
WITHOUT_PLOT = ("footprint",)


def command(name: str, quick: bool) -> list[str]:
    """How one of the plan is run."""
    words = [sys.executable, "-m", f"bench.{name}", *PLAN[name][0], "--json", str(RESULTS / f"{name}.json")]
    words += [] if name in WITHOUT_PLOT else ["--plot", str(RESULTS / f"{name}.svg")]
    return [*words, "--quick"] if quick else words


def main(arguments: list[str] | None = None) -> int:
    """Run the plan; 1 if something of it has failed."""
    options_of = argparse.ArgumentParser(
        prog="scripts/bench all", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options_of.add_argument("names", nargs="*", metavar="NAME", help="only these: " + ", ".join(PLAN))
    options_of.add_argument("--quick", action="store_true", help="rough figures, in a few minutes")
    options = options_of.parse_args(arguments)
    if unknown := set(options.names) - PLAN.keys():
        options_of.error(f"no such measurement: {', '.join(sorted(unknown))}")
    failed = []
    for name in options.names or PLAN:
        progress(f"── {name} ──")
        with subprocess.Popen(command(name, options.quick), cwd=ROOT) as running:
            try:
                status: int | str = running.wait(PLAN[name][1])
            except KeyboardInterrupt:
                running.wait()  # it was interrupted as well, and cleans up
                return 130
            except subprocess.TimeoutExpired:
                running.terminate()
                running.wait()
                status = "not ended in time"
        if status != 0:
            failed.append(f"{name} ({status})")
    write()
    if failed:
        progress(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
