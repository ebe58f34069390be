"""How long does an outage last? From the fault to the next engine's hands, and to the first new commit.

Three nodes on this machine, each with an engine that checkpoints every 20 ms (or --interval). In each round
the primary suffers a fault at a random moment; `total_ms` is from that moment until another node's engine
holds its tenure with everything restored, `commit_ms` until it reports its first commit. Stages, as medians:
detect (until the winner begins its candidacy), elect (until it is granted), claim (until a majority has
promised), fetch (until it holds all chosen heads), restore (adopted, read and handed over).

Faults: `engine` SIGKILL of the engine alone, its worker lives; `worker` SIGKILL of the worker alone; `node`
SIGKILL of both; `stop` SIGSTOP of both, continued after the takeover; `cut` the primary's network dropped
in both directions (each node in a network namespace of its own; needs root); `handover` as an operator asks
for it; `fetch` SIGKILL of both while the only other engine lacks the newest checkpoint, which a third node
without an engine holds.

A p99 is given from 300 rounds on. Rounds in which an election was lost (a split vote) are counted apart. In
every run nothing committed may be lost, and no two engines may see an active tenure at the same time;
otherwise it fails, and its rounds do not count.

With --state FILE rounds are kept there, in blocks, with the commit at which they were taken, and those of
several runs add up; with --count 0 they are only reported. --full takes, of every profile, fault and variant
that the README shows, what the state lacks of the rounds that are wanted; interrupted, it goes on there.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from math import inf
from pathlib import Path
from statistics import median

import msgspec
from msgspec import Struct

from bench.kit.machine import commit
from bench.kit.plots import figure
from bench.kit.report import Report, Row, progress, write_whole
from bench.kit.run import command_line, parser, run
from bench.kit.samples import percentile
from bench.takeover.rounds import FAULTS, INTERVAL_S, STAGES, Round, Stage
from tests.arguments import above_zero, none_or_more, one_or_more, resumable
from tests.chaos.network import INSIDE, enter, missing, run as shell

NAME = "failover"
TAIL_COUNT = 300  # rounds from which on a p99 says something
COUNT, QUICK_COUNT = 30, 3
TICKS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000)
BLOCK_COUNT = 50  # rounds of one cluster; then they are checked and kept
PROFILES = ("fast", "default", "wan")
LOST_MACHINE = ("node", "stop", "cut")
ORDER = (*LOST_MACHINE, *(fault for fault in FAULTS if fault not in LOST_MACHINE))
LARGE_HEAD = {"head_bytes": 64 * 2**20}
WITH_TIME = {"interval": 1.0}  # between checkpoints, for a warm standby to have taken the newest in

# What --full takes: profiles, faults, variant, rounds.
Plan = tuple[tuple[tuple[str, ...], tuple[str, ...], Mapping[str, float], int], ...]
FULL: Plan = (
    (("fast",), LOST_MACHINE, {}, TAIL_COUNT),
    (("default",), LOST_MACHINE, {}, 40),
    (("wan",), LOST_MACHINE, {}, 10),
    (("fast", "default"), ("engine", "worker", "handover"), {}, 40),
    (("wan",), ("engine", "handover"), {}, 10),
    (("fast",), ("node",), {"streams": 1000}, 20),
    (("fast",), ("node",), LARGE_HEAD, 20),
    (("fast",), ("node",), LARGE_HEAD | WITH_TIME, 20),
    (("fast",), ("node",), LARGE_HEAD | WITH_TIME | {"warm": True}, 20),
    (("fast",), ("fetch",), LARGE_HEAD, 20),
)


class Key(Struct, frozen=True):
    """What rounds have in common."""

    profile: str
    fault: str
    variant: str

    @property
    def rank(self) -> tuple[bool, int, int, str]:
        """Its place in the report: variants come last."""
        return bool(self.variant), PROFILES.index(self.profile), ORDER.index(self.fault), self.variant


class Series(Struct, frozen=True):
    """Rounds to take of one profile, fault and variant."""

    profile: str
    fault: str
    count: int
    options: argparse.Namespace


def planned(options: argparse.Namespace) -> Iterator[Series]:
    """What is asked for."""
    asked: Plan = ((tuple(options.profiles), tuple(options.faults), {}, COUNT),)
    for profiles, faults, changes, count in FULL if options.full else asked:
        varied = argparse.Namespace(**vars(options) | dict(changes))
        if options.count is not None:
            count = min(count, options.count) if options.full else options.count
        yield from (Series(profile, fault, count, varied) for profile in profiles for fault in faults)


def measure(options: argparse.Namespace, command: str) -> Report:
    """The rounds that are asked for, added to those of the state."""
    rounds = _load(options.state)
    report = Report(question=(__doc__ or "").partition("\n")[0], command=command)
    series = list(planned(options))
    if INSIDE not in os.environ and any(each.fault == "cut" for each in series):
        report.notes.append(f"left out: cut: no network of its own ({missing()})")
        series = [each for each in series if each.fault != "cut"]
    for number, each in enumerate(series, 1):
        key = Key(each.profile, each.fault, Stage.variant_of(each.options))
        taken = sum(key == _key(known) for known in rounds) if options.full else 0
        until = time.monotonic() + options.seconds
        while taken < each.count and time.monotonic() < until:
            words = " ".join(filter(None, (each.profile, each.fault, key.variant)))
            progress(f"{number} of {len(series)}: {words}, {taken} of {each.count} rounds")
            found = _block(each, min(BLOCK_COUNT, each.count - taken), until)
            rounds += found
            taken += len(found)
            _save(options.state, rounds)
    if not rounds:
        raise OSError("there are no rounds to report")
    grouped: dict[Key, list[Round]] = {}
    for known in rounds:
        grouped.setdefault(_key(known), []).append(known)
    for key in sorted(grouped, key=lambda key: key.rank):
        report.add(_row(key, grouped[key]))
    commits = Counter(known.commit for known in rounds)
    report.versions["replicator"] = ", ".join(commits)
    report.notes.append("rounds by commit: " + ", ".join(f"{name} {n}" for name, n in commits.items()))
    report.notes.append("checked in every run: no committed checkpoint lost, never two active tenures")
    return report


def _block(series: Series, count: int, until: float) -> list[Round]:
    """Rounds on one cluster, which is checked in the end."""
    found: list[Round] = []
    with (
        tempfile.TemporaryDirectory(prefix="replicator-failover-", dir=series.options.dir) as directory,
        Stage(Path(directory), series.profile, series.fault, series.options) as stage,
    ):
        while len(found) < count and (not found or time.monotonic() < until):
            found.append(stage.play())
            progress(f"{series.profile} {series.fault} {len(found)}: {found[-1].total_ms:.0f} ms")
        stage.check()
    now = commit()
    return [msgspec.structs.replace(each, commit=now) for each in found]


def _key(each: Round) -> Key:
    return Key(each.profile, each.fault, each.variant)


def _row(key: Key, rounds: list[Round]) -> Row:
    totals = sorted(each.total_ms for each in rounds)
    commits = sorted(each.commit_ms for each in rounds)
    split = [each.total_ms for each in rounds if each.lost_elections]
    spans = {name: [each.stages[name] for each in rounds if name in each.stages] for name in STAGES}
    figures: dict[str, float | None] = {
        "p50_ms": median(totals),
        "p99_ms": percentile(totals, 0.99) if len(rounds) >= TAIL_COUNT else None,
        "max_ms": totals[-1],
        "commit_p50_ms": median(commits),
        "commit_max_ms": commits[-1],
        **{f"{name}_ms": median(found) if found else None for name, found in spans.items()},
        "split_max_ms": max(split, default=None),
    }
    head: Row = {"profile": key.profile, "fault": key.fault, "variant": key.variant or "-"}
    head |= {"rounds": len(rounds), "split": len(split)}
    return head | {name: None if value is None else round(value, 1) for name, value in figures.items()}


def _load(state: Path | None) -> list[Round]:
    """The rounds that are kept; raises ValueError if that is not what the file has."""
    if state is None or not state.exists() or not state.stat().st_size:
        return []
    return msgspec.json.decode(state.read_bytes(), type=list[Round])


def _save(state: Path | None, rounds: list[Round]) -> None:
    if state is not None:
        write_whole(state, msgspec.json.encode(rounds))


def draw(report: Report, path: Path) -> None:
    """A line for each row, from the median to the longest."""
    labels = [", ".join(str(row[name]) for name in ("profile", "fault", "variant")) for row in report.rows]
    height = 1.2 + 0.22 * len(labels)
    with figure(path, "From the fault to the next engine's hands", "ms (log)", "", height) as axes:
        for place, row in enumerate(report.rows):
            axes.plot([row["p50_ms"], row["max_ms"]], [place, place], "-", color="0.7", zorder=1)
        for column, label in (("p50_ms", "median"), ("p99_ms", "p99"), ("max_ms", "longest")):
            points = [
                (row[column], place) for place, row in enumerate(report.rows) if row[column] is not None
            ]
            axes.plot([x for x, _ in points], [y for _, y in points], "o", ms=4, label=label)
        axes.set_yticks(range(len(labels)), [label.removesuffix(", -") for label in labels], fontsize=7)
        axes.invert_yaxis()
        axes.set_xscale("log")
        low, high = (
            edge(span for row in report.rows if isinstance(span := row[column], int | float))
            for edge, column in ((min, "p50_ms"), (max, "max_ms"))
        )
        ticks = [tick for tick in TICKS_MS if low / 2 < tick < high * 2]
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.set_xticks([], minor=True)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    made = parser(__doc__, NAME)
    made.add_argument("--faults", nargs="+", choices=FAULTS, default=["engine", "node", "stop", "handover"])
    made.add_argument("--profiles", nargs="+", choices=PROFILES, default=["default", "fast"])
    made.add_argument(
        "--count", type=none_or_more, help="rounds of each (default 30); with --full at most so many"
    )
    made.add_argument(
        "--seconds", type=above_zero, default=inf, help="at most so long for each (default: no end)"
    )
    made.add_argument("--streams", type=one_or_more, default=1, help="streams; all but one are idle")
    made.add_argument("--head-bytes", type=one_or_more, default=1000, help="size of the newest checkpoint")
    made.add_argument(
        "--interval",
        type=above_zero,
        default=INTERVAL_S,
        metavar="S",
        help="between checkpoints (default 0.02)",
    )
    made.add_argument("--isolation", choices=("process", "thread"), default="process")
    made.add_argument("--warm", action="store_true", help="the engines follow while they are backups")
    made.add_argument("--seed", type=int, default=1, help="of the moments of the faults")
    made.add_argument("--full", action="store_true", help="all that the README shows")
    made.add_argument(
        "--state", type=resumable(_load), metavar="FILE", help="where rounds are kept and added to"
    )
    given = sys.argv[1:] if arguments is None else arguments
    options = made.parse_args(given)
    if options.count == 0 and not (options.state and options.state.exists()):
        made.error("--count 0 reports what --state FILE has, and there is no such file")
    if INSIDE in os.environ:
        shell("ip", "link", "set", "lo", "up")  # for the faults that need no network of their own
    elif (options.full or "cut" in options.faults) and not missing():
        enter("bench.failover", given)
    random.seed(options.seed)

    def measured(options: argparse.Namespace) -> Report:
        return measure(options, command_line(NAME, given))

    return run(made, measured, draw, given, quick={"count": QUICK_COUNT})


if __name__ == "__main__":
    sys.exit(main())
