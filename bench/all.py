"""Run all measurements that the README's tables show, each for a bounded time; then renew the tables.

Reports go to bench/results/NAME.json, plots to NAME.svg beside them. A measurement that fails, or takes too
long, leaves its old results as they are and is named in the end; the others are run all the same. Ctrl-C and
SIGTERM end the one that runs, which cleans up; what has been measured until then is kept. Nothing else should
run on the machine meanwhile.

`steadiness`, which takes half an hour and stands in no table, is called by itself.

--quick tries everything in a few minutes and keeps none of it: the table of its rough figures is printed.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from msgspec import Struct

from bench.kit.measured import RESULTS, ROOT, blocks, write
from bench.kit.report import progress
from bench.kit.run import unwritten
from replicator.cli.output import prepare
from replicator.signals import ending_signals, interrupt_each_time

INTERRUPTED = 130
END_TIMEOUT_S = 60.0  # what a measurement may take to stop all that it has started


class Job(Struct, frozen=True):
    """How one is run: its arguments, those with --quick, and how long it may take; then it is stopped."""

    words: str
    quick_words: str
    timeout_s: float


PLAN = {
    "commit_latency": Job("--variants thread process curve memory --seconds 1.5", "--seconds 0.3", 400),
    "compare": Job("--seconds 0.8", "--seconds 0.2", 600),
    "linearity": Job("", "", 400),
    "throughput": Job("--seconds 2", "--seconds 0.3", 200),
    "delta": Job("--rounds 5", "", 200),
    "streams": Job("--seconds 1.5", "", 600),
    "catch_up": Job("--seconds 8", "", 200),
    "submit": Job("", "", 200),
    "ingestion": Job("--full", "--modes process --loops full", 1200),
    "footprint": Job("", "", 120),
    "failover": Job("--full --count 10", "--profiles fast --faults engine node handover --count 2", 2400),
}
WITHOUT_PLOT = ("footprint",)


def command(name: str, results: Path = RESULTS, *, quick: bool = False) -> list[str]:
    """How one of the plan is run."""
    words = [sys.executable, "-m", f"bench.{name}", "--json", str(results / f"{name}.json")]
    words += [] if name in WITHOUT_PLOT else ["--plot", str(results / f"{name}.svg")]
    job = PLAN[name]
    return [*words, *((*job.quick_words.split(), "--quick") if quick else job.words.split())]


def play(words: list[str], timeout_s: float) -> str:
    """Run a command, where Ctrl-C reaches it from here alone, once. Why it has failed, or ''."""
    with subprocess.Popen(words, cwd=ROOT, start_new_session=True) as running:
        try:
            status = running.wait(timeout_s)
        except subprocess.TimeoutExpired:
            progress(f"stopped: not ended in {timeout_s:.0f} s")
            _end(running)
            return f"not ended in {timeout_s:.0f} s"
        except KeyboardInterrupt:
            _end(running)
            raise
    return f"status {status}" if status else ""


def _end(running: subprocess.Popen[bytes]) -> None:
    """Have it end as Ctrl-C does: all of its group hears of it."""
    os.killpg(running.pid, signal.SIGTERM)
    try:
        running.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)


def run_all(names: list[str], results: Path, *, quick: bool) -> int:
    """Run these; 1 if one has failed, 130 if they were interrupted."""
    failed, began = [], time.monotonic()
    try:
        for number, name in enumerate(names, 1):
            limit_s, spent_s = PLAN[name].timeout_s, time.monotonic() - began
            progress(f"── {number} of {len(names)}: {name}, {limit_s:.0f} s at most; {spent_s:.0f} s gone ──")
            if reason := play(command(name, results, quick=quick), limit_s):
                failed.append(f"{name} ({reason})")
                progress(f"{name} has failed: {reason}; its old results stay")
    except KeyboardInterrupt:
        progress("interrupted: what was measured until now is kept")
        return INTERRUPTED
    if failed:
        progress(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def main(arguments: list[str] | None = None) -> int:
    """Run the plan, or the measurements that are named."""
    prepare()
    options_of = argparse.ArgumentParser(
        prog="scripts/bench all", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options_of.add_argument("names", nargs="*", metavar="NAME", help="only these: " + ", ".join(PLAN))
    options_of.add_argument("--quick", action="store_true", help="rough figures, which are not kept")
    options = options_of.parse_args(arguments)
    if unknown := set(options.names) - PLAN.keys():
        options_of.error(f"no such measurement: {', '.join(sorted(unknown))}")
    for each in ending_signals():
        signal.signal(each, interrupt_each_time)
    with ExitStack() as stack:
        results = RESULTS
        if options.quick:
            results = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="replicator-bench-all-")))
        status = run_all(options.names or list(PLAN), results, quick=options.quick)
        try:
            if options.quick:
                print("\n\n".join(blocks(results).values()), flush=True)
            else:
                write()
        except OSError as error:
            status = max(status, unwritten(options_of.prog, error))
    return status


if __name__ == "__main__":
    sys.exit(main())
