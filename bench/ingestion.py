"""What does replication cost the engine's loop?

Each pair is of two new engine processes: one without replication, beside a dummy load on the other core that
uses as much processor time as replication did in the turn before; and one whose checkpoints replicate. The
engine's process is pinned to one core, its link's thread with it, everything else to the other (with a worker
thread, the loop's thread alone is pinned). An event is a JSON record of seven fields: it is parsed, its key's
running mean and variance are updated, a small model predicts and learns online, a line of JSON is made. The
replicating engine looks at `tenure.active` at each event; both change their state at each checkpoint.

`full` is the loop at full speed: events per second, and the time from one event's end to the next one's.
`open` is a loop at a fixed rate, a share of what the loop without replication does, with latency counted from
the moment at which each event was due, so that a pause counts for all events that came in it. Figures are
medians over the pairs; `*_ratio` are pairwise ratios, on over off (of events per second: 1 is no cost; of
latencies: 1 is no cost, more is worse). `submit_us` is the distribution of submit() itself, on the engine's
thread.

Modes: `process` and `thread` replicate to two more nodes, the worker as a child process or a thread;
`standalone` only stores.

`--full` measures every mode and case: the one that counts (process, 16 MB every 250 ms) with the pairs and
events that are asked for, all others with few. With `--state FILE` the turns are kept there after every pair,
and the same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

import msgspec
from msgspec import Struct, field

from bench.kit.cluster import Cluster, descendants
from bench.kit.machine import versions
from bench.kit.payloads import SIZES
from bench.kit.plots import draw_lines
from bench.kit.process import cpu_s
from bench.kit.report import Cell, Report, Row, progress, write_whole
from bench.kit.run import command_line, parser, run
from bench.kit.samples import Spread
from tests.arguments import above_zero, one_or_more, resumable

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
WARM_UP_EVENTS = 100_000
OPEN_SHARE = 0.7  # of its full speed, that the open loop is asked for

GATED = ("process", "16 MB / 250 ms")
FEW_PAIRS, FEW_EVENTS = 2, 80_000
INTERVALS_MIN = 2.5  # what a turn has to see of checkpoints, however few its events are

Turn = dict[str, Any]


class Engine:
    """The process of one engine; without *settings* nothing replicates."""

    def __init__(self, settings: bytes | None, size: int, core: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.kit.loop"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONHASHSEED": "0"},  # the same dicts in both
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


class State(Struct):
    """What is kept: of one commit, by cell and loop, the turns with replication on and off."""

    commit: str
    turns: dict[str, dict[str, list[Turn]]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> State | None:
        """What the file has, if there is anything; raises ValueError if that is something else."""
        data = path.read_bytes() if path.exists() else b""
        return msgspec.json.decode(data, type=cls) if data else None


class Kept:
    """Turns that have been taken, by cell and loop: in a file, if there is one, after every pair."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        commit = versions()["replicator"]
        self._state = (path and State.load(path)) or State(commit)
        if self._state.commit != commit:
            raise OSError(f"{path} has turns of {self._state.commit}, this is {commit}: remove it")

    def turns(self, *key: str) -> dict[str, list[Turn]]:
        """Those of one cell and loop, replication on and off."""
        return self._state.turns.setdefault(" | ".join(key), {"on": [], "off": []})

    def save(self) -> None:
        """Write them; nothing of an older file is seen half written."""
        if self._path is not None:
            write_whole(self._path, msgspec.json.encode(self._state))


class Pairs:
    """An engine with and one without replication, in turns, at the same loop.

    Each pair is of two new processes: where a process happens to have its objects makes the whole loop a few
    percent faster or slower for as long as it lives.
    """

    def __init__(
        self,
        make: Callable[[bool], Engine],
        nodes: list[int],
        command: dict[str, Any],
        turns: dict[str, list[Turn]],
    ) -> None:
        self._make, self._nodes, self._command = make, nodes, command
        self._on: Engine
        self._off: Engine
        self.share = 0.0  # of the other core, that replication took in its last turn
        self.turns = turns

    def run(self, count: int, save: Callable[[], None]) -> None:
        """Take what is missing of *count* pairs, every second one the other way round."""
        for number in range(len(self.turns["off"]), count):
            with self._make(True) as self._on, self._make(False) as self._off:
                self._warm_up()
                pair = {"on": self.take_on, "off": self.take_off}
                names = ("on", "off") if number % 2 else ("off", "on")
                taken = {name: pair[name](self._command["events"]) for name in names}
            for name, turn in taken.items():
                self.turns[name].append(turn)
            save()
            rates = [taken[name]["events_per_s"] for name in ("on", "off")]
            progress(
                f"  pair {number + 1} of {count}: {rates[0]:.0f} and {rates[1]:.0f} events/s, "
                f"load {self.share:.2f}"
            )

    def _warm_up(self) -> None:
        """A short turn of both at full speed, which tells how large the dummy load and the rate must be."""
        loop, self._command["loop"] = self._command["loop"], "full"
        self.take_on(WARM_UP_EVENTS)
        speed = self.take_off(WARM_UP_EVENTS)["events_per_s"]
        few = int(speed * self._command["interval_s"] * INTERVALS_MIN)
        self._command["loop"] = loop
        self._command["rate"] = self._command["rate"] or OPEN_SHARE * speed
        self._command["events"] = max(self._command["events"], few)

    def take_on(self, events: int) -> Turn:
        """A turn that replicates."""
        pids = [*self._nodes, *self._on.others()]
        used_s = cpu_s(pids)
        found = self._on.ask({**self._command, "events": events}, LOOP_TIMEOUT_S)
        found["look_ns"] = self._on.look_ns
        self.share = min(0.95, (cpu_s(pids) - used_s + found["elsewhere_cpu_s"]) / found["seconds"])
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
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as dummy:
            assert dummy.stdout is not None
            dummy.stdout.readline()  # it has made its memory and begins
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


