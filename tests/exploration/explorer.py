"""The search: breadth first through every state of a small world, each looked at once.

A state is a number per machine, one of the history, and what is left of the world's budgets. Machines,
and what an input makes of one, are remembered by number: the core runs once for each input to each state
of a single machine, however many states of the world these are part of. Visited states are remembered by
a hash of 8 bytes (two of ten million fall together with a chance of 3 in a million).
"""

from __future__ import annotations

import hashlib
import time
from array import array
from collections.abc import Iterator
from struct import Struct as Layout
from typing import NamedTuple

from replicator.core.events import ManifestReceived, Received
from replicator.model import Manifest, NodeId, StreamName
from tests.exploration.judge import Ghost, judge
from tests.exploration.machine import Machine
from tests.exploration.registry import Happened, Input, Registry, Violation
from tests.exploration.worlds import Play, World

Global = tuple[int, ...]  # machines by node, ghost, budgets


class Step(NamedTuple):
    """One input to one machine."""

    node: int  # by its index
    given: Input


class Outcome(NamedTuple):
    """What a search found."""

    world: str
    states: int
    transitions: int
    depth: int
    machines: int
    calls: int
    seconds: float
    complete: bool
    tenures: int  # the most that one path saw, those of the prologue too
    commits: int
    violation: str = ""
    path: tuple[Step, ...] = ()


