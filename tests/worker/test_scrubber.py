"""The scrubber's thread: what goes wrong in one step does not end it, and closing waits for none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from replicator.core.events import HeadRotten
from replicator.errors import StoreDamaged
from replicator.model import Digest, StreamName
from replicator.worker import scrubber as scrubber_module
from replicator.worker.scrubber import STEP_S_MAX, Scrubber
from tests.worker.nodes import wait_until

ROT = (StreamName("orders"), Digest(bytes(32)))


class Quiet:
    """Nobody comes upon anything."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    def wait_for_rot(self, timeout_s: float | None, is_wanted: Callable[[], bool]) -> list[Any]:
        self.ended.wait(timeout_s)
        return []

    def end_wait(self) -> None:
        self.ended.set()


class FakeStore(Quiet):
    """Fails in its first step, finds rot in the next."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.errors = [error]

    def usage(self) -> dict[str, int]:
        return {"stored_bytes": 1}

    def scrub(self, budget_bytes: int, is_wanted: Callable[[], bool]) -> list[tuple[StreamName, Digest]]:
        if self.errors:
            raise self.errors.pop()
        return [ROT]


@pytest.mark.parametrize("error", [StoreDamaged("foreseen"), KeyError("a bug")])
def test_scrubbing_goes_on_after_an_error(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Foreseen or not: it is logged, and the rot that the next step finds is told (R22)."""
    found: list[HeadRotten] = []
    told = threading.Event()

    def deliver(event: HeadRotten) -> None:
        found.append(event)
        told.set()

    scrubber = Scrubber(cast(Any, FakeStore(error)), deliver, 0.001)
    try:
        assert told.wait(5)
    finally:
        scrubber.close()
    assert found[0] == HeadRotten(*ROT)
    assert "scrub failed" in caplog.text


class LargeStore(Quiet):
    """One step goes on for as long as it is wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.broken_off = False

    def usage(self) -> dict[str, int]:
        return {"stored_bytes": 2**40}

    def scrub(self, budget_bytes: int, is_wanted: Callable[[], bool]) -> list[tuple[StreamName, Digest]]:
        self.begun.set()
        wait_until(lambda: not is_wanted(), "the end of it")
        self.broken_off = True
        return []


def test_closing_breaks_a_step_off() -> None:
    """A step grows with the store: whoever waited for the end of it would be killed before."""
    store = LargeStore()
    scrubber = Scrubber(cast(Any, store), lambda event: None, 1.0)
    try:
        assert store.begun.wait(5)
    finally:
        scrubber.close()
    assert store.broken_off


class Suspicious(Quiet):
    """Others come upon rot, again and again, and nothing is to be walked over."""

    def __init__(self, rounds: list[list[tuple[StreamName, Digest]]]) -> None:
        super().__init__()
        self.rounds = rounds

    def wait_for_rot(self, timeout_s: float | None, is_wanted: Callable[[], bool]) -> list[Any]:
        assert timeout_s is None
        if not self.rounds:
            self.ended.wait()
            return []
        return self.rounds.pop(0)


def test_what_others_come_upon_is_told_though_nothing_is_scrubbed() -> None:
    """Each once, however many come upon it, and again when it has rotted anew; closing ends the wait."""
    other = (StreamName("totals"), Digest(b"t" * 32))
    store = Suspicious([[ROT], [ROT, other], [other], [], [other]])
    found: list[HeadRotten] = []
    scrubber = Scrubber(cast(Any, store), found.append, 0)
    wait_until(lambda: not store.rounds and len(found) == 3, "all of it")
    scrubber.close()
    assert found == [HeadRotten(*ROT), HeadRotten(*other), HeadRotten(*other)]


class Provoked(Quiet):
    """A peer asks again and again for what has rotted, and the step is not due for a long time."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def wait_for_rot(self, timeout_s: float | None, is_wanted: Callable[[], bool]) -> list[Any]:
        assert timeout_s is not None
        assert 0 < timeout_s <= 10
        self.asked += 1
        return [ROT] if is_wanted() else []

    def scrub(self, budget_bytes: int, is_wanted: Callable[[], bool]) -> list[tuple[StreamName, Digest]]:
        raise AssertionError("sooner than it was due")


def test_who_comes_upon_rot_again_and_again_makes_no_step_come_sooner(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each one of them is a part of the whole store; nor is it told, or logged, again and again."""
    store, found = Provoked(), list[HeadRotten]()
    scrubber = Scrubber(cast(Any, store), found.append, 3600.0)
    wait_until(lambda: store.asked > 50, "a peer that does not give in")
    scrubber.close()
    assert found == [HeadRotten(*ROT)]
    assert "scrub failed" not in caplog.text


class Patient(Quiet):
    """So much is stored; what was waited for, and how much of it was to be read then."""

    def __init__(self, stored_bytes: int) -> None:
        super().__init__()
        self.stored_bytes = stored_bytes
        self.now_s = 0.0
        self.steps: list[tuple[float | None, int]] = []

    def wait_for_rot(self, timeout_s: float | None, is_wanted: Callable[[], bool]) -> list[Any]:
        self.timeout_s = timeout_s
        self.now_s += timeout_s or 0.0
        if len(self.steps) == 3:
            self.ended.wait()
        return []

    def usage(self) -> dict[str, int]:
        return {"stored_bytes": self.stored_bytes}

    def scrub(self, budget_bytes: int, is_wanted: Callable[[], bool]) -> list[tuple[StreamName, Digest]]:
        self.steps.append((self.timeout_s, budget_bytes))
        return []


@pytest.mark.parametrize(("interval_s", "step_s"), [(500.0, 5.0), (100_000.0, STEP_S_MAX)])
def test_all_is_read_once_in_an_interval_in_equal_steps(
    interval_s: float, step_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step reads its share, and is never far from the next; nothing is begun at the end."""
    store = Patient(10**9)
    monkeypatch.setattr(scrubber_module, "time", SimpleNamespace(monotonic=lambda: store.now_s))
    scrubber = Scrubber(cast(Any, store), lambda event: None, interval_s)
    wait_until(lambda: len(store.steps) == 3, "three steps")
    scrubber.close()
    assert store.steps == [(step_s, 1 + int(10**9 * step_s / interval_s))] * 3
