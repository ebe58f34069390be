"""The loader: one thread that restores checkpoints, so that the control thread never waits for a disk.

A tenure's heads come first; warm standbys are loaded when no tenure waits. Results go to the control
thread, which sends them to the engine; a job that was dropped in between is recognised there by its
epoch. It runs at the priority of all others: a low one could be put aside by the kernel while it holds
the interpreter's lock, and the heartbeats with it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from replicator.errors import ReplicatorError
from replicator.model import Epoch, Head, Payload
from replicator.worker.inbox import Loaded

log = logging.getLogger(__name__)


class Loader:
    """Restores heads one after the other on a thread of its own."""

    def __init__(self, restore: Callable[[Head], Payload], deliver: Callable[[Loaded], None]) -> None:
        self._restore = restore
        self._deliver = deliver
        self._urgent: deque[tuple[Epoch | None, Head]] = deque()
        self._leisurely: deque[tuple[Epoch | None, Head]] = deque()
        self._work = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="replicator-loader", daemon=True)
        self._thread.start()

    def load(self, epoch: Epoch | None, head: Head) -> None:
        """Queue a head for the tenure of *epoch*, or for a warm standby (None)."""
        with self._work:
            (self._leisurely if epoch is None else self._urgent).append((epoch, head))
            self._work.notify()

    def drop(self) -> None:
        """Forget the heads of a tenure that has ended before they were restored."""
        with self._work:
            self._urgent.clear()

    def close(self) -> None:
        """Finish the present head, if any, and end the thread."""
        with self._work:
            self._closed = True
            self._work.notify()
        self._thread.join()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            epoch, head = job
            try:
                self._deliver(Loaded(epoch, head, self._restore(head)))
            except ReplicatorError as error:
                self._deliver(Loaded(epoch, head, None, str(error)))
            except Exception as error:
                log.exception("restore failed stream=%s sequence=%d", head.stream, head.sequence)
                self._deliver(Loaded(epoch, head, None, f"{type(error).__name__}: {error}"))

    def _next(self) -> tuple[Epoch | None, Head] | None:
        with self._work:
            self._work.wait_for(lambda: self._closed or self._urgent or self._leisurely)
            if self._closed:
                return None
            return (self._urgent or self._leisurely).popleft()
