"""Rounds of a fault on a cluster of real processes: wait until all is well, strike, wait for the takeover."""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from msgspec import Struct

from bench.takeover.history import Entry, History
from replicator.settings import Settings
from tests.chaos.network import Network
from tests.integration.cluster import Cluster, Node, now, wait_until
from tests.integration.commands import PROGRAM

FAULTS = ("engine", "worker", "node", "stop", "cut", "handover", "fetch")
STAGES = ("detect", "elect", "claim", "fetch", "restore")
MOMENTS = ("detected", "granted", "claimed", "fetched", "handed")
TIMEOUT_S = 30.0
TIMEOUT_ELECTIONS = 10  # as many of the longest election timeouts more: slow profiles take their time
INTERVAL_S = 0.02
RECENT_S = 0.2  # a commit is, of a cluster that is well; or two intervals if they are longer
PAUSE_S, PAUSE_INTERVALS = 0.1, 5  # before the fault, so that it meets every phase of the timers
TAIL_BYTES = 65_536
ELECTED = re.compile(rb"elector leading=True node=\S+ term=(\d+)")


class Round(Struct, kw_only=True):
    """One takeover."""

    profile: str
    fault: str
    variant: str
    total_ms: float
    commit_ms: float
    stages: dict[str, float]
    lost_elections: int
    commit: str = "unknown"  # of the code that was measured


