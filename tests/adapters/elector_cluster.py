"""A cluster of electors in virtual time, over a network that loses, delays, cuts and repeats.

PySyncObj reads one clock, `syncobj.monotonicTime`; here it is the cluster's own, so minutes pass in
milliseconds, and a seed gives the same run again (as long as PYTHONHASHSEED is the same, too). A frozen node
neither ticks nor receives: what comes for it waits, and is handed in, as a driver does, before its next tick.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from pysyncobj import syncobj

from replicator.adapters.elector import PySyncObjElector
from replicator.model import NodeId

LATENCY_S = 0.001


class Host:
    """One node: its elector, whether it is running, and what waits for it while it is frozen."""

    def __init__(self, name: NodeId, elector: PySyncObjElector) -> None:
        self.name = name
        self.elector = elector
        self.frozen = False
        self.alive = True
        self.waiting: list[tuple[NodeId, bytes]] = []


class Cluster:
    """Electors named *names*, started at slightly different moments; *timers* are theirs."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, names: Iterable[str] = "abc", *, seed: int = 1, **timers: Any
    ) -> None:
        self.names = [NodeId(name) for name in names]
        self.timers = timers
        self.now = 1000.0
        self.random = random.Random(seed)
        random.seed(seed)  # PySyncObj and the elector draw their timeouts from the global source
        self.cuts: set[tuple[NodeId, NodeId]] = set()
        self.loss = 0.0
        self.repeat = 0.0
        self.history: list[tuple[float, NodeId, bool]] = []
        self.sent: list[tuple[NodeId, NodeId, bytes]] = []
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._arrives_at: dict[tuple[NodeId, NodeId], float] = {}
        monkeypatch.setattr(syncobj, "monotonicTime", lambda: self.now)
        self.hosts: dict[NodeId, Host] = {}
        for name in self.names:
            self.start(name)

    # ── nodes ──

    def start(self, name: str, *, electable: bool = True) -> PySyncObjElector:
        """Start (or start again, with nothing remembered) the node *name*."""
        node = NodeId(name)
        elector = PySyncObjElector(
            node,
            frozenset(self.names),
            send=lambda to, payload: self._send(node, to, payload),
            on_grant=lambda: self.history.append((self.now, node, True)),
            on_revoke=lambda: self.history.append((self.now, node, False)),
            **self.timers,
        )
        elector.set_electable(electable)
        host = self.hosts[node] = Host(node, elector)
        self._at(self.now + self.random.random() * elector.tick_interval_s, lambda: self._tick(host))
        return elector

    def kill(self, name: str) -> None:
        """Stop the node without a word."""
        self.hosts[NodeId(name)].alive = False

    def freeze(self, name: str) -> None:
        """SIGSTOP."""
        self.hosts[NodeId(name)].frozen = True

    def thaw(self, name: str) -> None:
        """SIGCONT: what has arrived is handed in, then the node ticks."""
        host = self.hosts[NodeId(name)]
        host.frozen = False
        waiting, host.waiting = host.waiting, []
        for sender, payload in waiting:
            host.elector.receive(sender, payload)
        self._tick(host)

    def stall(self, name: str, seconds: float) -> None:
        """Freeze the node now, and thaw it after *seconds*."""
        self.freeze(name)
        self._at(self.now + seconds, lambda: self.thaw(name))

    def __getitem__(self, name: str) -> PySyncObjElector:
        return self.hosts[NodeId(name)].elector

    # ── network ──

    def cut(self, one: str, other: str, *, both_ways: bool = True) -> None:
        """Lose everything from *one* to *other*."""
        self.cuts.add((NodeId(one), NodeId(other)))
        if both_ways:
            self.cuts.add((NodeId(other), NodeId(one)))

    def isolate(self, name: str) -> None:
        for other in self.names:
            if other != name:
                self.cut(name, other)

    def heal(self) -> None:
        self.cuts.clear()

    def _send(self, sender: NodeId, to: NodeId, payload: bytes) -> bool:
        self.sent.append((sender, to, payload))
        copies = 1 + (self.random.random() < self.repeat)
        if (sender, to) in self.cuts or self.random.random() < self.loss:
            copies = 0
        for _ in range(copies):
            at = self.now + LATENCY_S * self.random.uniform(0.5, 1.5)
            at = self._arrives_at[sender, to] = max(at, self._arrives_at.get((sender, to), 0.0))
            self._at(at, lambda: self._arrive(sender, to, payload))
        return True

    def _arrive(self, sender: NodeId, to: NodeId, payload: bytes) -> None:
        host = self.hosts[to]
        if host.frozen:
            host.waiting.append((sender, payload))
        elif host.alive:
            host.elector.receive(sender, payload)

    # ── time ──

    def run(self, seconds: float) -> None:
        """Let virtual time pass."""
        end = self.now + seconds
        while self._due and self._due[0][0] <= end:
            self._step()
        self.now = end

    def run_until(self, condition: Callable[[], bool], *, limit_s: float = 10.0) -> float:
        """Let time pass until *condition* holds; how long that took."""
        start = self.now
        while not condition():
            self._step()
            assert self.now - start <= limit_s, f"not within {limit_s} s: {self}"
        return self.now - start

    def elect(self, *, limit_s: float = 10.0) -> str:
        """Wait until one node leads and all that run agree; its name."""
        self.run_until(lambda: self.agreed() is not None, limit_s=limit_s)
        return str(self.agreed())

    def agreed(self) -> NodeId | None:
        """The one leader, if all running nodes name it."""
        views = {host.elector.leader for host in self._running()}
        leader = views.pop() if len(views) == 1 else None
        return leader if self.leaders() == [leader] else None

    def leaders(self) -> list[NodeId]:
        """Who, of those that run, believes that it leads."""
        return [host.name for host in self._running() if host.elector.leading]

    def followers(self) -> list[str]:
        return [host.name for host in self._running() if not host.elector.leading]

    def terms(self) -> list[int]:
        return [host.elector.term for host in self._running()]

    def close(self) -> None:
        for host in self.hosts.values():
            host.elector.close()

    def __repr__(self) -> str:
        views = {h.name: (h.elector.leading, h.elector.leader, h.elector.term) for h in self._running()}
        return f"t={self.now:.3f} (leading, leader, term)={views}"

    def _running(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.alive and not host.frozen]

    def _tick(self, host: Host) -> None:
        if host.alive and not host.frozen and self.hosts[host.name] is host:
            host.elector.tick(self.now)
            self._at(self.now + host.elector.tick_interval_s, lambda: self._tick(host))

    def _at(self, at: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (at, next(self._order), act))

    def _step(self) -> None:
        at, _, act = heapq.heappop(self._due)
        self.now = max(self.now, at)
        act()
