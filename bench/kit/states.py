"""Kinds of state that change a little between checkpoints, as engines really keep them.

Each has `step()`, which changes about the hundredth part and gives what is to be checkpointed, and how many
bytes of it the engine would say have changed (of an insertion: what was inserted, not what it shifted).
"""

from __future__ import annotations

import pickle
import random
import sqlite3
from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

from bench.kit.commits import Payload
from bench.kit.payloads import KIB, MIB, realistic

PAGE_BYTES = 4 * KIB
SHARE = 0.01


class State(Protocol):
    """One kind of state."""

    def step(self) -> tuple[Payload, int]:
        """Change a little; the new state and how many bytes changed."""


class Parts:
    """16 MiB as a mapping of 1,024 operator states of 16 KiB, ten of which change."""

    COUNT, BYTES = 1024, 16 * KIB

    def __init__(self) -> None:
        self._chance = random.Random(1)
        whole = bytes(realistic(self.COUNT * self.BYTES))
        cuts = range(0, len(whole), self.BYTES)
        self._parts = {f"op-{n:04d}": whole[cut : cut + self.BYTES] for n, cut in enumerate(cuts)}

    def step(self) -> tuple[Payload, int]:
        for name in self._chance.sample(sorted(self._parts), round(self.COUNT * SHARE)):
            part = self._parts[name]
            self._parts[name] = (
                bytes(reversed(part[:PAGE_BYTES])) + self._chance.randbytes(8) + part[PAGE_BYTES + 8 :]
            )
        return dict(self._parts), round(self.COUNT * SHARE) * (PAGE_BYTES + 8)


class Range:
    """64 MiB in one buffer, of which one range is written anew, in place."""

    def __init__(self, size: int = 64 * MIB) -> None:
        self._chance, self._buffer = random.Random(2), realistic(size)
        self._fresh = realistic(round(size * SHARE), seed=7)

    def step(self) -> tuple[Payload, int]:
        self._fresh[::PAGE_BYTES] = self._chance.randbytes(len(self._fresh[::PAGE_BYTES]))
        start = self._chance.randrange(len(self._buffer) - len(self._fresh))
        self._buffer[start : start + len(self._fresh)] = self._fresh
        return self._buffer, len(self._fresh)


class Pages:
    """64 MiB in one buffer, of which scattered pages of 4 KiB are written anew, in place."""

    def __init__(self, size: int = 64 * MIB) -> None:
        self._chance, self._buffer = random.Random(3), realistic(size)
        self._source = bytes(realistic(MIB, seed=8))

    def step(self) -> tuple[Payload, int]:
        pages = len(self._buffer) // PAGE_BYTES
        changed = self._chance.sample(range(pages), round(pages * SHARE))
        for page in changed:
            source = self._chance.randrange(MIB - PAGE_BYTES)
            start = page * PAGE_BYTES
            self._buffer[start : start + PAGE_BYTES] = self._source[source : source + PAGE_BYTES]
        return self._buffer, len(changed) * PAGE_BYTES


class Sqlite:
    """A SQLite database of about 16 MiB, serialised; rows by random keys are updated."""

    ROWS = 120_000

    def __init__(self) -> None:
        self._chance = random.Random(4)
        self._base = sqlite3.connect(":memory:", isolation_level=None)
        self._base.execute("CREATE TABLE state (key TEXT PRIMARY KEY, count INTEGER, value REAL, note TEXT)")
        rows = [(f"sensor-{n:08d}", n, n / 7, f"warm since {n * 31 % 86400}") for n in range(self.ROWS)]
        self._base.executemany("INSERT INTO state VALUES (?, ?, ?, ?)", rows)
        self._last = self._base.serialize()

    def step(self) -> tuple[Payload, int]:
        keys = [
            f"sensor-{self._chance.randrange(self.ROWS):08d}" for _ in range(round(self.ROWS * SHARE / 10))
        ]
        for key in keys:
            value = self._chance.random()
            self._base.execute("UPDATE state SET count = count + 1, value = ? WHERE key = ?", (value, key))
        image = self._base.serialize()
        changed = _changed_pages(self._last, image) * PAGE_BYTES
        self._last = image
        return image, changed


class Insertions:
    """A dictionary in the order of its keys, pickled, about 16 MiB: new keys shift all that comes after."""

    KEYS = 150_000

    def __init__(self) -> None:
        self._chance = random.Random(5)
        self._state = {self._key(n * 100): self._value() for n in range(self.KEYS)}

    def step(self) -> tuple[Payload, int]:
        added = {self._key(self._chance.randrange(self.KEYS * 100)): self._value() for _ in range(20)}
        self._state = dict(sorted((self._state | added).items()))
        return pickle.dumps(self._state, protocol=5), len(pickle.dumps(added, protocol=5))

    def _key(self, number: int) -> str:
        return f"sensor-{number:010d}"

    def _value(self) -> tuple[int, float, str]:
        return (
            self._chance.randrange(100_000),
            self._chance.gauss(20, 8),
            f"note {self._chance.random():.12f}",
        )


class River:
    """An online-learning model of river, a forest of trees, pickled after fifty more events."""

    def __init__(self) -> None:
        forest = import_module("river.forest")
        self._chance = random.Random(6)
        self._model: Any = forest.ARFClassifier(n_models=10, seed=1)
        self._learn(4000)
        self._bytes = len(pickle.dumps(self._model, protocol=5))

    def step(self) -> tuple[Payload, int]:
        self._learn(50)
        return pickle.dumps(self._model, protocol=5), 0

    def _learn(self, events: int) -> None:
        for _ in range(events):
            x = {f"f{n}": self._chance.gauss(0, 1) for n in range(12)}
            self._model.learn_one(x, x["f1"] + x["f2"] * x["f3"] > 0)


KINDS: dict[str, Callable[[], State]] = {
    "mapping, 1 % of the parts": Parts,
    "buffer, one range of 1 %": Range,
    "buffer, 1 % in 4 KiB pages": Pages,
    "SQLite, 0.1 % of the rows": Sqlite,
    "pickled dict, 20 insertions": Insertions,
    "pickled river forest, 50 events": River,
}


def _changed_pages(old: bytes, new: bytes) -> int:
    starts = range(0, max(len(old), len(new)), PAGE_BYTES)
    return sum(old[n : n + PAGE_BYTES] != new[n : n + PAGE_BYTES] for n in starts)
