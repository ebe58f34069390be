"""One chaos run: strike, hold, heal, look, for so many minutes; then the verdict.

Faults are drawn by weight from one seed, one or two at a time, and each is undone after a while. After every
few the cluster is left alone until it is whole, so that each row of faults starts from a healthy cluster;
at the end all nodes end in good order. What fails a run: a violation that the checker finds in the history,
a cluster that does not get whole or does not commit in time though it could, a traceback or an error in
what a node has printed, something left behind, memory beyond its bound.
"""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tests.chaos.history import History
from tests.chaos.nemeses import NEMESES, Fault, Nemesis
from tests.chaos.progress import Work, by_cause
from tests.chaos.world import Options, World
from tests.integration.cluster import now, wait_until
from tests.integration.memory import MIB

TICK_S = 0.02
MEMORY_EVERY_S = 1.0
CALM_EVERY = 8  # faults
SECOND_FAULT = 0.3  # how often another one strikes before the first is undone
PAUSE_S = (0.0, 1.5)
SILENCE_S_MAX = 15.0  # without a commit though a majority could
WHOLE_S_MAX = 30.0  # until everybody is a member that lacks nothing, when all faults are over
START_S_MAX = 30.0
ENGINE_BYTES_MAX, WORKER_BYTES_MAX = 200 * MIB, 300 * MIB


class Problem(Exception):
    """The run cannot go on: a promise is broken that no later fault could mend."""


class Active(NamedTuple):
    """A fault at work."""

    fault: Fault
    name: str
    start: float
    due: float


