"""The store and its twin, with a death or a power loss between any two of the store's writes."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from copy import deepcopy
from itertools import product
from math import inf
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

from hypothesis import strategies as st
from hypothesis.stateful import rule
from msgspec import Struct, structs

from replicator.adapters import store, store_journal, store_payload, store_writer
from replicator.adapters.ports import StoreEffect
from replicator.adapters.store_record import Durability
from replicator.core.effects import MarkCommitted, RememberCounters
from replicator.core.events import Accepted, Event, HeadsAdopted, PromiseWritten
from tests.adapters.power.image import Disk, Fate, Kind
from tests.adapters.power.recorder import Recorder, recording
from tests.adapters.store_kit import Opened
from tests.adapters.twin import STREAMS, StoreAndTwin, World, agree

BATCH_BYTES_MAX = 8_000
# So small that a few batches fill the journal, go past it, or wait no longer for the environment.
LIMITS = (
    (store_journal, "JOURNAL_BYTES", 8 * store_journal.BLOCK_BYTES),
    (store_payload, "BATCH_BYTES_MAX", BATCH_BYTES_MAX),
    (store_payload, "NEWER_KEYS_MAX", 14),
    (store_writer, "IDLE_S", 0),
    (store_writer, "SWEEP_S", 0),
)
LARGE = bytes(9_000)
FATES = st.builds(Fate, st.sampled_from(("lost", "kept", "writes", "sectors")), st.integers(0, 2**16))
Part = Literal["meta", "payload"]
PARTS: tuple[Part, ...] = ("meta", "payload")


class Stepped(Opened):
    """A store whose writer takes its steps in the caller's thread, so that each run is the same."""

    def __init__(self, path: Path, recorder: Recorder, **settings: Any) -> None:
        self._recorder = recorder
        self.answered: dict[Part, int] = {}  # how many calls there were before the newest durable answer
        super().__init__(path, **settings)

    def start(self) -> None:
        self.store._writer._deliver = self._deliver

    def _deliver(self, event: Event) -> None:
        if isinstance(event, PromiseWritten):
            self.answered["meta"] = len(self._recorder.calls)
        elif isinstance(event, Accepted | HeadsAdopted):
            self.answered["payload"] = len(self._recorder.calls)
        self.events.put(event)

    def perform(self, effect: StoreEffect) -> None:
        super().perform(effect)
        if not isinstance(effect, MarkCommitted | RememberCounters):
            self.step()

    def step(self) -> None:
        """One batch, or what the writer does when there is nothing to do."""
        self.store._writer._step()


class Moment(Struct, frozen=True):
    """What was asked for so far, and between which calls: it may be on the disk after more than *begun* of
    them; of each environment that answered it has to be, after *answered*."""

    world: World
    begun: int
    answered: dict[Part, int]


