"""A fixed run of the store, with each way in which it writes, and a power loss after each of its calls."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

from replicator.adapters import store_payload
from replicator.errors import StoreFull
from tests.adapters.power.image import Kind
from tests.adapters.power.machine import StoreAndPower

KINDS: tuple[Kind, ...] = ("lost", "kept", "writes", "sectors")


class FullAtFirst(StoreAndPower):
    """A store that finds no room for its journal when it is made, and makes it when it is opened again."""

    def open(self, path: Path) -> None:
        with patch.object(store_payload, "Journal", side_effect=StoreFull("no room")):
            super().open(path)


class LaidOut(StoreAndPower):
    """A store whose directories are there before it is made, as those leave them who lay out volumes."""

    def _record(self, root: Path) -> None:
        if not (root / "store").exists():
            for part in ("meta", "payload"):
                (root / "store" / part).mkdir(parents=True)
        super()._record(root)


def run(machine: StoreAndPower) -> None:
    """Checkpoints small and large, with their chunks or after them, hints, take-overs, tombstones, restarts,
    and more than the journal has room for."""
    machine.begin()
    machine.reopen()
    machine.accept_more("a", large=False, early=True)
    machine.accept_more("b", large=True, early=False)
    machine.accept_more("b", large=True, early=True)
    machine.mark("b", 1, 4)
    machine.remember("edge-2", 5)
    machine.idle()
    machine.advance("c", 4, marked=True)
    machine.take_over(2, frozenset("a"))
    machine.accept("c", 1, 0, b"x", False, True)
    machine.forget_one("c")
    for _ in range(2):
        for stream in ("a", "b", "c"):
            machine.advance(stream, 4, marked=True)
        machine.reopen()


def lose_power_everywhere(kind: type[StoreAndPower]) -> int:
    """Run it; after each call lose power, with each kind of fate; return how often that was."""
    machine = kind()
    try:
        run(machine)
        return machine.lose_power_everywhere(KINDS)
    finally:
        machine.teardown()


def kill_and_lose_power_everywhere(kind: type[StoreAndPower]) -> int:
    """Make a store; kill it after each call of that, let another process go on and answer, and lose power
    after each call of it; return how often that was."""
    losses = back = 0
    while True:
        machine = kind()
        try:
            machine.reopen()
            machine.promise(1)
            machine.accept_more("a", large=False, early=False)
            at = len(machine.recorder.calls) - back
            if at < 0:
                return losses
            machine.kill(back)
            machine.promise(1)
            machine.accept_more("a", large=False, early=False)
            losses += machine.lose_power_everywhere(("lost", "sectors"), since=at)
            back += 1
        finally:
            machine.teardown()


def change_durability_and_lose_power(kind: type[StoreAndPower], *, full: bool = False) -> int:
    """Checkpoints that no root page on the disk names yet; kill it, open it with the other durability,
    perhaps on a disk without room for more, and lose power after each call of that; of a store in memory,
    which is given up before, after the last one alone. Return how often that was."""
    machine = kind()
    try:
        machine.reopen()
        machine.promise(1)
        for stream in ("a", "b"):
            machine.accept_more(stream, large=kind.durability == "memory", early=False)
        at = len(machine.recorder.calls)
        machine.durability = "memory" if kind.durability == "disk" else "disk"
        no_room = patch.object(store_payload.Payload, "_apply", side_effect=StoreFull("no room"))
        with no_room if full else nullcontext():
            machine.kill(0)
        if machine.durability == "disk":
            at = len(machine.recorder.calls) - 1
        return machine.lose_power_everywhere(KINDS, since=at, times=12)
    finally:
        machine.teardown()
