"""What does replication cost the engine's loop?

Two engine processes take turns: one without replication, beside a dummy load on the other core that uses as
much processor time as replication did in the turn before; and one whose checkpoints replicate. The engine's
loop is pinned to one core, everything else to the other. An event is a JSON record of seven fields: it is
parsed, its key's running mean and variance are updated, a line of JSON is made. The replicating engine looks
at `tenure.active` at each event; both change their state at each checkpoint.

`full` is the loop at full speed: events per second, and the time from one event's end to the next one's.
`open` is a loop at a fixed rate, latency counted from the moment at which each event was due, so that a
pause counts for all events that came in it. Figures are medians over the pairs; `*_ratio` are pairwise
ratios, on over off (of events per second: 1 is no cost; of latencies: 1 is no cost, more is worse).
`submit_us` is the distribution of submit() itself, on the engine's thread.

Modes: `process` and `thread` replicate to two more nodes, the worker as a child process or a thread;
`standalone` only stores.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

from bench.kit.cluster import Cluster, descendants
from bench.kit.payloads import SIZES
from bench.kit.plots import draw_lines
from bench.kit.process import cpu_s
from bench.kit.report import Cell, Report, Row, progress
from bench.kit.run import command_line, parser, run
from bench.kit.samples import Spread

NAME = "ingestion"
MODES: dict[str, dict[str, Any]] = {
    "process": {"isolation": "process"},
    "thread": {"isolation": "thread"},
    "standalone": {"isolation": "process", "count": 1},
}
CASES = {
    "64 KB / 50 ms": ("64 KB", 0.05),
    "1 MB / 50 ms": ("1 MB", 0.05),
    "16 MB / 250 ms": ("16 MB", 0.25),
    "256 MB / 1 s": ("256 MB", 1.0),
}
PERCENTILES = {"p50": 50.0, "p99": 99.0, "p99_9": 99.9, "p99_99": 99.99, "p99_999": 99.999}
START_TIMEOUT_S, LOOP_TIMEOUT_S = 60.0, 300.0
SETTLE_S = 0.3
WARM_UP_EVENTS = 200_000

Turn = dict[str, Any]


class Engine:
    """The process of one engine; without *settings* nothing replicates."""

    def __init__(self, settings: bytes | None, size: int, core: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.kit.loop"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        what = {"settings": None if settings is None else settings.decode(), "size": size, "core": core}
        self.look_ns = self.ask(what, START_TIMEOUT_S)["look_ns"]

    def ask(self, command: Mapping[str, Any], timeout_s: float) -> Turn:
        """Give a command and wait for the answer."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(command).encode() + b"\n")
        stdin.flush()
        if not select.select([stdout], [], [], timeout_s)[0] or not (line := stdout.readline()):
            raise TimeoutError("the engine's process does not answer")
        found: Turn = json.loads(line)
        return found

    def others(self) -> list[int]:
        """The processes that it has started: its worker."""
        return descendants(self._process.pid)

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()


class Pairs:
    """An engine with and one without replication, in turns, at the same loop."""

    def __init__(self, on: Engine, off: Engine, nodes: list[int], command: Mapping[str, Any]) -> None:
        self._on, self._off, self._nodes, self._command = on, off, nodes, command
        self.share = 0.0  # of the other core, that replication took in its last turn
        self.turns: dict[str, list[Turn]] = {"on": [], "off": []}

    def warm_up(self) -> None:
        """A short turn of both, which tells how large the dummy load must be."""
        for take in (self.take_on, self.take_off):
            take(WARM_UP_EVENTS)

    def run(self, count: int) -> None:
        """Take *count* pairs, every second one the other way round."""
        for number in range(count):
            pair = {"on": self.take_on, "off": self.take_off}
            for name in ("on", "off") if number % 2 else ("off", "on"):
                self.turns[name].append(pair[name](self._command["events"]))
            rates = [self.turns[name][-1]["events_per_s"] for name in ("on", "off")]
            progress(
                f"  pair {number + 1}: {rates[0]:.0f} and {rates[1]:.0f} events/s, load {self.share:.2f}"
            )

    def take_on(self, events: int) -> Turn:
        """A turn that replicates."""
        pids = [*self._nodes, *self._on.others()]
        used_s = cpu_s(pids)
        found = self._on.ask({**self._command, "events": events}, LOOP_TIMEOUT_S)
        self.share = min(0.95, (cpu_s(pids) - used_s + found["others_cpu_s"]) / found["seconds"])
        time.sleep(SETTLE_S)
        return found

    def take_off(self, events: int) -> Turn:
        """A turn without replication, beside the dummy load."""
        words = [
            sys.executable,
            "-m",
            "bench.kit.dummy",
            f"{self.share:.3f}",
            str(self._command["interval_s"]),
        ]
        with subprocess.Popen(words, stdin=subprocess.PIPE) as dummy:
            time.sleep(SETTLE_S)
            found = self._off.ask({**self._command, "events": events}, LOOP_TIMEOUT_S)
            assert dummy.stdin is not None
            dummy.stdin.close()
        return found


def percentiles(turns: list[Turn]) -> dict[str, list[float]]:
    """Of each turn, each percentile and the maximum, in microseconds."""
    decode = import_module("hdrh.histogram").HdrHistogram.decode
    found: dict[str, list[float]] = {name: [] for name in (*PERCENTILES, "max")}
    for turn in turns:
        histogram = decode(turn["histogram"].encode())
        for name, percentile in PERCENTILES.items():
            found[name].append(histogram.get_value_at_percentile(percentile) / 1000)
        found["max"].append(histogram.get_max_value() / 1000)
    return found


