"""The script of the demo, and what is watched while it is played.

Nodes start; rows flow; the primary is killed; a backup goes on; the killed node returns and catches up;
the new primary is killed; the rows run out. Beside the cluster one process learns the same rows without
any interruption, for the comparison.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import NoReturn, TypeVar

from msgspec import Struct

from replicator.demo import report
from replicator.demo.node import Node, make_nodes
from replicator.demo.records import Entry, Predictions, Result, now
from replicator.demo.report import Moment, Report, Takeover
from replicator.demo.tap import Tap
from replicator.errors import ReplicatorError

ENGINE = "replicator.demo.engine"
POLL_INTERVAL_S = 0.01
STEP_TIMEOUT_S = 60
COMMITS_BEFORE_KILL = 8
KILLS_AT = (0.2, 0.55)  # fractions of the rows
HELD_AT = (0.45, 0.9)  # where rows wait for a kill that is late, so that they cannot run out before it

T = TypeVar("T")

_TOLD = {
    "waiting": "waits as a backup",
    "restored": "is primary in epoch {entry.epoch}, restored at row {entry.offset}",
    "serving": "serves",
    "ended": "is no longer primary: {entry.text}",
    "finished": "has learned all rows",
}


class DemoFailed(ReplicatorError):
    """The script could not be played to its end; says what was waited for, and what the nodes wrote last."""


class Plan(Struct, frozen=True):
    """What is played, and how fast."""

    nodes: int = 3
    rows: int = 49_097
    rows_per_s: float = 3_000
    checkpoint_interval_s: float = 0.2
    warm: bool = False


class Director:
    """Plays the script once, in the directory *base*; calls *show* after whatever it has seen.

    Use it in a ``with`` statement: at its end no process is left. Raises `SettingsError` if the settings in
    the environment are wrong.
    """

    def __init__(self, plan: Plan, base: Path, show: Callable[[Director], None]) -> None:
        self.plan = plan
        self.nodes = make_nodes(plan.nodes, base)
        self.timeline: list[Moment] = []
        self.takeovers: list[Takeover] = []
        self.awaited = ""
        self.tap = Tap(base / "tap")
        self._tap_end = int(plan.rows * HELD_AT[0])
        self._due = 0.0  # rows, before the tap gives whole ones
        self._base = base
        self._alone_directory = base / "alone"
        self._alone: subprocess.Popen[bytes] | None = None
        self._show = show
        self._began_at = self._looked_at = now()

    @property
    def entries(self) -> list[Entry]:
        """All that the engines have written down."""
        return list(chain.from_iterable(node.entries for node in self.nodes))

    @property
    def _commits_awaited(self) -> int:
        """How many commits of a tenure are a flow: fewer when no more rows come, or it would never be one."""
        return COMMITS_BEFORE_KILL if self.tap.arrived < self._tap_end else 1

    @property
    def primary(self) -> Node | None:
        """The node whose engine serves; in the highest epoch, should there be two."""
        serving = [node for node in self.nodes if node.state in ("primary", "finished")]
        return max(serving, key=lambda node: node.epoch, default=None)

    def play(self) -> Report:
        """Play the script. Raises `DemoFailed`."""
        self._start_all()
        first = self._kill_primary(KILLS_AT[0], then_until=HELD_AT[1])
        self._bring_back(first)
        self._kill_primary(KILLS_AT[1], then_until=1)
        result = self._await("the last rows to be learned", self._result)
        reference = self._await("the uninterrupted run to end", lambda: Result.read(self._alone_directory))
        return self._conclude(result, reference)

    def __enter__(self) -> Director:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.kill()
        if self._alone:
            with self._alone:
                self._alone.kill()

    # ── the scenes ──

    def _start_all(self) -> None:
        for node in self.nodes:
            self._start(node)
        self._await("a first primary", lambda: self.primary)
        self._alone_directory.mkdir()
        program = [sys.executable, "-m", "replicator.demo.learner"]
        self._alone = subprocess.Popen(
            [*program, str(self._alone_directory), str(self.plan.rows)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def _kill_primary(self, at: float, then_until: float) -> Node:
        """Kill the primary when part *at* of the rows has come and commits flow; let rows come up to part
        *then_until*, and return the victim when another one serves."""

        def flowing() -> Node | None:
            node = self.primary if self.tap.arrived >= at * self.plan.rows else None
            return node if node and node.count_committed() >= self._commits_awaited else None

        victim = self._await("rows and commits to flow", flowing)
        killed_at = now()
        victim.kill()
        self._note(victim, "killed with SIGKILL", killed_at)
        self._tap_end = int(then_until * self.plan.rows)

        def succeeded() -> Node | None:
            return self.primary if self.primary and self.primary.epoch > victim.epoch else None

        successor = self._await("a backup to take over", succeeded)
        reached = max((offset + 1 for offset, _, _ in victim.predictions()), default=0)
        takeover = report.takeover(victim.name, successor.name, killed_at, reached, successor.entries)
        self.takeovers.append(takeover)
        return victim

    def _bring_back(self, node: Node) -> None:
        """Start a killed node again, and wait until it holds what was committed when it was back."""
        self._start(node)
        self._await(f"{node.name} to return", lambda: node.state == "backup")
        newest = max(e.position for e in self.entries if e.kind == "committed" and e.position)
        self._await(f"{node.name} to catch up", lambda: node.head is not None and node.head >= newest)
        self._note(node, f"has caught up with epoch {newest.epoch}, sequence {newest.sequence}")

    def _conclude(self, result: Result, reference: Result) -> Report:
        entries = self.entries
        replicated = chain.from_iterable(node.predictions() for node in self.nodes)
        alone = Predictions(self._alone_directory).read()
        return Report(
            nodes=self.plan.nodes,
            rows=self.plan.rows,
            takeovers=tuple(self.takeovers),
            committed=sum(entry.kind == "committed" for entry in entries),
            superseded=sum(entry.kind == "superseded" for entry in entries),
            lost_committed=report.count_lost(entries),
            identical=reference == result and report.assemble(replicated) == report.assemble(alone),
            metric=result.metric,
            metric_uninterrupted=reference.metric,
            raw_bytes=sum(node.total("raw_bytes") for node in self.nodes),
            sent_bytes=sum(node.total("sent_bytes") + node.total("served_bytes") for node in self.nodes),
            stored_bytes=sum(node.stored_bytes for node in self.nodes),
            duration_s=round(now() - self._began_at, 2),
            timeline=tuple(self.timeline),
        )

    # ── what the scenes are made of ──

    def _result(self) -> Result | None:
        return next((node.result() for node in self.nodes if node.state == "finished"), None)

    def _start(self, node: Node) -> None:
        program = [sys.executable, "-m", ENGINE]
        words = [str(self.plan.rows), str(self.plan.checkpoint_interval_s)]
        words.append("warm" if self.plan.warm else "cold")
        node.start([*program, *words, str(self._base / "tap")])
        self._note(node, "started" if len(node.directories) == 1 else "started again")

    def _note(self, node: Node, what: str, at: float | None = None) -> None:
        self.timeline.append(Moment(round((at or now()) - self._began_at, 3), node.name, what))

    def _await(self, what: str, condition: Callable[[], T | None]) -> T:
        """Watch until *condition* gives something, and give that."""
        self.awaited = what
        deadline = now() + STEP_TIMEOUT_S
        while not (found := condition()):
            if now() > deadline:
                self._fail(f"waited {STEP_TIMEOUT_S} s in vain for {what}", self.nodes)
            self._watch()
            time.sleep(POLL_INTERVAL_S)
        return found

    def _watch(self) -> None:
        """Let rows come, read what the engines have written, and see that they are still there."""
        passed_s, self._looked_at = now() - self._looked_at, now()
        if any(node.epoch for node in self.nodes):  # the tap opens with the first tenure
            self._due = min(self._due + passed_s * self.plan.rows_per_s, self._tap_end)
            self.tap.arrived = int(self._due)
        for node in self.nodes:
            for entry in node.read_new() if node.state != "dead" else ():
                if text := _TOLD.get(entry.kind):
                    self._note(node, text.format(entry=entry), entry.at)
            if node.has_died:
                self._fail(f"{node.name} has ended unexpectedly", [node])
        if self._alone and self._alone.poll():
            raise DemoFailed(f"the uninterrupted run has failed with exit status {self._alone.returncode}")
        self._show(self)

    def _fail(self, what: str, nodes: list[Node]) -> NoReturn:
        words = (f"{node.name}, {node.state}, wrote last:\n{node.last_words()}" for node in nodes)
        raise DemoFailed("\n".join([what, *words]))