def rows_of(taken: dict[str, list[Turn]], label: Row, mode: str) -> list[Row]:
    """Two rows: replication off, and on with the ratios."""
    rows: list[Row] = []
    found = {name: percentiles(turns) for name, turns in taken.items()}
    for name, turns in (("off", taken["off"]), (mode, taken["on"])):
        own = found["off" if name == "off" else "on"]
        row: Row = {**label, "replication": name, "pairs": len(turns), "events": turns[0]["events"]}
        row["events_per_s"] = Spread.of([turn["events_per_s"] for turn in turns], 0)
        row |= {f"{place}_us": round(median(values), 1) for place, values in own.items()}
        on = name != "off"
        row["events_ratio"] = _ratio(taken, "events_per_s") if on else None
        for place in ("p50", "p99", "p99_9", "p99_99"):
            each = zip(found["on"][place], found["off"][place], strict=True)
            row[f"{place}_ratio"] = Spread.of([a / b for a, b in each]) if on else None
        submits = [us for turn in turns for us in turn["submit_us"]]
        row["submit_us"] = Spread.of(submits, 1) if submits else None
        row["submit_p99_us"] = Spread.of(submits, 1).p99 if submits else None
        for place in ("committed", "superseded", "skipped"):
            row[place] = sum(turn.get(place, 0) for turn in turns) if on else None
        row["active_ns"] = round(median(turn["look_ns"] for turn in turns), 1) if on else None
        rows.append(row)
    return rows


def _ratio(taken: dict[str, list[Turn]], name: str) -> Spread:
    each = zip(taken["on"], taken["off"], strict=True)
    return Spread.of([on[name] / off[name] for on, off in each])


def measure_case(
    mode: str, case: str, count: int, events: int, cores: list[int], options: argparse.Namespace, kept: Kept
) -> None:
    """Take what is missing of the turns of one size and interval in one mode, all loops."""
    missing = [
        loop for loop in options.loops if len(kept.turns(mode, case, loop, str(events))["off"]) < count
    ]
    if not missing:
        return
    size, interval_s = CASES[case]
    with ExitStack() as stack:
        cluster = Cluster(directory=options.dir, own=False, **MODES[mode])
        stack.enter_context(cluster)
        settings = cluster.settings(cluster.names[0]).to_json()

        def make(replicates: bool) -> Engine:
            return Engine(settings if replicates else None, SIZES[size], cores[0])

        for loop in missing:
            command = {"loop": loop, "events": events, "interval_s": interval_s, "rate": options.rate}
            nodes = [node.pid for node in cluster.nodes.values()]
            Pairs(make, nodes, command, kept.turns(mode, case, loop, str(events))).run(count, kept.save)


def plan(options: argparse.Namespace) -> list[tuple[str, str, int, int]]:
    """Mode, case, pairs and events of each turn; what counts comes first."""
    if not options.full:
        return [
            (mode, case, options.pairs, options.events) for mode in options.modes for case in options.cases
        ]
    others = [(mode, case) for mode in MODES for case in CASES if (mode, case) != GATED]
    few = min(FEW_PAIRS, options.pairs), min(FEW_EVENTS, options.events)
    return [(*GATED, options.pairs, options.events), *((mode, case, *few) for mode, case in others)]


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
        "engine on one core, all else on another, and there beside replication off a dummy load of equal "
        "processor time; open loop at "
        + (f"{options.rate:.0f} events/s" if options.rate else f"{OPEN_SHARE} of full speed")
    )
    kept, cells = Kept(options.state), plan(options)
    for number, (mode, case, count, events) in enumerate(cells, 1):
        progress(f"{number} of {len(cells)}: {case}, {mode}, {count} pairs of {events} events or more")
        measure_case(mode, case, count, events, cores, options, kept)
        for loop in options.loops:
            for row in rows_of(kept.turns(mode, case, loop, str(events)), {"case": case, "loop": loop}, mode):
                report.add(row)
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
    add("--pairs", type=one_or_more, default=10, help="turns of each (default 10)")
    add("--events", type=one_or_more, default=1_000_000, help="in each turn (default 1000000)")
    add(
        "--rate",
        type=above_zero,
        help=f"events per second of the open loop (default {OPEN_SHARE} of full speed)",
    )
    add("--full", action="store_true", help="all modes and cases, most of them with few pairs")
    add(
        "--state",
        type=resumable(State.load),
        metavar="FILE",
        help="keep the turns there, and go on from those that it has",
    )

    return run(options_of, measure, draw, quick={"pairs": 2, "events": FEW_EVENTS})


if __name__ == "__main__":
    sys.exit(main())
