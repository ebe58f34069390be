"""The history checker: whether the engines' logs, put together, keep the promises. It takes linear time.

It knows nothing of the code, only of what engines were told (`tests/integration/engine_script.py` writes the
lines). The states of a stream form hash chains, so it can tell ancestors. What was committed, what was
restored (a majority has adopted it before an engine gets it, R9) and what a standby was given have to lie on
one chain, from its root to its deepest state; on one chain a state is an ancestor exactly if its count is
lower. A violation has a kind:

===============  =========================================================================================
lost             a tenure restored nothing of a stream that had a commit before (I3)
rolled back      a tenure restored a state that is older than an earlier commit or restore (I3)
fork             something committed, restored or followed lies beside the chain (I4)
two contents     one position, or one digest, names two states (I4)
corrupt          something committed, restored or followed was never submitted, or has other bytes (I7)
two owners       an epoch has had two tenures (I1)
two active       an older tenure was active at an instant after a newer one was (I9)
backwards        commits of a stream were reported, or given to a standby, in the wrong order (I4)
two outcomes     a ticket ended twice (R17a)
unexpected       an engine's call failed in a way that no fault explains
===============  =========================================================================================

All instants are of one clock, CLOCK_BOOTTIME of the one kernel, so I9 is checked without any allowance.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

Entry = dict[str, Any]
Position = tuple[int, int]

OUTCOMES = ("committed", "superseded", "unknown", "failed")


class Violation(NamedTuple):
    """A promise that was not kept."""

    kind: str
    text: str


class State(NamedTuple):
    """A submitted state: its place in the chain."""

    parent: str
    number: int  # how many states there were before it, and itself
    position: Position


class Reign:
    """One epoch, as the engines saw it."""

    def __init__(self) -> None:
        self.owners: set[tuple[str, int]] = set()  # node and process
        self.restored: dict[str, str] = {}  # stream -> digest
        self.deepest: dict[str, int] = {}  # stream -> the highest count committed
        self.first_active, self.last_active = float("inf"), float("-inf")

    @property
    def has_served(self) -> bool:
        """Whether an engine has got all that it restored."""
        return bool(self.owners)


class Stream:
    """All that is known of one stream."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.states: dict[str, State] = {}  # digest -> state
        self.contents: dict[Position, str] = {}  # position -> digest
        self.kept: dict[str, str] = {}  # digest -> the kind of line that makes it one to keep
        self.outcomes: dict[str, str] = {}

    def chain(self) -> set[str]:
        """The deepest state that must be kept, and all its ancestors."""
        known = [digest for digest in self.kept if digest in self.states]
        digest = max(known, key=lambda each: self.states[each].number, default="")
        chain = set()
        while digest in self.states and digest not in chain:
            chain.add(digest)
            digest = self.states[digest].parent
        return chain


