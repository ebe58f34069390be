"""What do idle streams cost? From 1 to 100,000 streams of 1 KB: memory, commits, restart, takeover.

Three nodes on this machine, in a cluster of its own for each number. All streams are committed once
(`fill_per_s`, 1,000 under way), then: `commit_ms` is one commit after the other over random ones of them and
`commits_per_s` of 64 at once, which must not fall with the number of the idle ones. `primary_mib` and
`backup_mib` are the anonymous memory of the processes that store, `engine_mib` that of the engine's. A backup
is stopped and started again: `restart_s` until it reports that it lacks nothing. Last the primary's worker is
killed with SIGKILL: `takeover_s` is from the other node's grant (claim with all heads, adoption) until its
engine has the bytes of all streams; `detect_s` passes before the grant and depends on the timers alone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from bench.kit.cluster import TIMEOUT_S, Cluster
from bench.kit.commits import commit_all, commit_ms
from bench.kit.plots import draw_lines
from bench.kit.process import memory_mib
from bench.kit.report import Report, Row, progress
from bench.kit.run import command_line, parser, run
from bench.kit.samples import Spread
from tests.arguments import above_zero, one_or_more

NAME = "streams"
COUNTS = (1, 100, 10_000, 100_000)
PAYLOAD_BYTES = 1_000
FILL_WINDOW, BUSY_STREAMS = 1_000, 64
SETTLE_S = 1.0
TAKEOVER_TIMEOUT_S = 120


def payload() -> bytes:
    """A kilobyte that nobody has yet."""
    return os.urandom(PAYLOAD_BYTES // 2) + bytes(PAYLOAD_BYTES - PAYLOAD_BYTES // 2)


def measure_commits(cluster: Cluster, count: int, seconds: float) -> Row:
    """Latency one by one, and the rate of a few streams at once, beside all that are idle."""
    chance = random.Random(count)
    latencies: list[float] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        latencies.append(commit_ms(cluster.tenure, f"stream-{chance.randrange(count)}", payload()))
    busy, commits, spent_s = min(BUSY_STREAMS, count), 0, 0.0
    while spent_s < seconds:
        batch = [(f"stream-{n % busy}", payload()) for n in range(4 * busy)]
        spent_s += commit_all(cluster.tenure, batch, busy)
        commits += len(batch)
    return {"commit_ms": Spread.of(latencies), "commits_per_s": round(commits / spent_s)}


def measure_restart(cluster: Cluster, name: str, count: int) -> float:
    """Seconds from the start of a stopped backup until it has everything."""
    cluster.nodes[name].stop()
    began = time.monotonic()
    cluster.start(name)
    while time.monotonic() < began + TIMEOUT_S:
        members = cluster.status()
        lacking = members[cluster.names[0]]["lacking"]
        if members[name].get("usage", {}).get("streams") == count and lacking.get(name) == 0:
            return time.monotonic() - began
        time.sleep(0.02)
    raise TimeoutError(f"{name} is not back after {TIMEOUT_S:.0f} s")


def measure_takeover(cluster: Cluster, count: int) -> Row:
    """Kill the primary's worker; the spans of the other's takeover."""
    other = cluster.nodes[cluster.names[1]]
    other.tell(b"go")
    time.sleep(SETTLE_S)
    killed_at = time.clock_gettime(time.CLOCK_BOOTTIME)
    os.kill(cluster.pids()[cluster.names[0]], signal.SIGKILL)
    found = json.loads(other.read_line(TAKEOVER_TIMEOUT_S))
    if found["streams"] != count or found["bytes"] != count * PAYLOAD_BYTES:
        raise RuntimeError(f"{found['streams']} of {count} streams were restored")
    instants = found["instants"]
    return {
        "detect_s": round(instants["granted"] - killed_at, 3),
        "claim_s": round(instants["claimed"] - instants["granted"], 3),
        "adopt_s": round(instants["adopted"] - instants["claimed"], 3),
        "restore_s": round(found["at"] - instants["adopted"], 3),
        "takeover_s": round(found["at"] - instants["granted"], 3),
    }


def measure_count(count: int, options: argparse.Namespace) -> Row:
    """Everything at one number of streams."""
    with Cluster("process", directory=options.dir, modules={"edge-2": "bench.kit.engine"}) as cluster:
        items = ((f"stream-{n}", payload()) for n in range(count))
        window = min(FILL_WINDOW, count)
        fill_s = commit_all(cluster.tenure, items, window)
        progress(f"{count} streams: filled in {fill_s:.1f} s")
        time.sleep(SETTLE_S)
        primary, backup = (cluster.pids()[cluster.names[place]] for place in (0, 2))
        row: Row = {
            "streams": count,
            "fill_per_s": round(count / fill_s),
            "primary_mib": round(memory_mib(primary), 1),
            "backup_mib": round(memory_mib(backup), 1),
            "engine_mib": round(memory_mib(os.getpid()), 1),
        }
        row |= measure_commits(cluster, count, options.seconds)
        row["restart_s"] = round(measure_restart(cluster, cluster.names[2], count), 3)
        return row | measure_takeover(cluster, count)


def measure(options: argparse.Namespace) -> Report:
    """All numbers of streams."""
    report = Report(question="What do idle streams cost?", command=command_line(NAME))
    report.notes.append("worker as a process; payloads of 1 KB")
    for count in options.counts:
        report.add(measure_count(count, options))
    return report


def draw(report: Report, path: Path) -> None:
    """Seconds and memory over the number of streams."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in report.rows:
        count = row["streams"]
        assert isinstance(count, int)
        for name in ("restart_s", "takeover_s"):
            value = row[name]
            assert isinstance(value, int | float)
            lines.setdefault(name, []).append((count, max(value, 0.001)))
        commit = row["commit_ms"]
        assert isinstance(commit, Spread)
        lines.setdefault("one commit, s", []).append((count, commit.p50 / 1000))
    draw_lines(path, "Streams of 1 KB on three nodes", "streams", "seconds", lines)


def main() -> int:
    """Read the options and run."""
    options_of = parser(__doc__, NAME)
    options_of.add_argument(
        "--counts", nargs="+", type=one_or_more, default=COUNTS, help="numbers of streams"
    )
    options_of.add_argument(
        "--seconds", type=above_zero, default=3.0, help="for each kind of commit (default 3)"
    )

    return run(options_of, measure, draw, quick={"counts": (1, 1000), "seconds": 0.5})


if __name__ == "__main__":
    sys.exit(main())
