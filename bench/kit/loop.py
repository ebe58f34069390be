"""The engine process of `bench.ingestion`: a loop over events, with or without checkpoints that replicate.

It speaks JSON by lines: first what it is, then one command after the other, an answer to each. When all has
been started on the other core, the process is pinned to one, the link's thread with it; a worker process
stays on the other. With a worker in a thread only the main thread, which runs the loop, is pinned.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import sys
import threading
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from math import exp
from statistics import median
from typing import Any

from bench.kit.payloads import KIB, realistic
from bench.kit.process import cpu_s, pin
from replicator import Committed, Replicator, Settings, Superseded, Tenure, Ticket

RECORDS = 1024  # a power of two
KEYS = 977
CHANNELS = 4
LEARNING_RATE = 0.01
BUFFERS = 3  # one with the worker, one that waits, one to write to
TOUCH_EVERY_BYTES = 64 * KIB
TRACKABLE_NS_MAX = 60_000_000_000
DIGITS = 3
LOOK_CALLS, LOOK_ROUNDS = 20_000, 15
TIMEOUT_S, SETTLE_S = 60, 0.5


class Operator:
    """What the engine does with an event: parse it, update its key's state, predict, learn, make a line."""

    def __init__(self) -> None:
        self.records = [
            json.dumps(
                {"key": f"sensor-{n * 7919 % KEYS}", "at": 1_700_000_000_000 + n, "value": n / 7}
                | {
                    "site": f"hall {n % 12}",
                    "unit": "celsius",
                    "ok": True,
                    "raw": [n, n % 97, n % 89, n % 83],
                }
            )
            for n in range(RECORDS)
        ]
        self._states: dict[str, tuple[int, float, float]] = {}
        self._weights = [0.0] * CHANNELS
        self._bias = 0.0
        self.emitted = ""

    def handle(self, record: str) -> None:
        """Running mean and variance of the key; a logistic regression over the channels, which learns online
        whether the value is above the mean."""
        event = json.loads(record)
        key, value = event["key"], event["value"]
        count, mean, square = self._states.get(key, (0, 0.0, 0.0))
        count += 1
        step = value - mean
        mean += step / count
        square += step * (value - mean)
        self._states[key] = count, mean, square
        features = [each / RECORDS for each in event["raw"]]
        weights = self._weights
        score = self._bias + sum([weight * each for weight, each in zip(weights, features, strict=True)])
        chance = 1 / (1 + exp(-score))
        rate = LEARNING_RATE * ((step > 0) - chance)
        self._weights = [weight + rate * each for weight, each in zip(weights, features, strict=True)]
        self._bias += rate
        found = {"key": key, "at": event["at"], "mean": mean, "variance": square / count, "chance": chance}
        self.emitted = json.dumps(found)


