"""Seeds in batches: run on several cores, written down as they are done, and summed up.

A record is one line of JSON per batch, at the commit that it was run at; whoever goes on later runs the
batches that are not in the file. A batch that was not finished has not been run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from tests.simulation.run import run_seed

SOURCE_FILE = "SOURCE"  # beside compiled packages: the path of what they were compiled from
BATCH_SEEDS = 100
_HERE = Path(__file__).resolve().parent.parent.parent
# Of compiled code the source is elsewhere: that is what is a commit, and what a seed is run again with.
ROOT = Path((_HERE / SOURCE_FILE).read_text()) if (_HERE / SOURCE_FILE).exists() else _HERE


class Failure(Struct, frozen=True):
    """A seed that broke a promise, and the end of its trace."""

    seed: int
    violation: str
    trace: tuple[str, ...] = ()


class Batch(Struct, frozen=True, kw_only=True):
    """What came of the seeds from *first* on."""

    commit: str
    first: int
    seeds: int
    simulated_s: float
    cpu_s: float
    faults: dict[str, int]
    frames: dict[str, int]
    commits: int
    events: int
    twice: int  # seeds of it that were run in a second interpreter too, never compiled there
    failures: tuple[Failure, ...]


class Sum:
    """Batches added up."""

    def __init__(self) -> None:
        self.seeds = self.commits = self.events = self.twice = 0
        self.simulated_s = self.cpu_s = 0.0
        self.faults: Counter[str] = Counter()
        self.frames: Counter[str] = Counter()
        self.failures: list[Failure] = []

    def add(self, batch: Batch) -> None:
        """Count one batch."""
        self.seeds += batch.seeds
        self.commits += batch.commits
        self.events += batch.events
        self.twice += batch.twice
        self.simulated_s += batch.simulated_s
        self.cpu_s += batch.cpu_s
        self.faults.update(batch.faults)
        self.frames.update(batch.frames)
        self.failures.extend(batch.failures)

    def lines(self) -> list[str]:
        """The sum, for people."""
        each = max(self.seeds, 1)
        kinds, frames = (
            ", ".join(f"{kind} {count:,}" for kind, count in counts.most_common())
            for counts in (self.faults, self.frames)
        )
        failed = ", ".join(str(failure.seed) for failure in self.failures) or "none"
        return [
            f"{self.seeds:,} seeds, {self.simulated_s / 3600:,.1f} simulated hours, "
            f"{self.faults.total():,} faults, {self.commits:,} commits, {self.events:,} events, "
            f"{self.twice:,} seeds run twice",
            f"each: {self.simulated_s / each:.1f} s, {self.faults.total() / each:.0f} faults, "
            f"{self.commits / each:.0f} commits, {1000 * self.cpu_s / each:.0f} ms of a core "
            f"({self.simulated_s / max(self.cpu_s, 1e-9):,.0f} simulated seconds to one)",
            f"faults: {kinds}",
            f"single frames: {frames}",
            f"failed seeds: {failed}",
        ]


def run_batch(commit: str, first: int, seeds: int, trace_lines: int, *, twice: bool = True) -> Batch:
    """Run so many seeds; the first of them *twice*, to see that a seed replays exactly."""
    started = time.process_time()
    total, failures = Sum(), list[Failure]()
    for seed in range(first, first + seeds):
        again = twice and seed == first
        outcome = run_seed(seed, hashed=again, trace_lines=trace_lines)
        violation = outcome.violation
        if violation is None and again and other_hash(seed) != outcome.trace_hash:
            violation = "the same seed has run differently in another interpreter"
        if violation is not None:
            failures.append(Failure(seed, violation, outcome.trace))
        total.faults.update(outcome.faults)
        total.frames.update(outcome.frames)
        total.simulated_s += outcome.simulated_s
        total.commits += outcome.commits
        total.events += outcome.events
    return Batch(
        commit=commit,
        first=first,
        seeds=seeds,
        simulated_s=total.simulated_s,
        cpu_s=time.process_time() - started,
        faults=dict(total.faults),
        frames=dict(total.frames),
        commits=total.commits,
        events=total.events,
        twice=int(twice),
        failures=tuple(failures),
    )


def other_hash(seed: int, hash_seed: str = "1") -> str:
    """The trace hash of a seed in another interpreter, which orders its sets differently."""
    command = [sys.executable, "-m", "tests.simulation", "--hash", "--seed", str(seed)]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.strip()


# ── the record ──


class DirtyTree(Exception):
    """What is run is no commit, so nothing could be said about it later."""


def commit_here() -> str:
    """The commit that is checked out; raises `DirtyTree` if simulator or package differ from it."""
    git = ["git", "-C", str(ROOT)]
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--", "replicator", "tests"],
        check=True,
        capture_output=True,
        text=True,
    )
    if changed.stdout:
        raise DirtyTree("commit first: a recorded run is of a commit, and these differ:\n" + changed.stdout)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return head.stdout.strip()


def read_record(path: Path) -> list[Batch]:
    """All batches of a record; a line cut off by a crash counts as not written.

    Raises ValueError if there are lines and no batch is among them: that is no record.
    """
    batches, skipped = list[Batch](), 0
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            batches.append(msgspec.json.decode(line, type=Batch))
        except msgspec.MsgspecError:
            skipped += 1
    if skipped and not batches:
        raise ValueError(f"{path} is no record")
    if skipped:
        print(f"{path}: {skipped} lines that are no batches are skipped", file=sys.stderr)
    return batches


def has_batches(path: Path) -> bool:
    """Whether the file is a record of something."""
    try:
        return bool(read_record(path))
    except ValueError:
        return False


def append_record(path: Path, batch: Batch) -> None:
    """Add a batch, durably; of a failure only the violation's first line is kept."""
    failures = tuple(Failure(one.seed, one.violation.splitlines()[0]) for one in batch.failures)
    line = msgspec.json.encode(msgspec.structs.replace(batch, failures=failures))
    with path.open("ab+") as file:
        if file.tell() and not _ends_with_newline(path):
            file.write(b"\n")
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def missing_batches(done: list[Batch], first: int) -> Iterator[int]:
    """The first seeds of all batches, from *first* on, that are not among those *done*."""
    known = {batch.first for batch in done}
    start = first
    while True:
        if start not in known:
            yield start
        start += BATCH_SEEDS


def report(batches: list[Batch]) -> list[str]:
    """A record summed up, in all and by commit."""
    by_commit: dict[str, Sum] = {}
    whole = Sum()
    for batch in batches:
        whole.add(batch)
        by_commit.setdefault(batch.commit, Sum()).add(batch)
    lines = whole.lines()
    for commit, part in by_commit.items():
        failed = f", failed {sorted(one.seed for one in part.failures)}" if part.failures else ""
        lines.append(
            f"at {commit[:12]}: {part.seeds:,} seeds, {part.simulated_s / 3600:,.1f} simulated hours, "
            f"{part.faults.total():,} faults, {part.commits:,} commits{failed}"
        )
    lines += [f"seed {one.seed}: {one.violation}" for one in whole.failures]
    return lines