class Explorer:
    """Searches one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.registry = Registry()
        self.nodes: list[NodeId] = sorted(world.nodes)
        self.machines: list[Machine] = []
        self._ids: dict[bytes, int] = {}
        self._steps: dict[tuple[int, Input], tuple[int, tuple[Happened, ...]] | str] = {}
        self._moves: dict[tuple[object, ...], list[tuple[Input, int, int, int]]] = {}
        self._ghosts: list[Ghost] = []
        self._ghost_ids: dict[Ghost, int] = {}
        self._cost = {name: index for index, name in enumerate(world.budgets)}
        self.calls = 0
        self._pack = Layout(f"<{len(self.nodes) + 1 + len(world.budgets)}I").pack

    # ── numbers ──

    def _number(self, machine: Machine) -> int:
        key = machine.key()
        known = self._ids.get(key)
        if known is None:
            known = self._ids[key] = len(self.machines)
            self.machines.append(machine)
        return known

    def _number_ghost(self, ghost: Ghost) -> int:
        known = self._ghost_ids.get(ghost)
        if known is None:
            known = self._ghost_ids[ghost] = len(self._ghosts)
            self._ghosts.append(ghost)
        return known

    # ── what one machine can do ──

    def _apply(self, machine: int, given: Input) -> tuple[int, tuple[Happened, ...]] | str:
        """The machine after an input, and what happened; or the promise that it broke."""
        known = self._steps.get((machine, given))
        if known is None:
            self.calls += 1
            other = self.machines[machine].copy()
            try:
                other.apply(given)
            except Violation as broken:
                known = str(broken)
            else:
                happened, other.happened = tuple(other.happened), []
                heard, other.heard = other.heard, self.machines[machine].heard
                # What was heard without any effect may as well never have come.
                if self._ids.get(other.key()) != machine:
                    other.heard = heard
                known = (self._number(other), happened)
            self._steps[machine, given] = known
        return known

    def _inputs(self, index: int, machine: Machine) -> Iterator[Input]:
        """What can happen to a machine by itself, whatever the others do."""
        world, node = self.world, self.nodes[index]
        if machine.core is None:
            yield Input("start")
            if "wipe" in self._cost and machine.disk.image.incarnation == world.incarnation(node, 1):
                yield Input("wipe", world.incarnation(node, 2))
            return
        if machine.urgent:
            yield Input("sync", "urgent")
        if machine.payload:  # also what was under way already when a promise came to overtake it
            yield Input("sync", "payload")
        for verb in ("tick", "grant", "revoke", "resign"):
            yield Input(verb)
        for written in range(min(len(machine.urgent or machine.payload), 2) + 1):
            yield Input("crash", written)
        for stream in world.streams if machine.engine.epoch else ():
            yield Input("submit", stream)
            if machine.engine.lines.get(stream, (0, b"", True))[2] is False:
                yield Input("delete", stream)
        for stream in sorted(machine.disk.image.streams):
            if not machine.disk.image.damaged and machine.disk.image.chunks:
                yield Input("rot", stream)

    def _price(self, index: int, given: Input) -> int | None:
        """Which budget an input is paid from: -1 for none, None if the world does not have it at all."""
        if given.verb in ("start", "sync", "deliver", "fetched"):
            return -1
        own = self._cost.get(f"{given.verb} {self.nodes[index]}")
        return own if own is not None else self._cost.get(given.verb)

    def _moves_of(self, state: Global, index: int) -> list[tuple[Input, int, int, int]]:
        """Inputs that change the machine, as (input, price, machine after it, place in happened)."""
        machines = state[: len(self.nodes)]
        machine, node = self.machines[machines[index]], self.nodes[index]
        heard = tuple(
            self.machines[other].sent.get(node, frozenset()) for other in machines if other != machines[index]
        )
        key = (machines[index], *heard) if machine.core is not None else (machines[index],)
        known = self._moves.get(key)
        if known is None:
            inputs = list(self._inputs(index, machine))
            if machine.core is not None:
                for number in sorted(frozenset().union(*heard)):
                    if number in machine.heard:
                        inputs.append(Input("again", number))
                        continue
                    inputs.append(Input("deliver", number))
                    if isinstance(self.registry.packets[number][0], ManifestReceived):
                        inputs.append(Input("bare", number))
            known = self._moves[key] = []
            for given in inputs:
                price = self._price(index, given)
                if price is None:
                    continue
                after = self._apply(machines[index], given)
                if isinstance(after, str):
                    known.append((given, price, -1, 0))
                elif after[0] != machines[index] or after[1]:
                    known.append((given, price, after[0], len(after[1])))
        return known

    def _fetches(self, state: Global, index: int) -> Iterator[tuple[Input, int]]:
        """Fetches that another machine's disk can answer now, and fetches that fail."""
        machine = self.machines[state[index]]
        for stream, effect in sorted(machine.fetches.items()):
            sources = [self.machines[state[self.nodes.index(node)]] for node in effect.sources]
            for source in (machine, *(one for one in sources if one.core is not None)):
                found = _find(source, stream, effect.digest)
                if found is not None:
                    yield Input("fetched", (stream, found)), -1
                    break
            price = self._cost.get("unfetched")
            if price is not None:
                yield Input("unfetched", stream), price

    # ── what the world can do ──

    def successors(self, state: Global) -> Iterator[tuple[Step, Global | str]]:
        """Every step from a state: the state after it, or the promise that it breaks."""
        count = len(self.nodes)
        for index in range(count):
            for given, price, after, happened in self._moves_of(state, index):
                if price >= 0 and not state[count + 1 + price]:
                    continue
                if after < 0:
                    yield Step(index, given), str(self._steps[state[index], given])
                elif not happened:
                    yield Step(index, given), self._moved(state, index, after, state[count], price)
                else:
                    yield Step(index, given), self._judged(state, index, given, price)
            if self.machines[state[index]].fetches:
                for given, price in self._fetches(state, index):
                    if price < 0 or state[count + 1 + price]:
                        yield Step(index, given), self._judged(state, index, given, price)

    def _moved(self, state: Global, index: int, after: int, ghost: int, price: int) -> Global:
        new = list(state)
        new[index], new[len(self.nodes)] = after, ghost
        if price >= 0:
            new[len(self.nodes) + 1 + price] -= 1
        return tuple(new)

    def _judged(self, state: Global, index: int, given: Input, price: int) -> Global | str:
        after = self._apply(state[index], given)
        if isinstance(after, str):
            return after
        moved = self._moved(state, index, after[0], 0, price)
        machines = [self.machines[each] for each in moved[: len(self.nodes)]]
        accepted = {
            (str(node), bytes(m.disk.image.incarnation)): m.accepted
            for node, m in zip(self.nodes, machines, strict=True)
        }

        def took(replica: tuple[str, bytes], stream: str, epoch: int) -> int:
            known = accepted.get(replica)
            return 2**62 if known is None else known.get((stream, epoch), 0)

        ghost = self._ghosts[state[len(self.nodes)]]
        try:
            for event in after[1]:
                ghost = judge(ghost, event, self.registry, took)
        except Violation as broken:
            return str(broken)
        return self._moved(state, index, after[0], self._number_ghost(ghost), price)

    # ── the search ──

    def start(self) -> Global:
        """The world's first state: its machines started, and its prologue played."""
        machines = [self._number(self.world.machine(node, self.registry)) for node in self.nodes]
        state: Global = (*machines, self._number_ghost(Ghost()), *self.world.budgets.values())
        for node in self.nodes:
            state = self._play(state, node, Input("start"))
        state = self._play_all(state, self.world.prologue)
        if not self.world.replays:
            for index in range(len(self.nodes)):
                machine = self.machines[state[index]].copy()
                machine.sent, machine.heard = {}, frozenset()
                state = self._moved(state, index, self._number(machine), state[len(self.nodes)], -1)
        return self._play_all(state, self.world.opening)

    def _play_all(self, state: Global, plays: tuple[Play, ...]) -> Global:
        for play in plays:
            state = self._settle(state, play) if isinstance(play, frozenset) else self._play(state, *play)
        return state

    def _play(self, state: Global, node: NodeId, given: Input) -> Global:
        after = self._judged(state, self.nodes.index(node), given, -1)
        if isinstance(after, str):
            raise Violation(after)
        return after

    def _settle(self, state: Global, among: frozenset[NodeId]) -> Global:
        """Everything that some nodes say to each other arrives, and their disks do what is queued."""
        while True:
            before = state
            for node in sorted(among):
                for given in self._due(state, node, among):
                    state = self._play(state, node, given)
            if state == before:
                return state

    def _due(self, state: Global, node: NodeId, among: frozenset[NodeId]) -> list[Input]:
        index = self.nodes.index(node)
        machine = self.machines[state[index]]
        writes = [Input("sync", "urgent")] * len(machine.urgent) + [Input("sync", "payload")] * len(
            machine.payload
        )
        others = [self.machines[state[self.nodes.index(other)]] for other in sorted(among - {node})]
        sent = frozenset().union(*(other.sent.get(node, frozenset()) for other in others))
        fetches = [given for given, _ in self._fetches(state, index) if given.verb == "fetched"]
        return writes or [Input("deliver", number) for number in sorted(sent - machine.heard)] or fetches

    def explore(self, states_max: int, depth_max: int, seconds_max: float) -> Outcome:
        """Search until everything is seen, a promise is broken, or a limit is reached."""
        begun = time.monotonic()
        try:
            first = self.start()
        except Violation as broken:
            return self._outcome(set(), 0, 0, begun, False, str(broken))
        seen = {self._hash(first)}
        frontier = [(0, first)]
        parents, steps = array("I", [0]), [Step(0, Input("start"))]
        transitions = depth = 0
        while frontier and depth < depth_max:
            following: list[tuple[int, Global]] = []
            for number, state in frontier:
                for step, after in self.successors(state):
                    transitions += 1
                    if isinstance(after, str):
                        path = (*self._path(parents, steps, number), step)
                        return self._outcome(seen, transitions, depth + 1, begun, False, after, path)
                    hashed = self._hash(after)
                    if hashed in seen:
                        continue
                    seen.add(hashed)
                    following.append((len(parents), after))
                    parents.append(number)
                    steps.append(step)
                if len(seen) >= states_max or time.monotonic() - begun > seconds_max:
                    return self._outcome(seen, transitions, depth + 1, begun, False)
            frontier = following
            depth += 1
        return self._outcome(seen, transitions, depth - (not frontier), begun, not frontier)

    def tell(self, step: Step) -> str:
        """A step in words."""
        subject = step.given.subject
        if step.given.verb in ("deliver", "again", "bare"):
            packet = self.registry.packets[subject]
            subject = " ".join(str(e.message if isinstance(e, Received) else e) for e in packet)
            subject = f"from {packet[0].node}: {subject}"
        return f"{self.nodes[step.node]} {step.given.verb} {'' if subject is None else subject}"

    def _hash(self, state: Global) -> bytes:
        return hashlib.blake2b(self._pack(*state), digest_size=8).digest()

    @staticmethod
    def _path(parents: array[int], steps: list[Step], number: int) -> tuple[Step, ...]:
        path: list[Step] = []
        while number:
            path.append(steps[number])
            number = parents[number]
        return tuple(reversed(path))

    def _outcome(
        self, seen: set[bytes], transitions: int, depth: int, begun: float, complete: bool,
        violation: str = "", path: tuple[Step, ...] = (),
    ) -> Outcome:  # fmt: skip
        return Outcome(
            self.world.name, len(seen), transitions, depth, len(self.machines), self.calls,
            time.monotonic() - begun, complete, max((len(ghost.begun) for ghost in self._ghosts), default=0),
            max((len(ghost.committed) for ghost in self._ghosts), default=0), violation, path,
        )  # fmt: skip


def _find(machine: Machine, stream: StreamName, digest: bytes) -> Manifest | None:
    """The manifest of a digest, from a disk that can read it whole."""
    image = machine.disk.image
    for retained in image.streams.get(stream, ()):
        if retained.manifest.digest == digest and image.readable(retained.manifest):
            return retained.manifest
    return None
