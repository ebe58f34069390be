"""Submitting again and again: one at a time with its latency, or many streams with a window."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping

from bench.kit.cluster import TIMEOUT_S
from replicator import Committed, Tenure, Ticket

Payload = bytes | bytearray | Mapping[str, bytes]


def commit_ms(tenure: Tenure, stream: str, payload: Payload) -> float:
    """Submit to committed, in milliseconds; returns when the payload is read no longer."""
    began = time.perf_counter()
    ticket = tenure.submit(stream, payload)
    outcome = ticket.result(TIMEOUT_S)
    spent_s = time.perf_counter() - began
    ticket.released.wait(TIMEOUT_S)
    if not isinstance(outcome, Committed):
        raise TimeoutError(f"{ticket} has not committed")
    return spent_s * 1000


def commit_all(tenure: Tenure, items: Iterable[tuple[str, bytes]], window: int) -> float:
    """Commit each stream's payload, *window* under way at a time; seconds until all have committed."""
    credit = threading.Semaphore(window)
    failures: list[Ticket] = []

    def ended(ticket: Ticket) -> None:
        if ticket.exception() is not None:
            failures.append(ticket)
        credit.release()

    began = time.perf_counter()
    for stream, payload in items:
        if not credit.acquire(timeout=TIMEOUT_S):
            raise TimeoutError("nothing commits any more")
        tenure.submit(stream, payload).add_done_callback(ended)
    for _ in range(window):
        if not credit.acquire(timeout=TIMEOUT_S):
            raise TimeoutError("nothing commits any more")
    if failures:
        raise TimeoutError(f"{failures[0]} has not committed")
    return time.perf_counter() - began