class Checkpoints:
    """The state that is checkpointed: buffers in turns, a word of every 64 KiB changed each time.

    Without a *tenure* the state changes just the same and nothing is submitted.
    """

    def __init__(self, tenure: Tenure | None, size: int) -> None:
        self._tenure = tenure
        self._buffers = [realistic(size, seed=n) for n in range(BUFFERS)]
        words = [memoryview(buffer)[: size // 8 * 8].cast("Q") for buffer in self._buffers]
        self._touched = [view[:: TOUCH_EVERY_BYTES // 8] for view in words]
        self._tickets: list[Ticket | None] = [None] * BUFFERS
        self._stamps = [array("Q", os.urandom(8 * len(self._touched[0]))) for _ in range(64)]
        self._stream = f"state-{size}"
        self._number = 0
        self.submit_ns: list[int] = []
        self.skipped = 0
        self.outcomes: Counter[str] = Counter()

    def take(self) -> None:
        """Change the state, and submit it if there is a tenure; skip it when every buffer is still read."""
        number = self._number = self._number + 1
        for place in range(BUFFERS):
            ticket = self._tickets[place]
            if ticket is None or ticket.released.is_set():
                break
        else:
            self.skipped += 1
            return
        self._touched[place][:] = self._stamps[number % len(self._stamps)]
        if self._tenure is None:
            return
        began = time.perf_counter_ns()
        ticket = self._tenure.submit(self._stream, self._buffers[place])
        self.submit_ns.append(time.perf_counter_ns() - began)
        ticket.add_done_callback(self._ended)
        self._tickets[place] = ticket

    def settle(self) -> None:
        """Wait until nothing is under way."""
        for ticket in self._tickets:
            if ticket is not None:
                ticket.result(TIMEOUT_S)
                ticket.released.wait(TIMEOUT_S)

    def _ended(self, ticket: Ticket) -> None:
        kind = Committed if isinstance(ticket.result(), Committed) else Superseded
        self.outcomes[kind.__name__.lower()] += 1


def full_speed(tenure: Tenure | None, checkpoints: Checkpoints, events: int, interval_ns: int) -> array[int]:
    """One event after the other; the nanoseconds from the end of each to the end of the next."""
    operator, clock, spans = Operator(), time.perf_counter_ns, array("q", bytes(8 * events))
    records, handle = operator.records, operator.handle
    last = clock()
    due = last + interval_ns
    for n in range(events):
        handle(records[n & RECORDS - 1])
        if tenure is not None and not tenure.active and not tenure.wait_active(TIMEOUT_S):
            raise TimeoutError(f"the tenure is over: {tenure.ended_reason}")
        if last >= due:
            checkpoints.take()
            due += interval_ns
        now = clock()
        spans[n] = now - last
        last = now
    return spans


def open_loop(
    tenure: Tenure | None, checkpoints: Checkpoints, events: int, interval_ns: int, rate: float
) -> array[int]:
    """Events that come at a fixed rate, whatever the loop does; nanoseconds from the moment at which each
    was due to its end, so that a pause counts for all that came in it (no coordinated omission)."""
    operator, clock, spans = Operator(), time.perf_counter_ns, array("q", bytes(8 * events))
    records, handle, poll = operator.records, operator.handle, select.poll().poll
    began = now = clock()
    due, period_ns = began + interval_ns, 1e9 / rate
    for n in range(events):
        came = began + int(n * period_ns)
        while now < came:
            poll(0)  # as one that asks its source: the interpreter is free meanwhile
            now = clock()
        handle(records[n & RECORDS - 1])
        if tenure is not None and not tenure.active and not tenure.wait_active(TIMEOUT_S):
            raise TimeoutError(f"the tenure is over: {tenure.ended_reason}")
        if now >= due:
            checkpoints.take()
            due += interval_ns
        now = clock()
        spans[n] = now - came
    return spans


def histogram(values: Sequence[int]) -> Any:
    """An HDR histogram of nanoseconds."""
    made = import_module("hdrh.histogram").HdrHistogram(1, TRACKABLE_NS_MAX, DIGITS)
    for value, count in Counter(values).items():
        made.record_value(max(1, value), count)
    return made


def look_ns(tenure: Tenure) -> float:
    """What one look at `tenure.active` costs, the loop around it taken off."""
    looks, empty = [], []
    for _ in range(LOOK_ROUNDS):
        began = time.perf_counter_ns()
        for _ in range(LOOK_CALLS):
            tenure.active  # noqa: B018
        middle = time.perf_counter_ns()
        for _ in range(LOOK_CALLS):
            pass
        looks.append(middle - began)
        empty.append(time.perf_counter_ns() - middle)
    return (median(looks) - median(empty)) / LOOK_CALLS


def answer(
    tenure: Tenure | None, checkpoints: Checkpoints, command: dict[str, Any], is_alone: bool
) -> dict[str, Any]:
    """Run one loop and say how it was; *is_alone* on its core, while other threads work elsewhere."""
    checkpoints.submit_ns.clear()
    checkpoints.outcomes.clear()
    checkpoints.skipped = 0
    gc.collect()
    gc.freeze()
    events, interval_ns = command["events"], int(command["interval_s"] * 1e9)
    all_cpu, own_cpu, began = cpu_s([os.getpid()]), time.thread_time(), time.perf_counter()
    if command["loop"] == "open":
        spans = open_loop(tenure, checkpoints, events, interval_ns, command["rate"])
    else:
        spans = full_speed(tenure, checkpoints, events, interval_ns)
    spent_s = time.perf_counter() - began
    others_cpu_s = cpu_s([os.getpid()]) - all_cpu - (time.thread_time() - own_cpu)
    checkpoints.settle()
    return {
        "events": events,
        "events_per_s": events / spent_s,
        "seconds": spent_s,
        "elsewhere_cpu_s": max(0.0, others_cpu_s) if is_alone else 0.0,
        "histogram": histogram(spans).encode().decode(),
        "submit_us": [ns / 1000 for ns in checkpoints.submit_ns],
        "skipped": checkpoints.skipped,
        **checkpoints.outcomes,
    }


def serve(tenure: Tenure | None, what: dict[str, Any]) -> None:
    """Answer commands until standard input ends."""
    checkpoints = Checkpoints(tenure, what["size"])
    is_alone = what["settings"] is not None and json.loads(what["settings"])["isolation"] == "thread"
    if is_alone:
        os.sched_setaffinity(0, {what["core"]})  # this thread
    else:
        pin(os.getpid(), {what["core"]})
    time.sleep(SETTLE_S)
    print(json.dumps({"look_ns": look_ns(tenure) if tenure is not None else None}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(tenure, checkpoints, json.loads(line), is_alone)), flush=True)


def main() -> int:
    """Be what the first line says."""
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # Ctrl-C is for whoever measures: end at once, without a word
    what = json.loads(sys.stdin.readline())
    if what["settings"] is None:
        serve(None, what)
        return 0
    with Replicator(Settings.from_json(what["settings"].encode())) as replicator:
        tenure = next(replicator.tenures(TIMEOUT_S))
        assert threading.current_thread() is threading.main_thread()
        serve(tenure, what)
    return 0


if __name__ == "__main__":
    sys.exit(main())
