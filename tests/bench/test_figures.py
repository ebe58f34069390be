"""What the measurements count is what their columns say, and nothing twice or too much."""

from __future__ import annotations

import argparse
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from bench import throughput
from replicator import Committed, Epoch, Position, Sequence


def committed() -> Committed:
    return Committed(Position(Epoch(1), Sequence(1)), (), {})


def test_throughput_counts_what_committed_in_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for while the time runs out has committed after it, and is in no rate: of commits that
    end every 0.3 s those at 0.3, 0.6 and 0.9 s lie between the warm-up's end, 0.2 s, and 1 s."""
    clock: Any = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)

    class Ends(SimpleQueue[Any]):
        def get(self, *_: Any, **__: Any) -> Any:
            clock.now += 0.3
            return super().get()

    class Ticket(SimpleNamespace):
        def add_done_callback(self, call: Any) -> None:
            call(self)

    ticket = Ticket(result=committed, released=SimpleNamespace(wait=lambda _: None))
    cluster: Any = SimpleNamespace(pids=dict, tenure=SimpleNamespace(submit=lambda *_: ticket))
    monkeypatch.setattr(throughput, "time", clock)
    monkeypatch.setattr(throughput, "SimpleQueue", Ends)
    options = argparse.Namespace(payload="realistic", seconds=1.0)
    assert throughput.measure_one(cluster, "1 KB", 1, options)["commits"] == 3
