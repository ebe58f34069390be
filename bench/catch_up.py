"""How fast does a late joiner catch up, and what do the others feel of it?

Three nodes on this machine. One is stopped; the two others commit what it will lack (`--lack` MiB of bytes
that do not compress, in streams of 32 MiB) and then go on committing a small state at a steady pace. Its
latency is taken before the third node comes back, while it fetches, and after. `rises` is the median of a
phase over that of the first. `mb_per_s` is what it lacked over the time from the start of its process until
the primary says that it lacks nothing; `fetch_mb_per_s` leaves out the start of the process.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from bench.kit.cluster import TIMEOUT_S, Cluster
from bench.kit.commits import commit_ms
from bench.kit.payloads import KIB, MIB, freshen, incompressible, realistic
from bench.kit.plots import draw_lines
from bench.kit.report import Report, Row, progress
from bench.kit.run import command_line, parser, run
from bench.kit.samples import Spread
from tests.arguments import above_zero, one_or_more

NAME = "catch_up"
STREAM_BYTES = 32 * MIB
LOAD_BYTES = 64 * KIB
ASK_EVERY_S = 0.25
SETTLE_S = 1.0

Sample = tuple[float, float]  # when, and how many milliseconds


def fill(cluster: Cluster, lack_mib: int) -> int:
    """Commit what the late one will lack; its bytes."""
    payload = incompressible(STREAM_BYTES)
    count = max(1, lack_mib * MIB // STREAM_BYTES)
    for number in range(count):
        freshen(payload)
        commit_ms(cluster.tenure, f"large-{number}", payload)
    return count * STREAM_BYTES


class Load:
    """A small state committed at a steady pace, its latencies with their moments."""

    def __init__(self, cluster: Cluster, interval_s: float) -> None:
        self._cluster, self._interval_s = cluster, interval_s
        self._payload = realistic(LOAD_BYTES)
        self.samples: list[Sample] = []

    def once(self) -> None:
        """Commit, then wait for the rest of the interval."""
        began = time.monotonic()
        freshen(self._payload)
        self.samples.append((began, commit_ms(self._cluster.tenure, "load", self._payload)))
        time.sleep(max(0.0, began + self._interval_s - time.monotonic()))

    def run_for(self, seconds: float) -> None:
        """Go on for so long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.once()


def lacking(cluster: Cluster, late: str) -> int | None:
    """How many streams the late one lacks, as the primary knows; None while it does not know it."""
    members = cluster.status()
    if not members[late]["reachable"]:
        return None
    found: int | None = members[cluster.names[0]]["lacking"].get(late)
    return found


def measure(options: argparse.Namespace) -> Report:
    """The three phases."""
    report = Report(question="How fast does a late joiner catch up under load?", command=command_line(NAME))
    report.notes.append(
        f"worker as a {options.isolation}; load: 64 KB every {options.interval * 1000:.0f} ms"
    )
    with Cluster(options.isolation, directory=options.dir) as cluster:
        late = cluster.names[2]
        cluster.nodes[late].stop()
        lacked = fill(cluster, options.lack)
        progress(f"filled {lacked / 1e6:.0f} MB")
        time.sleep(SETTLE_S)
        load = Load(cluster, options.interval)
        load.run_for(options.seconds)
        before = list(load.samples)
        load.samples.clear()
        began = time.monotonic()
        cluster.start(late)
        seen_at = None
        while (left := lacking(cluster, late)) != 0:
            if left is not None and seen_at is None:
                seen_at = time.monotonic()
            load.run_for(ASK_EVERY_S)
            if time.monotonic() > began + 2 * TIMEOUT_S:
                raise TimeoutError(f"{late} has not caught up")
        done = time.monotonic()
        during = list(load.samples)
        load.samples.clear()
        load.run_for(options.seconds)
        seen_at = seen_at or began
        for name, samples in (("before", before), ("during", during), ("after", load.samples)):
            report.add(_row(name, samples, before, began))
        report.add(
            {
                "lacked_mb": round(lacked / 1e6),
                "took_s": round(done - began, 2),
                "mb_per_s": round(lacked / 1e6 / (done - began), 1),
                "fetch_mb_per_s": round(lacked / 1e6 / (done - seen_at), 1),
            }
        )
    return report


def _row(name: str, samples: list[Sample], before: list[Sample], began: float) -> Row:
    spread, first = Spread.of([ms for _, ms in samples]), Spread.of([ms for _, ms in before])
    return {
        "phase": name,
        "from_s": round(samples[0][0] - began, 2),
        "commits": spread.count,
        "commit_ms": spread,
        "p99_ms": spread.p99,
        "rises": round(spread.p50 / first.p50, 3),
    }


def draw(report: Report, path: Path) -> None:
    """The median of each phase, drawn from its beginning."""
    points = []
    for row in report.rows:
        spread, at = row.get("commit_ms"), row.get("from_s")
        if isinstance(spread, Spread) and isinstance(at, int | float):
            points.append((at, spread.p50))
    draw_lines(
        path, "Commits of the others, a late one joining at 0", "s", "median, ms", {"commit": points}, False
    )


def main() -> int:
    """Read the options and run."""
    options_of = parser(__doc__, NAME)
    add = options_of.add_argument
    add(
        "--lack", type=one_or_more, default=1024, metavar="MIB", help="what the late one lacks (default 1024)"
    )
    add("--interval", type=above_zero, default=0.02, metavar="S", help="between commits (default 0.02)")
    add("--isolation", choices=("process", "thread"), default="process")
    add("--seconds", type=above_zero, default=10.0, help="before, and after (default 10)")

    return run(options_of, measure, draw, quick={"lack": 128, "seconds": 2.0})


if __name__ == "__main__":
    sys.exit(main())
