"""How long until a checkpoint is committed? Three nodes on this machine, from 1 KB to 64 MiB, one at a time.

Each checkpoint is submitted when the one before has committed, and none of its chunks is known before:
its bytes are random, and at least one in each 4 KiB has changed. `total` is from `submit()` to the
ticket's end in the engine; the stages in between are the medians of what the ticket tells of itself.
With ``--changed 0.01`` only the first hundredth of the bytes changes, as in a large state that is little
touched.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from bench.submit import SIZES
from replicator import Committed, Replicator, Settings, Tenure
from replicator.demo.node import free_peers

WARM_UP_COMMITS = 5
BYTES_PER_SIZE_MAX = 2**30  # fewer commits of the large ones
COMMITS_MIN = 16
TIMEOUT_S = 60


class Line(Struct):
    """The distribution of one size's commits, in milliseconds."""

    payload: str
    commits: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    mib_per_s: float
    stages_ms: dict[str, float]


def start(stack: ExitStack, base: Path, isolation: Literal["process", "thread"]) -> Tenure:
    """Start three nodes and give the first one's tenure; the others only store and vote."""
    peers = free_peers(3)
    replicators = [
        Replicator(
            Settings(node=name, peers=peers, data_dir=base / name, isolation=isolation, log_level="WARNING")
        )
        for name in peers
    ]
    for replicator in reversed(replicators):
        stack.enter_context(replicator)
    return next(replicators[0].tenures(TIMEOUT_S))


def measure(tenure: Tenure, name: str, size: int, commits_max: int, changed: float) -> Line:
    """Commit one size again and again."""
    commits = max(COMMITS_MIN, min(commits_max, BYTES_PER_SIZE_MAX // size))
    payload = bytearray(os.urandom(size))
    touched = memoryview(payload)[: max(1, int(size * changed))][::4096]
    totals: list[float] = []
    stages: dict[str, list[float]] = {}
    for number in range(WARM_UP_COMMITS + commits):
        touched[:] = os.urandom(len(touched))
        began_at = time.perf_counter()
        ticket = tenure.submit(f"stream-{size}", payload)
        outcome = ticket.result(TIMEOUT_S)
        spent_ms = (time.perf_counter() - began_at) * 1000
        ticket.released.wait(TIMEOUT_S)
        assert isinstance(outcome, Committed)
        if number >= WARM_UP_COMMITS:
            totals.append(spent_ms)
            for stage, span_s in outcome.stages.items():
                stages.setdefault(stage, []).append(span_s * 1000)
    totals.sort()
    return Line(
        payload=name,
        commits=commits,
        p50_ms=round(statistics.median(totals), 2),
        p99_ms=round(totals[min(commits - 1, round(commits * 0.99))], 2),
        max_ms=round(totals[-1], 2),
        mib_per_s=round(size / 2**20 / statistics.fmean(totals) * 1000, 1),
        stages_ms={stage: round(statistics.median(spans), 2) for stage, spans in stages.items()},
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commits", type=int, default=500, help="commits of each size, at most")
    parser.add_argument("--changed", type=float, default=1.0, help="part of the payload that changes")
    parser.add_argument("--isolation", choices=("process", "thread"), default="process")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="replicator-bench-") as directory, ExitStack() as stack:
        tenure = start(stack, Path(directory), options.isolation)
        lines = [
            measure(tenure, name, size, options.commits, options.changed) for name, size in SIZES.items()
        ]
    if options.json:
        print(msgspec.json.encode({"changed": options.changed, "commit": lines}).decode())
        return
    columns = ("payload", "commits", "p50 ms", "p99 ms", "max ms", "MiB/s")
    print(*(f"{column:>9}" for column in columns), " median ms of each stage")
    for line in lines:
        figures = (line.p50_ms, line.p99_ms, line.max_ms, line.mib_per_s)
        spans = ", ".join(f"{stage} {span}" for stage, span in line.stages_ms.items())
        print(f"{line.payload:>9} {line.commits:9}", *(f"{figure:9.2f}" for figure in figures), "", spans)


if __name__ == "__main__":
    main()
