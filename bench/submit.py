"""How long does `submit()` hold up the engine? A bare engine, from 1 KB to 256 MB, call by call.

Each call is timed on the engine's thread. In *idle* the checkpoint before has committed; in *busy* one of
the same stream is still with the worker, so the new one waits as a reference and replaces the one before
it. `baseline` times an empty call the same way: what the clock and the machine's noise cost. `wake-up` is one
call of the system that wakes a process on the other core, which every submit in *idle* needs: what cannot be
avoided; `wake-up, cold` the same after the caches were used for 16 MB of something else.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.kit.cluster import Cluster
from bench.kit.payloads import SIZES
from bench.kit.plots import draw_lines
from bench.kit.report import Report, Row
from bench.kit.run import command_line, parser, run
from bench.kit.samples import Spread
from replicator import Tenure, Ticket
from tests.arguments import one_or_more

NAME = "submit"
WARM_UP_CALLS = 5
BYTES_PER_SIZE_MAX = 2**31  # fewer calls for the large ones: their commits take the time
CALLS_MIN = 30
TIMEOUT_S = 60
SETTLE_S = 0.5
COLD_BYTES = 2**24


def measure(name: str, mode: str, calls: int, call: Callable[[], object], after: Callable[[], None]) -> Row:
    """Time *calls* of *call* after a warm-up; *after* runs between them, untimed."""
    spent: list[float] = []
    for number in range(WARM_UP_CALLS + calls):
        start = time.perf_counter_ns()
        call()
        end = time.perf_counter_ns()
        if number >= WARM_UP_CALLS:
            spent.append((end - start) / 1000)
        after()
    spread = Spread.of(spent, 1)
    return {"payload": name, "mode": mode, "calls": calls, "submit_us": spread, "p99_us": spread.p99}


@contextmanager
def sleeper() -> Iterator[int]:
    """A process that sleeps until the eventfd that this yields is written to, and then sleeps again."""
    bell = os.eventfd(0, os.EFD_CLOEXEC)
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"  # it is for whoever measures
        "while os.eventfd_read(int(sys.argv[1])) < 2**32: pass"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(bell)], pass_fds=[bell]):
        time.sleep(SETTLE_S)
        try:
            yield bell
        finally:
            os.eventfd_write(bell, 2**32)
    os.close(bell)


def measure_wake_up(bell: int, calls: int) -> Iterator[Row]:
    """What waking a process costs, warm and with cold caches."""
    room, source = bytearray(COLD_BYTES), bytes(COLD_BYTES)

    def use_caches() -> None:
        room[:] = source
        time.sleep(SETTLE_S / 100)

    yield measure("wake-up", "warm", calls, lambda: os.eventfd_write(bell, 1), lambda: time.sleep(0.001))
    yield measure("wake-up", "cold", max(1, calls // 5), lambda: os.eventfd_write(bell, 1), use_caches)


def measure_size(tenure: Tenure, name: str, size: int, calls_max: int) -> list[Row]:
    """The lines of one size."""
    calls = min(calls_max, max(CALLS_MIN, BYTES_PER_SIZE_MAX // size))
    payload = bytearray(os.urandom(size))  # new bytes: nothing is saved by a digest known already
    view = memoryview(payload)
    tickets: deque[Ticket] = deque(maxlen=1)

    def submit() -> None:
        tickets.append(tenure.submit(f"stream-{size}", view))

    def settle() -> None:
        tickets[0].result(TIMEOUT_S)
        tickets[0].released.wait(TIMEOUT_S)
        view[::4096] = os.urandom(len(view[::4096]))  # no chunk stays as it was

    idle = measure(name, "idle", calls, submit, settle)
    busy = measure(name, "busy", calls, submit, lambda: None)
    settle()
    return [idle, busy]


def measure_all(options: argparse.Namespace) -> Report:
    """All sizes, in a bare engine."""
    report = Report(question="How long does submit() hold up the engine?", command=command_line(NAME))
    report.notes.append(f"a node without peers; worker as a {options.isolation}")
    own, *others = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, others or {own})  # what is started now
    with Cluster(options.isolation, count=1, directory=options.dir) as cluster, sleeper() as bell:
        os.sched_setaffinity(0, {own})  # this thread alone
        report.add(measure("nothing", "baseline", options.calls, lambda: None, lambda: None))
        for row in measure_wake_up(bell, options.calls):
            report.add(row)
        for name, size in SIZES.items():
            for row in measure_size(cluster.tenure, name, size, options.calls):
                report.add(row)
    return report


def draw(report: Report, path: Path) -> None:
    """The median over the size, idle and busy."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in report.rows:
        spread = row["submit_us"]
        assert isinstance(spread, Spread)
        if row["mode"] in ("idle", "busy"):
            lines.setdefault(str(row["mode"]), []).append((SIZES[str(row["payload"])], spread.p50))
    draw_lines(path, "submit() on the engine's thread", "payload, bytes", "median, µs", lines)


def main() -> int:
    """Read the options and run."""
    options_of = parser(__doc__, NAME)
    options_of.add_argument(
        "--calls", type=one_or_more, default=500, help="calls of each size, at most (default 500)"
    )
    options_of.add_argument("--isolation", choices=("process", "thread"), default="process")

    return run(options_of, measure_all, draw, quick={"calls": 50})


if __name__ == "__main__":
    sys.exit(main())
