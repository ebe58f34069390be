"""The scrubber's thread: what goes wrong in one step does not end it."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from replicator.core.events import HeadRotten
from replicator.errors import StoreDamaged
from replicator.model import Digest, StreamName
from replicator.worker.scrubber import Scrubber

ROT = (StreamName("orders"), Digest(bytes(32)))


class FakeStore:
    """Fails in its first step, finds rot in the next."""

    def __init__(self, error: Exception) -> None:
        self.errors = [error]

    def usage(self) -> dict[str, int]:
        return {"stored_bytes": 1}

    def scrub(self, budget_bytes: int) -> list[tuple[StreamName, Digest]]:
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