class StoreAndPower(StoreAndTwin):
    """After a power loss the store opens, and holds what the twin held at one moment: not before the
    newest durable answer, not after the newest question."""

    opened: Stepped
    durability: Durability = "disk"
    _boots: int = 0

    def __init__(self) -> None:
        self._limits = ExitStack()
        for module, name, limit in LIMITS:
            self._limits.enter_context(patch.object(module, name, limit))
        self._limits.enter_context(patch.object(store, "boot_id", lambda: f"boot {self._boots}"))
        self._recording = ExitStack()
        super().__init__()

    def teardown(self) -> None:
        super().teardown()
        self._recording.close()
        self._limits.close()

    def open(self, path: Path) -> None:
        path.mkdir()
        self._record(path)
        self.opened = self._stepped(path)
        self._begin(self.world, founded=False)

    def _stepped(self, root: Path) -> Stepped:
        return Stepped(root / "store", self.recorder, durability=self.durability)

    def _record(self, root: Path) -> None:
        """All that is in *root* is on the disk; from here on calls count."""
        self._recording.close()
        self.recorder = self._recording.enter_context(recording(root))
        self._disk = Disk.of(root)

    def _begin(self, world: World, *, founded: bool) -> None:
        """The store has been opened and holds that; it may have been *founded* before."""
        self._founded = 0 if founded else len(self.recorder.calls)
        self.transfers = {}
        self.world = world.copy()
        self._moments = [Moment(self.world.copy(), 0, dict.fromkeys(PARTS, 0))]
        self._ended = 0

    # ── what the twin does too ──

    def write_hints(self) -> None:
        """Hints wait for a batch: nothing is written only to compare."""

    def settled(self) -> None:
        self._moments.append(Moment(self.world.copy(), self._ended, self.opened.answered))
        self._ended = len(self.recorder.calls)
        self.opened.answered = {}

    @rule()
    def idle(self) -> None:
        """The writer has time: for hints, for what only the journal has, for garbage."""
        self.world.flush()
        self.opened.step()
        self.settled()

    @rule(stream=st.sampled_from(STREAMS), large=st.booleans(), early=st.booleans())
    def accept_more(self, stream: str, large: bool, early: bool) -> None:
        """Chunks may be too large for the journal, and may be written before their checkpoint is."""
        sequence = self.sequence(stream) + 1
        pieces = (LARGE if large else b"small", f"{stream} {sequence}".encode())
        manifest = self.bring(stream, sequence, *pieces)
        if early:
            self.idle()
        self.ask(manifest, max(self.world.promised, 0))

    @rule()
    def reopen(self) -> None:
        """Close it in order, and open it again; what was on its way to the disk goes on."""
        self.opened.store.close()
        self.world.flush()
        self.settled()
        self.opened = self._stepped(self.opened.path.parent)
        self._says_what_it_holds()

    def _says_what_it_holds(self) -> None:
        """It has been opened: that is an answer."""
        self.opened.answered = dict.fromkeys(PARTS, len(self.recorder.calls))
        self.transfers = {}
        self.settled()

    # ── deaths and power losses ──

    @rule(back=st.integers(0, 12) | st.integers(0, 300), fate=FATES)
    def lose_power(self, back: int, fate: Fate) -> None:
        """At one of the newest calls; the store goes on from what is left."""
        at = max(len(self.recorder.calls) - back, 0)
        for call in self.recorder.calls[:at]:
            self._disk.add(call)
        self.opened.store.close()
        root = self._root()
        self._boots += 1
        self._disk.power_loss(root, fate)
        self._record(root)
        world = self._again(root, at)
        self._begin(world, founded=at >= self._founded)

    @rule(back=st.integers(0, 12) | st.integers(0, 300))
    def kill(self, back: int) -> None:
        """At one of the newest calls: the operating system still has all of them, waited for or not, and
        will lose none but with its power. Another process goes on from there."""
        at = max(len(self.recorder.calls) - back, 0)
        calls = self.recorder.calls[:at]
        self.opened.store.close()
        cached = deepcopy(self._disk)
        for call in calls:
            cached.add(call)
        root = self._root()
        cached.power_loss(root, Fate("kept"))
        self._recording.close()
        self.recorder = self._recording.enter_context(recording(root))
        self.recorder.calls += calls
        self.world = self._again(root, at).copy()
        if at < self._founded:
            self._founded = len(self.recorder.calls)
        self._moments = [
            structs.replace(moment, answered={part: n for part, n in moment.answered.items() if n <= at})
            for moment in self._moments
            if not moment.begun or moment.begun < at
        ]
        self._ended = at
        self._says_what_it_holds()

    def lose_power_everywhere(self, kinds: tuple[Kind, ...], since: int = 0, times: int = 1) -> int:
        """After each call so far from number *since* on, each time in a copy, so many *times* with each kind
        of fate; return how many power losses that were."""
        self._boots += 1
        count = 0
        for at, call in enumerate(tuple(self.recorder.calls), 1):
            self._disk.add(call)
            for number, kind in enumerate(kinds * times if at > since else ()):
                root = self._root()
                self._disk.power_loss(root, Fate(kind, seed=at + 1000 * (number // len(kinds))))
                opened = self._stepped(root)
                try:
                    self._found(opened, at)
                finally:
                    opened.store.close()
                    shutil.rmtree(root)
                count += 1
        return count

    def _again(self, root: Path, at: int) -> World:
        """Open what lies there after so many calls; return the world that it holds."""
        opened = self._stepped(root)
        try:
            world = self._found(opened, at)
        except BaseException:
            opened.store.close()
            raise
        self.opened = opened
        return world

    def _root(self) -> Path:
        self.copies += 1
        return self.directory / str(self.copies)

    def _found(self, opened: Stepped, at: int) -> World:
        """The world that the store holds after a death or a power loss behind so many calls."""
        is_same = opened.durable.incarnation == self.opened.durable.incarnation
        if is_same or at < self._founded:
            return _held(opened, self._allowed(at))
        assert self.durability == "memory", "another incarnation"
        return _held(opened, [World()])

    def _allowed(self, at: int) -> list[World]:
        """What the disk may hold after so many calls, the newest first; a promise answers for itself."""
        return [
            structs.replace(payload, promised=meta.promised, promises=meta.promises)
            for meta, payload in product(self._may_be("meta", at), self._may_be("payload", at))
        ]

    def _may_be(self, part: Part, at: int) -> list[World]:
        """From the newest answer that *part* gave on, the newest first."""
        moments = list(enumerate(self._moments))
        oldest = max(n for n, moment in moments if moment.answered.get(part, inf) <= at)
        newest = max(n for n, moment in moments if n <= oldest or moment.begun < at)
        return [moment.world for _, moment in reversed(moments[oldest : newest + 1])]


class StoreInMemory(StoreAndPower):
    """Payload that is never waited for is given up along with the incarnation, but for a store that was
    closed in order (R13, R20)."""

    durability = "memory"


def _held(opened: Stepped, allowed: list[World]) -> World:
    """The world that the store holds; the first of them that it should hold, if it is none."""
    differences = []
    for world in allowed:
        try:
            agree(opened, world, frozenset())
        except AssertionError as error:
            differences.append(error)
        else:
            return world
    raise differences[0]
