"""How long does `submit()` hold up the engine? A bare engine, from 1 KB to 64 MiB, call by call.

Each call is timed on the engine's thread. In *idle* the checkpoint before has committed; in *busy* one of
the same stream is still with the worker, so the new one waits as a reference and replaces the one before
it. `baseline` times an empty call the same way: what the clock and the machine's noise cost.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from replicator import Replicator, Settings, Tenure, Ticket
from replicator.model import NodeId

SIZES = {"1 KB": 1_000, "64 KiB": 2**16, "1 MiB": 2**20, "16 MiB": 2**24, "64 MiB": 2**26}
WARM_UP_CALLS = 5
BYTES_PER_SIZE_MAX = 2**31  # fewer calls for the large ones: their commits take the time
CALLS_MIN = 30
TIMEOUT_S = 60


class Line(Struct):
    """The distribution of one size's calls, in microseconds."""

    payload: str
    mode: str
    calls: int
    p50_us: float
    p99_us: float
    max_us: float


def measure(name: str, mode: str, calls: int, call: Callable[[], object], after: Callable[[], None]) -> Line:
    """Time *calls* of *call* after a warm-up; *after* runs between them, untimed."""
    spent: list[float] = []
    for number in range(WARM_UP_CALLS + calls):
        start = time.perf_counter_ns()
        call()
        end = time.perf_counter_ns()
        if number >= WARM_UP_CALLS:
            spent.append((end - start) / 1000)
        after()
    spent.sort()
    p99 = spent[min(len(spent) - 1, round(len(spent) * 0.99))]
    return Line(name, mode, calls, round(spent[len(spent) // 2], 1), round(p99, 1), round(spent[-1], 1))


def measure_size(tenure: Tenure, name: str, size: int, calls_max: int) -> list[Line]:
    """The lines of one size."""
    calls = max(CALLS_MIN, min(calls_max, BYTES_PER_SIZE_MAX // size))
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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=500, help="calls of each size, at most")
    parser.add_argument("--isolation", choices=("process", "thread"), default="process")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    lines = [measure("nothing", "baseline", options.calls, lambda: None, lambda: None)]
    with tempfile.TemporaryDirectory(prefix="replicator-bench-") as directory:
        settings = Settings(
            node=NodeId("bench"),
            data_dir=Path(directory),
            isolation=options.isolation,
            log_level="WARNING",
        )
        with Replicator(settings) as replicator:
            tenure = next(iter(replicator.tenures()))
            for name, size in SIZES.items():
                lines += measure_size(tenure, name, size, options.calls)
    if options.json:
        print(msgspec.json.encode({"isolation": options.isolation, "submit": lines}).decode())
        return
    print(f"{'payload':>8}  {'mode':8} {'calls':>6} {'p50 µs':>9} {'p99 µs':>9} {'max µs':>9}")
    for line in lines:
        figures = f"{line.calls:6} {line.p50_us:9.1f} {line.p99_us:9.1f} {line.max_us:9.1f}"
        print(f"{line.payload:>8}  {line.mode:8} {figures}")


if __name__ == "__main__":
    main()
