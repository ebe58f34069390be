"""What the measurements count is what their columns say, and nothing twice or too much."""

from __future__ import annotations

import argparse
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from bench import commit_latency, throughput
from replicator import Committed, Epoch, Position, Sequence


def committed(total_s: float = 0.0) -> Committed:
    return Committed(Position(Epoch(1), Sequence(1)), (), {"total": total_s})


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

    ticket = Ticket(result=lambda: committed(), released=SimpleNamespace(wait=lambda _: None))
    cluster: Any = SimpleNamespace(pids=dict, tenure=SimpleNamespace(submit=lambda *_: ticket))
    monkeypatch.setattr(throughput, "time", clock)
    monkeypatch.setattr(throughput, "SimpleQueue", Ends)
    options = argparse.Namespace(payload="realistic", seconds=1.0)
    assert throughput.measure_one(cluster, "1 KB", 1, options)["commits"] == 3


def test_stages_are_those_of_the_commits_that_count() -> None:
    """The first of the large ones warms up: neither its latency nor its stages are in the line."""
    totals_s = iter([9.0, 0.001, 0.002, 0.003, 0.004])

    def submit(*_: Any) -> SimpleNamespace:
        released = SimpleNamespace(wait=lambda _: None)
        return SimpleNamespace(result=lambda _: committed(next(totals_s)), released=released)

    cluster: Any = SimpleNamespace(tenure=SimpleNamespace(submit=submit))
    floor: Any = SimpleNamespace(commit=lambda _: 0.001)
    options = argparse.Namespace(payload="realistic", seconds=1e-9, samples=4)
    row = commit_latency.measure_size(cluster, {"tcp": floor, "zeromq": floor}, "16 MB", options)
    assert (row["commits"], row["stage_total_ms"]) == (4, 2.5)