class Stage:
    """The cluster on which one fault is played again and again; use it in a ``with`` statement."""

    def __init__(self, directory: Path, profile: str, fault: str, options: argparse.Namespace) -> None:
        self._profile, self._fault, self._options = profile, fault, options
        self._directory = directory
        self._stack = ExitStack()
        self._settings = Settings.from_env({"REPLICATOR_PROFILE": profile})
        self._recent_s = max(RECENT_S, 2 * options.interval)
        self._timeout_s = TIMEOUT_S + TIMEOUT_ELECTIONS * self._settings.election_timeout_max_s
        self._started_at: dict[str, float] = {}
        self._term = 0
        self._network: Network | None = None
        self.cluster: Cluster
        self.history: History

    @staticmethod
    def variant_of(options: argparse.Namespace) -> str:
        """What is not as usual, in words."""
        words = [f"{options.streams:,} streams"] if options.streams > 1 else []
        words += [f"head of {options.head_bytes >> 20} MiB"] if options.head_bytes >= 2**20 else []
        words += [f"one every {options.interval:g} s"] if options.interval != INTERVAL_S else []
        words += ["thread"] if options.isolation == "thread" else []
        words += ["warm"] if options.warm else []
        return ", ".join(words)

    def __enter__(self) -> Stage:
        with self._stack:
            settings = {"profile": self._profile, "isolation": self._options.isolation}
            addresses: list[str] = []
            if self._fault == "cut":
                names = ["n1", "n2", "n3"]
                self._network = Network(names, self._options.seed)
                self._stack.callback(self._network.close)
                addresses = [self._network.address(name) for name in names]
            cluster = Cluster(self._directory, 3, addresses=addresses, **settings)
            self.cluster = self._stack.enter_context(cluster)
            if self._network is not None:
                self._add_keys(self._network)
            self.history = History(self.cluster)
            for name in self.cluster.nodes:
                self._start(name)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _add_keys(self, network: Network) -> None:
        """Off loopback there is nothing without keys."""
        keys = self._directory / "keys"
        command = [*PROGRAM, "keygen", *self.cluster.nodes, "-o", str(keys)]
        subprocess.run(command, check=True, capture_output=True)
        for name, node in self.cluster.nodes.items():
            node.environ["REPLICATOR_SECRET_KEY_FILE"] = str(keys / f"{name}.secret")
            node.environ["REPLICATOR_PEER_KEYS_FILE"] = str(keys / "peers.keys")
            node.prefix = network.prefix(name)

    def _start(self, name: str) -> None:
        options, node = self._options, self.cluster[name]
        if self._fault == "fetch" and name == "n3":
            node.start(*PROGRAM, "node")
        else:
            words = [str(options.streams - 1), str(options.head_bytes), str(options.interval)]
            words += ["follow"] if options.warm else []
            node.start(sys.executable, "-m", "bench.takeover.engine", str(node.log), *words)
        self._started_at[name] = now()

    # ── one round ──

    def play(self) -> Round:
        """One fault, and the takeover that follows."""
        primary = self._wait_until_well()
        old = self.history.tenures[-1]
        undo = self._leave_behind(primary) if self._fault == "fetch" else _nothing
        time.sleep(PAUSE_S + random.uniform(0, PAUSE_INTERVALS * self._settings.raft_append_interval_s))
        struck_at = now()
        mend = self._strike(primary)
        undo()
        tenure = self._wait(lambda: self.history.tenure_since(struck_at), "a takeover")
        commit = self._wait(lambda: self.history.commit_since(tenure["at"], tenure["node"]), "a commit")
        lost = self._lost_elections(self.cluster[tenure["node"]])
        mend()
        if tenure["epoch"] <= old["epoch"] or (self._fault != "worker" and tenure["node"] == primary.name):
            raise TimeoutError(f"not a takeover: {old} and then {tenure}")
        return Round(
            profile=self._profile,
            fault=self._fault,
            variant=self.variant_of(self._options),
            total_ms=1000 * (tenure["at"] - struck_at),
            commit_ms=1000 * (commit["at"] - struck_at),
            stages=_stages(struck_at, tenure),
            lost_elections=lost,
        )

    def _wait(self, condition: Callable[[], Any], what: str) -> Any:
        try:
            return wait_until(condition, self._timeout_s, what)
        except AssertionError as error:
            raise TimeoutError(
                f"{error}\n" + "\n".join(n.last_words() for n in self.cluster.nodes.values())
            ) from error

    def _wait_until_well(self) -> Node:
        """All nodes are up for longer than a restarted lender waits, and hold everything; the primary."""

        def well() -> Node | None:
            self.history.poll()
            nodes = self.cluster.nodes
            for name, node in nodes.items():
                if not node.is_running:
                    self._start(name)
            if not self.history.tenures:
                return None
            tenure = self.history.tenures[-1]
            primary, since = nodes[tenure["node"]], max(tenure["at"], now() - self._recent_s)
            rested = now() - max(self._started_at.values()) > self._settings.lease_max_s + 0.5
            if not rested or self.history.commit_since(since, primary.name) is None:
                time.sleep(0.05)
                return None
            members = primary.members()
            behind = sum(s["lag_bytes"] or 0 for member in members.values() for s in member["streams"])
            few = [len(m["streams"]) for m in members.values()] != [self._options.streams] * 3
            roles = sorted(member["role"] for member in members.values())
            if roles != ["backup", "backup", "primary"] or few or behind > 5000:
                time.sleep(0.05)
                return None
            if members[primary.name]["leader"] != primary.name:
                return None
            return primary

        primary: Node = self._wait(well, "a healthy cluster")
        return primary

    def _leave_behind(self, primary: Node) -> Callable[[], None]:
        """Have the other engine's node miss a checkpoint of new bytes; what lets it go on."""
        (other,) = {"n1", "n2"} - {primary.name}
        node = self.cluster[other]
        node.stop()
        since = now()
        os.kill(primary.pid, signal.SIGUSR1)
        self._wait(lambda: self.history.commit_since(since + 0.5, primary.name), "a commit without it")
        return node.cont

    def _strike(self, primary: Node) -> Callable[[], None]:
        """Do it; what mends it, once another node has taken over."""
        match self._fault:
            case "engine":
                primary.kill_engine()
            case "worker":
                primary.kill_worker()
            case "node" | "fetch":
                primary.kill()
            case "stop":
                primary.stop()
                return primary.cont
            case "cut":
                assert self._network is not None
                others = [name for name in self.cluster.nodes if name != primary.name]
                cuts = [(primary.name, other) for other in others] + [
                    (other, primary.name) for other in others
                ]
                self._network.cut(*cuts)
                return lambda: self._network.mend(*cuts) if self._network is not None else None
            case "handover":
                with contextlib.suppress(KeyError):
                    primary.hand_over()["ok"]
        return _nothing

    def _lost_elections(self, winner: Node) -> int:
        """How many elections came to nothing before this one was won."""
        found = ELECTED.findall(winner.output().encode()[-TAIL_BYTES:])
        term = int(found[-1]) if found else self._term
        lost = max(0, term - self._term - 1) if self._term else 0
        self._term = max(term, self._term)
        return lost

    def check(self) -> None:
        """Raise if anything committed was lost, or two tenures were active at once."""
        self._wait_until_well()
        for what, wrong in (("lost", self.history.lost()), ("two active", self.history.overlaps())):
            if wrong:
                raise TimeoutError(f"VIOLATION {what}: {wrong[:5]}")


def _nothing() -> None:
    """There is nothing to be undone."""


def _stages(struck_at: float, tenure: Entry) -> dict[str, float]:
    instants = {**tenure["instants"], "handed": tenure["at"]}
    if any(moment not in instants for moment in MOMENTS):
        return {}
    instants["detected"] = max(struck_at, instants["detected"])  # it may be the instant of an earlier tick
    ends = [instants[moment] for moment in MOMENTS]
    return {
        stage: 1000 * (end - begin)
        for stage, begin, end in zip(STAGES, [struck_at, *ends], ends, strict=False)
    }
