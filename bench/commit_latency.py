"""How long until a checkpoint is committed, and how far is that from the floor?

Three nodes on this machine, one checkpoint at a time, each submitted when the one before is committed;
none of its chunks is known before. `commit_ms` is from submit() to the ticket's end in the engine, on disk,
synced, on two of three nodes. `floor_ms` is what the same machine needs in the same moments for three raw
copies of the payload (`bench.kit.floor`): both are taken in turns, and `ratio` is commit over floor.
`zeromq_ms` is the same three raw copies over a node's kinds of ZeroMQ sockets instead of plain TCP, with no
protocol either, and `over_zeromq` commit over that. Stages are the medians of what the ticket tells of
itself, in milliseconds.

Variants: `thread` and `process` are where the primary's worker runs; `curve` is `thread` with all links
encrypted; `memory` is `thread` with REPLICATOR_DURABILITY=memory, against a floor that does not sync either.
What CURVE costs is its ratio over that of `thread`, and what the hop to a worker process costs that of
`process` over that of `thread`: the lines above the table say both.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from bench.kit.cluster import TIMEOUT_S, Cluster
from bench.kit.floor import Floor
from bench.kit.payloads import MAKERS, SIZES, freshen
from bench.kit.plots import draw_lines
from bench.kit.report import Report, Row, progress
from bench.kit.run import command_line, parser, run
from bench.kit.samples import Budget, Spread, ratios, take_in_turns
from replicator import Committed
from tests.arguments import above_zero, one_or_more

NAME = "commit_latency"
VARIANTS: dict[str, dict[str, Any]] = {
    "thread": {"isolation": "thread"},
    "process": {"isolation": "process"},
    "curve": {"isolation": "thread", "keys": True},
    "memory": {"isolation": "thread", "durability": "memory"},
}
LARGE_BYTES = 2**23  # from here on few samples are enough, and more would take too long
SETTLE_S_MAX = 0.3


class Commits:
    """Commits of one stream, one at a time, and their stages."""

    def __init__(self, cluster: Cluster, stream: str, payload: bytearray) -> None:
        self._cluster, self._stream, self._payload = cluster, stream, payload
        self.stages: dict[str, list[float]] = {}

    def take(self) -> float:
        """Commit once; milliseconds. The third copy is given time, untimed, to be written as well."""
        freshen(self._payload)
        began = time.perf_counter()
        ticket = self._cluster.tenure.submit(self._stream, self._payload)
        outcome = ticket.result(TIMEOUT_S)
        spent_s = time.perf_counter() - began
        ticket.released.wait(TIMEOUT_S)
        if not isinstance(outcome, Committed):
            raise TimeoutError(f"{ticket} has not committed")
        for stage, span_s in outcome.stages.items():
            self.stages.setdefault(stage, []).append(span_s * 1000)
        time.sleep(min(SETTLE_S_MAX, spent_s / 2))
        return spent_s * 1000


def measure_size(cluster: Cluster, floors: dict[str, Floor], size: str, options: argparse.Namespace) -> Row:
    """Commits of one size and the floors, in turns."""
    payload = MAKERS[options.payload](SIZES[size])
    raw = bytearray(payload)
    commits = Commits(cluster, f"state-{SIZES[size]}", payload)

    def take(floor: Floor) -> float:
        freshen(raw)
        return floor.commit(raw) * 1000

    budget = Budget(
        seconds=options.seconds,
        count_min=4 if SIZES[size] >= LARGE_BYTES else 20,
        count_max=options.samples,
        warm_up=1 if SIZES[size] >= LARGE_BYTES else 10,
    )
    takers = {name: partial(take, floor) for name, floor in floors.items()}
    samples = take_in_turns({"commit": commits.take, **takers}, budget)
    count = len(samples["commit"])
    stages = {name: spans[-count:] for name, spans in commits.stages.items()}  # those of no warm-up
    return {
        "size": size,
        "bytes": SIZES[size],
        "commits": count,
        "commit_ms": Spread.of(samples["commit"]),
        "p99_ms": Spread.of(samples["commit"]).p99,
        "floor_ms": Spread.of(samples["tcp"]),
        "ratio": ratios(samples["commit"], samples["tcp"]),
        "zeromq_ms": Spread.of(samples["zeromq"]),
        "over_zeromq": ratios(samples["commit"], samples["zeromq"]),
        **{f"stage_{name}_ms": round(statistics.median(spans), 3) for name, spans in stages.items()},
    }


def measure(options: argparse.Namespace) -> Report:
    """All variants and sizes."""
    report = Report(question="How long until a checkpoint is committed?", command=command_line(NAME))
    report.notes.append(f"payload: {options.payload}; held by two of three nodes of this machine")
    for variant in options.variants:
        progress(f"{variant}: starting three nodes")
        synced = VARIANTS[variant].get("durability") != "memory"
        with (
            Floor(options.dir, synced=synced) as tcp,
            Floor(options.dir, synced=synced, links="zeromq") as zeromq,
            Cluster(directory=options.dir, **VARIANTS[variant]) as cluster,
        ):
            report.note_settings(cluster.settings(cluster.names[0]))
            floors = {"tcp": tcp, "zeromq": zeromq}
            for size in options.sizes:
                report.add({"variant": variant, **measure_size(cluster, floors, size, options)})
    report.settings.pop("REPLICATOR_ISOLATION", None)  # the variants' own
    report.settings.pop("REPLICATOR_DURABILITY", None)
    report.notes += compare(report)
    return report


def compare(report: Report) -> list[str]:
    """What CURVE and the hop to a process cost: their ratios over those of the plain thread."""
    found: dict[tuple[str, str], float] = {}
    for row in report.rows:
        ratio = row["ratio"]
        if isinstance(ratio, Spread):
            found[str(row["variant"]), str(row["size"])] = ratio.p50
    lines = []
    for variant in ("process", "curve"):
        costs = [
            f"{size} {ratio / found['thread', size]:.2f}"
            for (name, size), ratio in found.items()
            if name == variant and ("thread", size) in found
        ]
        if costs:
            lines.append(f"{variant} over thread: {', '.join(costs)}")
    return lines


def draw(report: Report, path: Path) -> None:
    """Latency over size, a line for each variant and one for the floor."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in report.rows:
        size, commit, floor = row["bytes"], row["commit_ms"], row["floor_ms"]
        assert isinstance(size, int)
        assert isinstance(commit, Spread)
        assert isinstance(floor, Spread)
        lines.setdefault(str(row["variant"]), []).append((size, commit.p50))
        if row["variant"] == report.rows[0]["variant"]:
            lines.setdefault("floor: raw copies, synced", []).append((size, floor.p50))
    draw_lines(path, "Submit to committed, three nodes", "payload, bytes", "median, ms", lines)


def main() -> int:
    """Read the options and run."""
    options_of = parser(__doc__, NAME)
    add = options_of.add_argument
    add("--variants", nargs="+", choices=VARIANTS, default=["thread"], metavar="V", help="+".join(VARIANTS))
    sizes = ", ".join(map(repr, SIZES))
    add("--sizes", nargs="+", choices=SIZES, metavar="SIZE", default=list(SIZES), help=f"of: {sizes}")
    add("--payload", choices=MAKERS, default="realistic")
    add("--seconds", type=above_zero, default=4.0, help="per size and variant (default 4)")
    add("--samples", type=one_or_more, default=1000, help="of each size, at most")

    return run(options_of, measure, draw, quick={"sizes": list(SIZES)[:3], "seconds": 0.5})


if __name__ == "__main__":
    sys.exit(main())