class Run:
    """Do `minutes` of it, then ask for the `report`."""

    def __init__(self, world: World, names: Sequence[str], say: Callable[[str], None]) -> None:
        self._world = world
        self._say = say
        self._nemeses = [NEMESES[name] for name in names if _is_possible(NEMESES[name], world)]
        self._active: list[Active] = []
        self._memory_at = 0.0
        self._started_at = now()
        self.faults: Counter[str] = Counter()
        self.problems: list[str] = []
        self.calm_s: list[float] = []  # how long the cluster took each time to get whole

    def go(self, seconds: float) -> None:
        """Start the cluster, torment it for so long, heal and end it. Problems end it earlier."""
        world = self._world
        for name in world.names:
            world.start(name)
        try:
            self._until(lambda: world.is_whole() and world.progress.commits, START_S_MAX, "the start")
            end = now() + seconds
            while now() < end and self._nemeses:
                self._round(end)
        except Problem as problem:
            self._fail(str(problem))
        finally:
            self._heal(everything=True)
        self._end()

    def _fail(self, text: str) -> None:
        self.problems.append(text)
        self._say(f"PROBLEM: {text}")

    def _round(self, end: float) -> None:
        """A row of faults, and what comes after it; *end* ends it earlier."""
        draw = self._world.random
        for _ in range(CALM_EVERY):
            if now() >= end:
                break
            self._strike()
            if draw.random() < SECOND_FAULT:
                self._pass(draw.uniform(0.0, 1.0))
                self._strike()
            while self._active:
                self._tick()
            self._pass(draw.uniform(*PAUSE_S))
        self._calm()

    def _strike(self) -> None:
        """Let a nemesis strike, drawn by weight; one that cannot gives way to another."""
        world, weights = self._world, [nemesis.weight for nemesis in self._nemeses]
        for nemesis in world.random.choices(self._nemeses, weights, k=10):
            busy = {name for active in self._active for name in active.fault.nodes}
            start = now()
            try:
                fault = nemesis.strike(world, busy)
            except subprocess.TimeoutExpired as error:
                raise Problem(f"{nemesis.name}: a node does not end: {error}") from error
            if fault is not None:
                self.faults[nemesis.name] += 1
                self._active.append(Active(fault, nemesis.name, start, now() + fault.hold_s))
                self._say(f"{fault.what} for {fault.hold_s:.1f} s")
                return

    def _tick(self) -> None:
        time.sleep(TICK_S)
        self._world.poll()
        self._heal()
        if now() > self._memory_at:
            self._memory_at = now() + MEMORY_EVERY_S
            self._world.watch_memory()
        silence_s = self._world.progress.silence_s(now())
        if silence_s > SILENCE_S_MAX:
            raise Problem(f"no commit for {silence_s:.1f} s though a majority was healthy and connected")
        for node in self._world.nodes:
            if not node.is_running and not self._world.down[node.name]:
                raise Problem(f"{node.name}'s engine has ended by itself")

    def _heal(self, everything: bool = False) -> None:
        for active in self._active[:]:
            if everything or now() >= active.due:
                self._active.remove(active)
                with suppress(ProcessLookupError):
                    active.fault.heal()
                self._world.works.append(Work(active.start, now(), active.fault.what))

    def _pass(self, seconds: float) -> None:
        until = now() + seconds
        while now() < until:
            self._tick()

    def _calm(self) -> None:
        """Leave the cluster alone until it is whole and commits."""
        began = now()
        self._until(self._world.is_whole, WHOLE_S_MAX, "a cluster that is whole again")
        commits = self._world.progress.commits
        whole_at = now()
        self._until(lambda: commits and commits[-1] > whole_at, SILENCE_S_MAX, "commits in a whole cluster")
        self.calm_s.append(now() - began)

    def _until(self, condition: Callable[[], Any], timeout_s: float, what: str) -> None:
        end = now() + timeout_s
        while not condition():
            self._tick()
            if now() > end:
                members = {node.name: self._world.member(node.name) for node in self._world.nodes}
                raise Problem(f"not within {timeout_s} s: {what}; {self._world.impaired=} {members}")

    # ── the end and the verdict ──

    def _end(self) -> None:
        """End all nodes in good order, and look at what is left."""
        world = self._world
        world.progress.set_able(now(), False)
        for node in world.nodes:
            try:
                if node.is_running:
                    node.terminate()
            except subprocess.TimeoutExpired:
                self._fail(f"{node.name} does not end at SIGTERM")
        with suppress(AssertionError):
            wait_until(lambda: not world.left_over(), 5.0)
        world.poll()
        self.ended_at = now()
        for what in world.left_over():
            self._fail(f"left behind: {what}")
        for complaint in world.complaints():
            self._fail(f"printed by {complaint}")
        for kind, most in (("engine", ENGINE_BYTES_MAX), ("worker", WORKER_BYTES_MAX)):
            if world.peak_bytes[kind] > most:
                self._fail(f"an {kind} took {world.peak_bytes[kind] // MIB} MiB, more than {most // MIB}")

    def report(self) -> dict[str, Any]:
        """The figures of the run; `problems` and `violations` are empty if all promises were kept."""
        world, progress = self._world, self._world.progress
        history = History.read([node.log for node in world.nodes])
        stalls = progress.stalls(self.ended_at, world.works)
        able_s = sum(end - start for start, end in progress.able_spans(self.ended_at))
        stalled_s = sum(stall.seconds for stall in stalls)
        return {
            "seconds": round(self.ended_at - self._started_at, 1),
            "faults": dict(self.faults),
            "problems": self.problems,
            "violations": [f"{kind}: {text}" for kind, text in history.violations()],
            "lines": dict(history.counts),
            "able_s": round(able_s, 1),
            "stalled_s": round(stalled_s, 1),
            "stalled_share": round(stalled_s / able_s, 4) if able_s else 0.0,
            "stalls": by_cause(stalls),
            "longest_stall_s": round(max((stall.seconds for stall in stalls), default=0.0), 2),
            "whole_again_s": {
                "median": round(sorted(self.calm_s)[len(self.calm_s) // 2], 2) if self.calm_s else None,
                "longest": round(max(self.calm_s), 2) if self.calm_s else None,
            },
            "memory_peak_mib": {kind: size // MIB for kind, size in world.peak_bytes.items()},
        }


def _is_possible(nemesis: Nemesis, world: World) -> bool:
    return not nemesis.needs or world.network is not None


def torment(
    directory: Path, options: Options, seconds: float, names: Sequence[str], say: Callable[[str], None]
) -> dict[str, Any]:
    """One whole run in an empty directory; its report."""
    with World(directory, options) as world:
        run = Run(world, names, say)
        run.go(seconds)
        how = {
            "seed": options.seed,
            "nodes": options.nodes,
            "namespaces": options.namespaces,
            "netem": world.network is not None and world.network.has_netem,
        }
        return {**how, **run.report()}