class History:
    """Give it every node's lines, each node's in their order, then ask for the `violations`."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = defaultdict(int)  # lines by kind
        self._streams: dict[str, Stream] = {}
        self._reigns: dict[int, Reign] = defaultdict(Reign)
        self._reported: dict[tuple[Any, ...], int] = {}  # an order -> the last count in it
        self._again: set[tuple[Any, ...]] = set()  # orders of which the last may come once more
        self._lives: dict[str, int] = defaultdict(int)
        self._claims: list[tuple[str, Entry]] = []  # lines on something kept, to be compared with its submit
        self._found: list[Violation] = []

    @classmethod
    def read(cls, logs: Iterable[Path]) -> History:
        """The history in these files, one a node; a last line that was cut off is none."""
        history = cls()
        for log in logs:
            with log.open() as lines:
                for line in lines:
                    if line.endswith("\n"):
                        history.add({"node": log.parent.name, **json.loads(line)})
        return history

    def add(self, entry: Entry) -> None:
        """Take in one line."""
        kind = entry["kind"]
        self.counts[kind] += 1
        if "stream" in entry:
            stream = self._streams.setdefault(entry["stream"], Stream(entry["stream"]))
            self._add_state(kind, entry, stream)
        elif kind == "started":
            self._lives[entry["node"]] += 1
        elif kind in ("tenure", "ended"):  # the engine may have resigned before it had restored everything
            if kind == "tenure":
                self._reigns[entry["epoch"]].owners.add((entry["node"], entry["pid"]))
            self._follow_on(entry["node"])
        elif kind == "corrupt":
            self._note("corrupt", f"{entry['node']}: {entry['error']}")
        elif kind == "error" and not entry["error"].startswith(("TenureEnded", "WorkerFailed")):
            self._note("unexpected", f"{entry['node']}: {entry['error']}")

    def _add_state(self, kind: str, entry: Entry, stream: Stream) -> None:
        digest = entry["digest"]
        if kind == "submitted":
            self._submitted(entry, stream)
        elif kind == "restored":
            self._keep(kind, entry, stream)
            self._reigns[entry["epoch"]].restored[stream.name] = digest
        elif kind == "followed":
            self._keep(kind, entry, stream)
            life = (entry["node"], self._lives[entry["node"]])
            self._in_order((kind, stream.name, *life), entry)
        if kind in OUTCOMES:
            self._ended(kind, entry, stream)

    def _submitted(self, entry: Entry, stream: Stream) -> None:
        digest, position = entry["digest"], tuple(entry["position"])
        if digest in stream.states:
            self._note("two contents", f"{stream.name}: {digest} was submitted twice")
        stream.states[digest] = State(entry["parent"], entry["count"], position)
        before, is_active, after = entry["active"]
        if is_active:
            reign = self._reigns[position[0]]
            reign.first_active = min(reign.first_active, after)
            reign.last_active = max(reign.last_active, before)

    def _ended(self, kind: str, entry: Entry, stream: Stream) -> None:
        digest = entry["digest"]
        if digest in stream.outcomes:
            self._note("two outcomes", f"{stream.name}: {digest} {stream.outcomes[digest]}, then {kind}")
        stream.outcomes[digest] = kind
        if kind == "failed":
            self._note("unexpected", f"{entry['node']}: a ticket of {stream.name} failed: {entry['error']}")
        if kind == "committed":
            self._keep(kind, entry, stream)
            epoch = entry["position"][0]
            self._in_order((kind, stream.name, epoch), entry)
            deepest = self._reigns[epoch].deepest
            deepest[stream.name] = max(deepest.get(stream.name, 0), entry["count"])

    def _keep(self, kind: str, entry: Entry, stream: Stream) -> None:
        stream.kept.setdefault(entry["digest"], f"{kind} on {entry['node']}")
        self._claims.append((kind, entry))

    def _in_order(self, order: tuple[Any, ...], entry: Entry) -> None:
        last = self._reported.get(order, 0)
        if entry["count"] < last or (entry["count"] == last and order not in self._again):
            what = f"{entry['kind']} on {entry['node']}"
            self._note("backwards", f"{entry['stream']}: state {entry['count']} {what} after state {last}")
        self._reported[order] = entry["count"]
        self._again.discard(order)

    def _follow_on(self, node: str) -> None:
        """The engine had a tenure: what became of its states may be lost, and the last may come again."""
        followed = ("followed", node, self._lives[node])
        self._again.update(order for order in self._reported if (order[0], *order[2:]) == followed)

    def _note(self, kind: str, text: str) -> None:
        self._found.append(Violation(kind, text))

    # ── the verdict ──

    def violations(self) -> list[Violation]:
        """All that is wrong; nothing if every promise was kept."""
        found = [*self._found, *self._differences(), *self._two_contents()]
        for stream in self._streams.values():
            found += self._forks(stream)
            found += self._rollbacks(stream)
        return [*found, *self._two_primaries()]

    def _differences(self) -> Iterator[Violation]:
        for kind, entry in self._claims:
            state = self._streams[entry["stream"]].states.get(entry["digest"])
            what = f"{entry['stream']}: {entry['digest']} {kind} on {entry['node']}"
            if state is None:
                yield Violation("corrupt", f"{what} was never submitted")
            elif state.number != entry["count"]:
                yield Violation("corrupt", f"{what} as state {entry['count']}, submitted as {state.number}")

    def _two_contents(self) -> Iterator[Violation]:
        """A position is given once; what is restored or followed keeps the sequence that it had."""
        for stream in self._streams.values():
            for digest, state in stream.states.items():
                other = stream.contents.setdefault(state.position, digest)
                if other != digest:
                    yield Violation(
                        "two contents", f"{stream.name}: {state.position} is {other} and {digest}"
                    )
        for kind, entry in self._claims:
            states = self._streams[entry["stream"]].states
            submitted = states.get(entry["digest"])
            if submitted is not None and submitted.position[1] != entry["position"][1]:
                where = f"{entry['stream']}: {entry['digest']} {kind} on {entry['node']}"
                text = f"{where} at {entry['position']}, submitted at {submitted.position}"
                yield Violation("two contents", text)

    def _forks(self, stream: Stream) -> Iterator[Violation]:
        chain = stream.chain()
        for digest, how in stream.kept.items():
            if digest in stream.states and digest not in chain:
                state = stream.states[digest]
                yield Violation("fork", f"{stream.name}: state {state.number} {state.position}, {how}")

    def _rollbacks(self, stream: Stream) -> Iterator[Violation]:
        floor, source = 0, 0  # the deepest state kept so far, and the epoch that kept it
        for epoch in sorted(self._reigns):
            reign = self._reigns[epoch]
            restored = stream.states.get(reign.restored.get(stream.name, ""))
            count = restored.number if restored is not None else 0
            if stream.name not in reign.restored:
                if floor and reign.has_served:
                    text = f"{stream.name}: epoch {epoch} restored nothing; epoch {source} had state {floor}"
                    yield Violation("lost", text)
            elif count < floor:
                text = f"{stream.name}: epoch {epoch} restored state {count}; epoch {source} had {floor}"
                yield Violation("rolled back", text)
            if (deepest := max(count, reign.deepest.get(stream.name, 0))) > floor:
                floor, source = deepest, epoch

    def _two_primaries(self) -> Iterator[Violation]:
        last, holder = float("-inf"), 0
        for epoch in sorted(self._reigns):
            reign = self._reigns[epoch]
            if len(reign.owners) > 1:
                yield Violation("two owners", f"epoch {epoch}: {sorted(reign.owners)}")
            if reign.first_active < last:
                late_s = last - reign.first_active
                text = f"epoch {holder} was active {late_s:.6f} s after epoch {epoch} had become so"
                yield Violation("two active", text)
            if reign.last_active > last:
                last, holder = reign.last_active, epoch
