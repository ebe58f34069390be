"""How long does an outage last? From the fault to the next engine's hands, and to the first new commit.

Three nodes on this machine, each with an engine that checkpoints every 20 ms. In each round the primary
suffers a fault at a random moment; `total_ms` is from that moment until another node's engine holds its
tenure with everything restored, `commit_ms` until that one reports its first commit. Stages, as medians:
detect (until the winner begins its candidacy), elect (until it is granted), claim (until a majority has
promised), fetch (until it holds all chosen heads), restore (adopted, read and handed over).

Faults: `engine` SIGKILL of the engine alone, its worker lives; `worker` SIGKILL of the worker alone; `node`
SIGKILL of both; `stop` SIGSTOP of both, continued after the takeover; `cut` the primary's network dropped
in both directions (each node in a network namespace of its own; needs root); `handover` as an operator asks
for it; `fetch` SIGKILL of both while the only other engine lacks the newest checkpoint, which a third node
without an engine holds.

A p99 is given from 300 rounds on. Rounds in which an election was lost (a split vote) are counted apart. In
every run nothing committed may be lost, and no two engines may see an active tenure at the same time;
otherwise it fails. Rounds of several runs add up with --state.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from bench.kit.plots import figure
from bench.kit.report import Report, Row, progress
from bench.kit.run import command_line, parser, run
from bench.kit.samples import percentile
from bench.takeover.rounds import FAULTS, STAGES, Round, Stage
from tests.chaos.network import INSIDE, enter, run as shell

NAME = "failover"
TAIL_COUNT = 300  # rounds from which on a p99 says something


class Key(Struct, frozen=True, order=True):
    """What rounds have in common."""

    profile: str
    fault: str
    variant: str


def measure(options: argparse.Namespace) -> Report:
    """Rounds of each fault under each profile, added to those of the state."""
    rounds = _load(options.state)
    report = Report(question=(__doc__ or "").partition("\n")[0], command=command_line(NAME))
    for profile in options.profiles:
        for fault in options.faults:
            rounds += _series(profile, fault, options)
            _save(options.state, rounds)
    grouped: dict[Key, list[Round]] = {}
    for each in rounds:
        grouped.setdefault(Key(each.profile, each.fault, each.variant), []).append(each)
    for key in sorted(grouped):
        report.add(_row(key, grouped[key]))
    report.notes.append("checked in every run: no committed checkpoint lost, never two active tenures")
    return report


def _series(profile: str, fault: str, options: argparse.Namespace) -> list[Round]:
    found: list[Round] = []
    until = time.monotonic() + options.seconds
    with (
        tempfile.TemporaryDirectory(prefix="replicator-failover-", dir=options.dir) as directory,
        Stage(Path(directory), profile, fault, options) as stage,
    ):
        while len(found) < options.count and time.monotonic() < until:
            found.append(stage.play())
            progress(f"{profile} {fault} {len(found)}: {found[-1].total_ms:.0f} ms")
        stage.check()
    return found


def _row(key: Key, rounds: list[Round]) -> Row:
    totals = sorted(each.total_ms for each in rounds)
    commits = sorted(each.commit_ms for each in rounds)
    is_many = len(rounds) >= TAIL_COUNT
    row: Row = {"profile": key.profile, "fault": key.fault, "variant": key.variant, "rounds": len(rounds)}
    row |= {"p50_ms": percentile(totals, 0.5), "p99_ms": percentile(totals, 0.99) if is_many else None}
    row |= {"max_ms": totals[-1], "commit_p50_ms": percentile(commits, 0.5), "commit_max_ms": commits[-1]}
    for stage in STAGES:
        spans = sorted(each.stages[stage] for each in rounds if stage in each.stages)
        row[f"{stage}_ms"] = percentile(spans, 0.5) if spans else None
    split = [each.total_ms for each in rounds if each.lost_elections]
    return row | {"split": len(split), "split_max_ms": max(split, default=None)}


def _load(state: Path | None) -> list[Round]:
    if state is None or not state.exists():
        return []
    return msgspec.json.decode(state.read_bytes(), type=list[Round])


def _save(state: Path | None, rounds: list[Round]) -> None:
    if state is not None:
        state.write_bytes(msgspec.json.encode(rounds))


def draw(report: Report, path: Path) -> None:
    """Median, and the longest, of each fault."""
    with figure(path, "From the fault to the next engine's hands", "", "ms (log)") as axes:
        names = [f"{row['profile']}\n{row['fault']}" for row in report.rows]
        columns: tuple[tuple[str, str], ...] = (("p50_ms", "median"), ("p99_ms", "p99"), ("max_ms", "max"))
        for column, label in columns:
            points: list[tuple[int, Any]] = [
                (place, row[column]) for place, row in enumerate(report.rows) if row[column] is not None
            ]
            axes.plot([x for x, _ in points], [y for _, y in points], "o", label=label)
        axes.set_xticks(range(len(names)), names, fontsize=6)
        axes.set_yscale("log")


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    made = parser(__doc__, NAME)
    made.add_argument("--faults", nargs="+", choices=FAULTS, default=["engine", "node", "stop", "handover"])
    made.add_argument(
        "--profiles", nargs="+", choices=("default", "fast", "wan"), default=["default", "fast"]
    )
    made.add_argument("--count", type=int, default=30, help="rounds of each (default 30)")
    made.add_argument("--seconds", type=float, default=600.0, help="at most so long for each (default 600)")
    made.add_argument("--streams", type=int, default=1, help="streams; all but one are idle")
    made.add_argument("--head-bytes", type=int, default=1000, help="size of the newest checkpoint")
    made.add_argument("--isolation", choices=("process", "thread"), default="process")
    made.add_argument("--warm", action="store_true", help="the engines follow while they are backups")
    made.add_argument("--seed", type=int, default=1, help="of the moments of the faults")
    made.add_argument("--state", type=Path, help="where rounds are kept and added to")
    given = sys.argv[1:] if arguments is None else arguments
    options = made.parse_args(given)
    if "cut" in options.faults and INSIDE not in os.environ:
        enter("bench.failover", given)
    if INSIDE in os.environ:
        shell("ip", "link", "set", "lo", "up")  # for the faults that need no network of their own
    random.seed(options.seed)
    return run(made, measure, draw, given)


if __name__ == "__main__":
    sys.exit(main())
