"""Run whole simulated clusters, each from one seed; a broken promise is shown with its seed and trace.

scripts/simulate --seeds 1000                       the seeds 0 to 999
scripts/simulate --seeds 1 --seed 4711              one seed again, with its trace if it fails
scripts/simulate --minutes 10 --jobs 2              as many seeds as fit, on two cores
scripts/simulate --minutes 60 --state FILE          the same, written down; goes on where FILE ends
scripts/simulate --compiled --minutes 60            compiled first: the same traces, twice as fast
scripts/simulate --report FILE                      what FILE holds, summed up
scripts/simulate --teeth                            whether every broken rule is noticed, the long form
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager, suppress

from replicator.cli.output import complain, guarded
from replicator.signals import ending_signals, interrupt_each_time
from tests.arguments import above_zero, none_or_more, one_or_more, readable, resumable
from tests.simulation.batches import (
    BATCH_SEEDS,
    ROOT,
    Batch,
    DirtyTree,
    Sum,
    append_record,
    commit_here,
    has_batches,
    missing_batches,
    read_record,
    report,
    run_batch,
)
from tests.simulation.compiled import BuildError, build, is_compiled
from tests.simulation.run import run_seed
from tests.simulation.teeth.rounds import show_teeth

PROGRESS_EVERY_S = 10.0
INTERRUPTED = 130
PR_SET_PDEATHSIG = 1  # of prctl(2), Linux
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/simulate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=one_or_more, help="how many seeds (100 unless --minutes is given)")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument(
        "--minutes", type=above_zero, help="begin no further batch after so long (no end by default)"
    )
    parser.add_argument("--jobs", type=one_or_more, default=1, help="how many processes")
    parser.add_argument(
        "--state", type=resumable(read_record), metavar="FILE", help="write every batch down and resume"
    )
    parser.add_argument("--report", type=readable, metavar="FILE", help="sum a record up, and run nothing")
    parser.add_argument("--teeth", action="store_true", help="break one rule after the other instead")
    parser.add_argument(
        "--compiled", action="store_true", help="compile core and simulator (mypyc, a C compiler)"
    )
    parser.add_argument("--keep-going", action="store_true", help="go on after a failing seed")
    parser.add_argument(
        "--trace", type=none_or_more, default=60, help="lines of trace shown of a failing seed"
    )
    parser.add_argument("--hash", action="store_true", help="print the trace hash of one seed")
    options = parser.parse_args(given)
    if options.teeth and options.compiled:
        parser.error("--teeth replaces parts of the core, so it cannot be compiled: leave --compiled out")
    if options.report and not has_batches(options.report):
        parser.error(f"argument --report: {options.report} has no batches")
    return options


def main(given: list[str]) -> int:
    """Run the seeds that are asked for; 1 if any failed, else 130 if it was interrupted."""
    options = _arguments(given)
    for each in ending_signals():
        signal.signal(each, interrupt_each_time)
    try:
        return _act(options, given)
    except KeyboardInterrupt:
        return complain("interrupted", INTERRUPTED)


def _act(options: argparse.Namespace, given: list[str]) -> int:
    if options.hash:
        print(run_seed(options.seed, hashed=True).trace_hash)
        return 0
    if options.report:
        print(*report(read_record(options.report)), sep="\n")
        return 0
    if options.teeth:
        return show_teeth()
    try:
        commit = commit_here() if options.state else ""
    except DirtyTree as error:
        print(error, file=sys.stderr)
        return 2
    if options.compiled and not is_compiled():
        try:
            directory = build(ROOT)
        except BuildError as error:
            print(error, file=sys.stderr)
            return 2
        command = [sys.executable, "-P", "-m", "tests.simulation", *given]
        os.execve(command[0], command, {**os.environ, "PYTHONPATH": str(directory)})
    return Run(options, commit).run()


def batches_asked(options: argparse.Namespace) -> Iterator[tuple[int, int]]:
    """First seed and number of seeds of each batch; recorded ones are whole and not run twice."""
    count = options.seeds if options.seeds is not None else 10**9 if options.minutes else BATCH_SEEDS
    end = options.seed + count
    if options.state:
        start = options.seed - options.seed % BATCH_SEEDS
        firsts = missing_batches(read_record(options.state), start)
        yield from ((first, BATCH_SEEDS) for first in itertools.islice(firsts, -(-count // BATCH_SEEDS)))
        return
    size = BATCH_SEEDS if options.minutes else max(1, min(BATCH_SEEDS, -(-count // options.jobs)))
    yield from ((first, min(size, end - first)) for first in range(options.seed, end, size))


class Run:
    """One call of the script: batches handed out to processes, taken in and summed up."""

    def __init__(self, options: argparse.Namespace, commit: str) -> None:
        self._options = options
        self._commit = commit
        self._sum = Sum()
        self._started = self._told = time.monotonic()
        self._end = self._started + 60 * options.minutes if options.minutes else float("inf")
        self._stop = False

    def run(self) -> int:
        """Hand out batches until there are none, the time is over, or it is interrupted. The exit status."""
        status = 0
        asked = batches_asked(self._options)
        context = multiprocessing.get_context("fork")
        pool = ProcessPoolExecutor(self._options.jobs, context, initializer=_begin_child)
        running: set[Future[Batch]] = set()
        try:
            while True:
                while len(running) < self._options.jobs and not self._is_over():
                    first, seeds = next(asked, (0, 0))
                    if not seeds:
                        self._stop = True
                        break
                    twice = seeds == BATCH_SEEDS
                    with _deaf():
                        what = (self._commit, first, seeds, self._options.trace)
                        running.add(pool.submit(run_batch, *what, twice=twice))
                if not running:
                    break
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    self._take(future.result())
        except KeyboardInterrupt:
            # Whoever waits for it has not got all that was asked for.
            status = complain("interrupted: batches that were not finished are not counted", INTERRUPTED)
            for process in list((pool._processes or {}).values()):
                process.terminate()
        finally:
            pool.shutdown(cancel_futures=True)
        self._tell(sys.stdout)
        print(*self._sum.lines(), sep="\n")
        return 1 if self._sum.failures else status

    def _is_over(self) -> bool:
        return self._stop or time.monotonic() > self._end

    def _take(self, batch: Batch) -> None:
        self._sum.add(batch)
        for failure in batch.failures:
            print(*failure.trace, f"seed {failure.seed}: {failure.violation}", sep="\n", flush=True)
            print(f"scripts/simulate --seeds 1 --seed {failure.seed}", flush=True)
        if batch.failures and not (self._options.keep_going or self._options.state):
            self._stop = True
        if self._options.state:
            append_record(self._options.state, batch)
        if time.monotonic() - self._told > PROGRESS_EVERY_S:
            self._told = time.monotonic()
            with suppress(OSError):  # nobody may be reading how it goes
                self._tell(sys.stderr)

    def _tell(self, where: object) -> None:
        """How fast it goes."""
        took = max(time.monotonic() - self._started, 1e-9)
        total = self._sum
        print(
            f"{total.seeds:,} seeds, {len(total.failures)} failed, {total.seeds / took:.1f} seeds/s, "
            f"simulated to real {total.simulated_s / took:,.0f}:1, {took / 60:.1f} min",
            file=where,  # type: ignore[call-overload]
            flush=True,
        )


@contextmanager
def _deaf() -> Iterator[None]:
    """Interrupts wait while a child is made, which hears none before it knows that they are not for it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_child() -> None:
    """The parent alone hears interrupts, and says when it is over; nobody outlives it."""
    for each in (signal.SIGINT, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(guarded("scripts/simulate", lambda: main(sys.argv[1:])))
