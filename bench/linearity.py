"""Does a commit cost as many times more as there are more changed bytes, from 1 MB to 1 GB? And what memory?

Three nodes on this machine, a stream for each size, all of whose bytes are new each time. The sizes take
turns, so that all meet the same noise, and a turn begins when all three nodes hold the one before.
`commit_ms` is submit to committed and `ms_per_mb` its median for each changed megabyte (10^6 bytes).
`…_cpu_ms_per_mb` is processor time, counted for half as long again, while the third copy is written; `backup`
is the mean of both.

`…_mib` is the most that a process held of its own (RssAnon). `worker_more_mib` is that without what it held
when idle and without the payload, of which a worker process has a copy; `backup_more_mib` without what it
held when idle: a backup never has a payload as a whole. `…_peak_mib` is all that was resident (VmHWM), with
pages of the store that the kernel keeps mapped and takes back when it needs them.

The last line says the exponent that fits the medians (1: in proportion), over all sizes and over those from
16 MB on, where what any commit costs hardly counts, and the largest `ms_per_mb` over the smallest.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from math import log
from pathlib import Path

from bench.kit.cluster import Cluster
from bench.kit.commits import commit_ms
from bench.kit.payloads import MAKERS, MIB, freshen
from bench.kit.plots import draw_lines
from bench.kit.process import Usage, cpu_s, forget_peak, memory_mib
from bench.kit.report import Report, Row
from bench.kit.run import command_line, parser, run
from bench.kit.samples import Budget, Spread, take_in_turns
from tests.arguments import one_or_more

NAME = "linearity"
SIZES_MIB = (1, 4, 16, 64, 256, 1024)
LARGE_MIB = 16
SETTLE_S_MAX = 1.0


class Cost:
    """What commits of one size cost the primary's worker and the backups."""

    def __init__(self, cluster: Cluster, size_mib: int, options: argparse.Namespace) -> None:
        self._cluster, self._stream = cluster, f"state-{size_mib}"
        self._payload = MAKERS[options.payload](size_mib * MIB)
        self._pids = list(cluster.pids().values())
        self._idle_mib = {pid: memory_mib(pid) for pid in self._pids}
        self._copy_mib = size_mib if options.isolation == "process" else 0
        self._cpu_ms: dict[int, list[float]] = {pid: [] for pid in self._pids}
        self._own_mib = dict.fromkeys(self._pids, 0.0)
        self._peak_mib: dict[int, float | None] = dict.fromkeys(self._pids, 0.0)
        self.size_mib = size_mib

    @property
    def size_bytes(self) -> int:
        """How many bytes change."""
        return self.size_mib * MIB

    def take(self) -> float:
        """Commit once; milliseconds."""
        freshen(self._payload)
        self._cluster.level()
        forgotten = {pid: forget_peak(pid) for pid in self._pids}
        before = {pid: cpu_s([pid]) for pid in self._pids}
        with Usage(self._pids) as usage:
            spent_ms = commit_ms(self._cluster.tenure, self._stream, self._payload)
            time.sleep(min(SETTLE_S_MAX, spent_ms / 2000))
        for pid in self._pids:
            self._cpu_ms[pid].append((cpu_s([pid]) - before[pid]) * 1000)
            self._own_mib[pid] = max(self._own_mib[pid], usage.peak_mib[pid])
            peak = self._peak_mib[pid]
            known = forgotten[pid] and peak is not None
            self._peak_mib[pid] = max(peak or 0.0, memory_mib(pid, "VmHWM")) if known else None
        return spent_ms

    def row(self, samples: list[float]) -> Row:
        """The figures of this size, of commits that took *samples* milliseconds."""
        worker, *backups = self._pids
        megabytes = self.size_bytes / 1e6
        count = len(samples)  # not those of the warm-up
        cpu = {pid: statistics.median(spans[-count:]) / megabytes for pid, spans in self._cpu_ms.items()}
        more = {pid: self._own_mib[pid] - self._idle_mib[pid] for pid in self._pids}
        peaks = [self._peak_mib[pid] for pid in backups]
        return {
            "changed_mib": self.size_mib,
            "bytes": self.size_bytes,
            "commits": count,
            "commit_ms": Spread.of(samples),
            "ms_per_mb": round(statistics.median(samples) / megabytes, 3),
            "worker_cpu_ms_per_mb": round(cpu[worker], 3),
            "backup_cpu_ms_per_mb": round(statistics.mean(cpu[pid] for pid in backups), 3),
            "worker_mib": round(self._own_mib[worker], 1),
            "worker_more_mib": round(more[worker] - self._copy_mib, 1),
            "worker_peak_mib": _rounded(self._peak_mib[worker]),
            "backup_mib": round(max(self._own_mib[pid] for pid in backups), 1),
            "backup_more_mib": round(max(more[pid] for pid in backups), 1),
            "backup_peak_mib": _rounded(max((peak for peak in peaks if peak is not None), default=None)),
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def exponent(points: Sequence[tuple[float, float]]) -> float | None:
    """The power of x that y grows with: the slope of the line that fits the logarithms best."""
    if len(points) < 2:
        return None
    return round(
        statistics.linear_regression(*zip(*[(log(x), log(y)) for x, y in points], strict=True))[0], 3
    )


def fit(costs: list[Cost], samples: dict[str, list[float]]) -> Row:
    """How the median grows with the size."""
    points = [(cost.size_bytes, statistics.median(samples[str(cost.size_mib)])) for cost in costs]
    each = [spent_ms / size_bytes for size_bytes, spent_ms in points]
    large = [point for point in points if point[0] >= LARGE_MIB * MIB]
    return {
        "exponent": exponent(points),
        "exponent_large": exponent(large),
        "worst_over_best": round(max(each) / min(each), 2),
    }


def measure(options: argparse.Namespace) -> Report:
    """All sizes, in turns."""
    report = Report(question="Does a commit cost in proportion to what changed?", command=command_line(NAME))
    report.notes.append(f"payload: {options.payload}, all of it new; worker as a {options.isolation}")
    with Cluster(options.isolation, directory=options.dir) as cluster:
        report.note_settings(cluster.settings(cluster.names[0]))
        costs = [Cost(cluster, size_mib, options) for size_mib in sorted(options.mib)]
        budget = Budget(seconds=0, count_min=options.rounds, count_max=options.rounds, warm_up=1)
        samples = take_in_turns({str(cost.size_mib): cost.take for cost in costs}, budget)
    for cost in costs:
        report.add(cost.row(samples[str(cost.size_mib)]))
    report.add(fit(costs, samples))
    return report


def draw(report: Report, path: Path) -> None:
    """Time and processor time over the changed bytes, beside a straight line through the largest."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in report.rows[:-1]:
        size, commit = row["bytes"], row["commit_ms"]
        assert isinstance(size, int)
        assert isinstance(commit, Spread)
        lines.setdefault("submit to committed", []).append((size, commit.p50))
        for name, label in (("worker", "processor time, worker of the primary"), ("backup", "of a backup")):
            each = row[f"{name}_cpu_ms_per_mb"]
            assert isinstance(each, int | float)
            lines.setdefault(label, []).append((size, each * size / 1e6))
    (first, _), (last, slowest) = (lines["submit to committed"][place] for place in (0, -1))
    lines["in proportion"] = [(first, slowest * first / last), (last, slowest)]
    draw_lines(path, "A commit, all of it new, three nodes", "changed bytes", "median, ms", lines)


def main() -> int:
    """Read the options and run."""
    options_of = parser(__doc__, NAME)
    add = options_of.add_argument
    add(
        "--mib",
        nargs="+",
        type=one_or_more,
        metavar="MIB",
        default=SIZES_MIB,
        help=f"sizes (default {' '.join(map(str, SIZES_MIB))})",
    )
    add("--rounds", type=one_or_more, default=7, help="commits of each size (default 7)")
    add("--payload", choices=MAKERS, default="realistic")
    add("--isolation", choices=("process", "thread"), default="process")

    return run(options_of, measure, draw, quick={"mib": SIZES_MIB[:4], "rounds": 2})


if __name__ == "__main__":
    sys.exit(main())