def rows_of(pairs: Pairs, label: Row, mode: str, look_ns: float | None) -> list[Row]:
    """Two rows: replication off, and on with the ratios."""
    rows: list[Row] = []
    found = {name: percentiles(turns) for name, turns in pairs.turns.items()}
    for name, turns in (("off", pairs.turns["off"]), (mode, pairs.turns["on"])):
        own = found["off" if name == "off" else "on"]
        row: Row = {**label, "replication": name, "pairs": len(turns)}
        row["events_per_s"] = Spread.of([turn["events_per_s"] for turn in turns], 0)
        row |= {f"{place}_us": round(median(values), 1) for place, values in own.items()}
        on = name != "off"
        row["events_ratio"] = _ratio(pairs, "events_per_s") if on else None
        for place in ("p50", "p99", "p99_9", "p99_99"):
            each = zip(found["on"][place], found["off"][place], strict=True)
            row[f"{place}_ratio"] = Spread.of([a / b for a, b in each]) if on else None
        submits = [us for turn in turns for us in turn["submit_us"]]
        row["submit_us"] = Spread.of(submits, 1) if submits else None
        for place in ("committed", "superseded", "skipped"):
            row[place] = sum(turn.get(place, 0) for turn in turns) if on else None
        row["active_ns"] = round(look_ns, 1) if look_ns is not None and on else None
        rows.append(row)
    return rows


def _ratio(pairs: Pairs, name: str) -> Spread:
    each = zip(pairs.turns["on"], pairs.turns["off"], strict=True)
    return Spread.of([on[name] / off[name] for on, off in each])


def measure_case(case: str, mode: str, cores: list[int], options: argparse.Namespace, report: Report) -> None:
    """One size and interval in one mode, all loops."""
    size, interval_s = CASES[case]
    progress(f"{case}, {mode}: starting")
    with ExitStack() as stack:
        cluster = Cluster(directory=options.dir, own=False, **MODES[mode])
        stack.enter_context(cluster)
        settings = cluster.settings(cluster.names[0])
        report.note_settings(settings)
        on = stack.enter_context(Engine(settings.to_json(), SIZES[size], cores[0]))
        off = stack.enter_context(Engine(None, SIZES[size], cores[0]))
        for loop in options.loops:
            command = {"loop": loop, "events": options.events, "interval_s": interval_s, "rate": options.rate}
            pairs = Pairs(on, off, [node.pid for node in cluster.nodes.values()], command)
            pairs.warm_up()
            pairs.run(options.pairs)
            label: Row = {"case": case, "loop": loop}
            for row in rows_of(pairs, label, mode, on.look_ns):
                report.add(row)


def measure(options: argparse.Namespace) -> Report:
    """All cases and modes."""
    try:
        import_module("hdrh.histogram")
    except ModuleNotFoundError:
        raise OSError("hdrhistogram is not installed: pip install 'replicator[bench]'") from None
    report = Report(question="What does replication cost the engine's loop?", command=command_line(NAME))
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise OSError("two cores are needed: one for the engine, one for everything else")
    os.sched_setaffinity(0, {cores[1]})
    report.notes.append(
        f"{options.events} events a turn; open loop at {options.rate:.0f} events/s; engine on one core, all "
        "else on another, and there beside replication off a dummy load of equal processor time"
    )
    for mode in options.modes:
        for case in options.cases:
            measure_case(case, mode, cores, options, report)
    report.settings.pop("REPLICATOR_ISOLATION", None)  # the modes' own
    return report


def draw(report: Report, path: Path) -> None:
    """Latency by percentile of the open loop (else the full one), replication off and on."""
    lines: dict[str, list[tuple[float, float]]] = {}
    loops = {row["loop"] for row in report.rows}
    for row in report.rows:
        if row["loop"] != ("open" if "open" in loops else "full"):
            continue
        label = f"{row['case']}, {row['replication']}"
        if row["replication"] == "off":
            label += f" (beside {_next_mode(report, row)})"
        points = [(1 / (1 - each / 100), _number(row[f"{place}_us"])) for place, each in PERCENTILES.items()]
        lines[label] = points
    draw_lines(path, "Latency of events", "1 / (1 - percentile)", "µs", lines)


def _next_mode(report: Report, row: Row) -> Cell:
    return report.rows[report.rows.index(row) + 1]["replication"]


def _number(cell: Cell) -> float:
    assert isinstance(cell, int | float)
    return cell


def main() -> int:
    """Read the options and run."""
    options_of = parser(__doc__, NAME)
    add = options_of.add_argument
    add("--modes", nargs="+", choices=MODES, default=list(MODES)[:2])
    add(
        "--cases",
        nargs="+",
        choices=CASES,
        metavar="CASE",
        default=["16 MB / 250 ms"],
        help="of: " + "; ".join(CASES),
    )
    add("--loops", nargs="+", choices=("full", "open"), default=["full", "open"])
    add("--pairs", type=int, default=10, help="turns of each (default 10)")
    add("--events", type=int, default=1_000_000, help="in each turn (default 1000000)")
    add("--rate", type=float, default=120_000.0, help="events per second of the open loop (default 120000)")

    def prepared(options: argparse.Namespace) -> Report:
        if options.quick:
            options.pairs, options.events = 2, 200_000
        return measure(options)

    return run(options_of, prepared, draw)


if __name__ == "__main__":
    sys.exit(main())
