"""How does a commit compare with what others make of the same work?

For each class of durability, all systems run at once, three processes each on this machine, and one put each
is taken in turns. `latency_ms` is of one put after the other; `mb_per_s` of eight at once. `process_over` and
`thread_over` are our latency (the worker as a process, which is the default, and as a thread) over theirs:
below 1 we are faster; `process_times` and `thread_times` are our throughput over theirs: above 1 we are. All
write the same payloads over eight names again and again, and bytes of every 4 KiB change, so that nobody
gains by knowing a part. A system that is not installed is left out, with a word.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import get_args

from bench.compare.etcd import Etcd
from bench.compare.nats import Nats
from bench.compare.ours import Ours, OursMemory, OursMemoryThread, OursThread
from bench.compare.raft import PySyncObj
from bench.compare.redis import Redis, RedisAof
from bench.compare.system import STREAMS, Absent, Durability, System
from bench.kit.machine import versions
from bench.kit.payloads import MAKERS, SIZES, freshen
from bench.kit.plots import draw_lines
from bench.kit.report import Report, Row, progress
from bench.kit.run import command_line, parser, run
from bench.kit.samples import Budget, Spread, take_in_turns
from tests.arguments import above_zero, one_or_more

NAME = "compare"
SYSTEMS: tuple[type[System], ...] = (
    Ours, OursThread, RedisAof, Etcd, OursMemory, OursMemoryThread, Redis, Nats, PySyncObj,
)  # fmt: skip
CLASSES = {"synced": "synced on a majority", "unsynced": "not synced, on a majority"}
PACKAGES = ("redis-server", "etcd-server", "nats-server")  # of Debian 12
IN_FLIGHT = 8
SMALL_PUTS_MIN, LARGE_PUTS_MIN, QUICK_PUTS_MIN = 10, 9, 3  # of each system and size, however long they take
SETTLE_S_MAX = 0.3
PIPELINED_SIZE_MAX = 2**24  # eight of the largest would measure the memory


def install() -> None:
    """Have the distribution install the servers; as a service none of them is needed or used."""
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    subprocess.run([*sudo, "apt-get", "update", "--quiet"], check=True, stdout=sys.stderr)
    words = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *PACKAGES]
    subprocess.run([*sudo, *words], check=True, stdout=sys.stderr)


def taker(system: System, payload: bytearray) -> Callable[[], float]:
    """One put of the next name, in milliseconds; afterwards the last copy is given time, untimed."""
    own, names = bytearray(payload), iter(range(10**9))

    def take() -> float:
        freshen(own)
        began = time.perf_counter()
        system.put(next(names) % STREAMS, own)
        spent_s = time.perf_counter() - began
        time.sleep(min(SETTLE_S_MAX, spent_s / 2))
        return spent_s * 1000

    return take


def pipelined(systems: list[System], payload: bytearray, seconds: float) -> dict[str, list[float]]:
    """Megabytes per second with several under way, each system in two turns."""
    rates: dict[str, list[float]] = {system.name: [] for system in systems}
    for turn in (systems, systems[::-1]):
        for system in turn:
            rates[system.name].append(system.put_for(payload, IN_FLIGHT, seconds, freshen) / 1e6)
    return rates


def measure_size(systems: list[System], size: str, options: argparse.Namespace) -> list[Row]:
    """All systems of a class at one size."""
    able = [system for system in systems if SIZES[size] <= system.size_max]
    payload = MAKERS[options.payload](SIZES[size])
    small = SIZES[size] < 2**23
    count_min = SMALL_PUTS_MIN if small else options.large_puts
    budget = Budget(options.seconds * len(able), count_min, options.samples, 5 if small else 1)
    latency = take_in_turns({system.name: taker(system, payload) for system in able}, budget)
    rates: dict[str, list[float]] = {}
    if SIZES[size] <= PIPELINED_SIZE_MAX:
        rates = pipelined(able, payload, options.seconds / 2)
    rows: list[Row] = []
    for system in able:
        own = Spread.of(latency[system.name])
        row: Row = {
            "class": system.durability,
            "system": system.name,
            "size": size,
            "bytes": SIZES[size],
            "puts": own.count,
            "latency_ms": own,
            "p99_ms": own.p99,
        }
        mine = sum(rates[system.name]) / 2 if rates else None
        row["mb_per_s"] = None if mine is None else round(mine, 2)
        for place in ("process", "thread"):
            ours = f"replicator, {place}"
            if ours in latency:
                row[f"{place}_over"] = round(Spread.of(latency[ours]).p50 / own.p50, 3)
                row[f"{place}_times"] = None if mine is None else round(sum(rates[ours]) / 2 / mine, 2)
        rows.append(row)
    return rows


def measure(options: argparse.Namespace) -> Report:
    """All classes and sizes."""
    if options.install:
        install()
    report = Report(
        question="How does a commit compare with what others do?",
        command=command_line(NAME),
        versions=versions("grpcio", "nats-py", "redis"),
    )
    report.notes.append(f"payload: {options.payload}; three processes each; {IN_FLIGHT} at once for mb_per_s")
    for kind in options.classes:
        with ExitStack() as stack:
            systems: list[System] = []
            for make in SYSTEMS:
                if make.durability != CLASSES[kind] or not (
                    options.only is None or any(word in make.name for word in options.only)
                ):
                    continue
                try:
                    systems.append(stack.enter_context(make(options.dir)))
                except Absent as absent:
                    report.notes.append(f"left out: {make.name}: {absent}")
                    progress(report.notes[-1])
            remarks = [f"{system.name}: {system.remark}" for system in systems if system.remark]
            report.notes.append(f"{CLASSES[kind]}: " + "; ".join(remarks))
            for size in options.sizes:
                for row in measure_size(systems, size, options):
                    report.add(row)
    return report


def draw(report: Report, path: Path) -> None:
    """Latency over size, a line for each system."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in report.rows:
        size, latency = row["bytes"], row["latency_ms"]
        assert isinstance(size, int)
        assert isinstance(latency, Spread)
        where = "synced" if row["class"] == CLASSES["synced"] else "unsynced"
        lines.setdefault(f"{row['system']} ({where})", []).append((size, latency.p50))
    draw_lines(path, "One put after the other, three processes each", "payload, bytes", "median, ms", lines)


def main() -> int:
    """Read the options and run."""
    assert set(CLASSES.values()) == set(get_args(Durability))
    options_of = parser(__doc__, NAME)
    add = options_of.add_argument
    add("--install", action="store_true", help="first install by apt-get: " + ", ".join(PACKAGES))
    add("--classes", nargs="+", choices=CLASSES, default=list(CLASSES))
    add("--only", nargs="+", metavar="WORD", help="systems whose name contains one of these words")
    add("--sizes", nargs="+", choices=SIZES, metavar="SIZE", default=list(SIZES)[:5])
    add("--payload", choices=MAKERS, default="realistic")
    add("--seconds", type=above_zero, default=2.0, help="per size and system (default 2)")
    add(
        "--large-puts",
        type=one_or_more,
        default=LARGE_PUTS_MIN,
        help="from 8 MiB on at least so many (default 9)",
    )
    add("--samples", type=one_or_more, default=500, help="of each size, at most")

    quick = {"sizes": list(SIZES)[:2], "seconds": 0.4, "large_puts": QUICK_PUTS_MIN}
    return run(options_of, measure, draw, quick=quick)


if __name__ == "__main__":
    sys.exit(main())
