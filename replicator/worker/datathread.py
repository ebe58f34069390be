"""What the data threads have in common: a start, an end, a bell, counters, and refusals that are logged.

A data thread owns its sockets; everybody else reaches it by a queue and its bell. One that fails for a
reason nobody foresaw makes the replica faulty, for a node that silently moves no data is worse (R21).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter

from replicator.adapters.loglimit import LogLimit
from replicator.adapters.ports import Deliver
from replicator.core.events import StoreFailed

log = logging.getLogger(__name__)


class DataThread(ABC):
    """A named thread that runs `_run` until it is told to close, and then `_end`."""

    def __init__(self, name: str) -> None:
        self.counters: Counter[str] = Counter()
        self._deliver: Deliver = _nowhere
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closed = threading.Event()
        self._log_limit = LogLimit()
        self._thread = threading.Thread(target=self._guarded, name=f"replicator-{name}", daemon=True)

    def start(self, deliver: Deliver) -> None:
        """Start the thread; what it finds out goes to *deliver*."""
        self._deliver = deliver
        self._thread.start()

    def close(self) -> None:
        """Have the thread end, and wait for it; its sockets are closed then. Safe to call twice."""
        if self._bell < 0:
            return
        self._closed.set()
        os.eventfd_write(self._bell, 1)
        if self._thread.ident:
            self._thread.join()
        else:  # it was never started
            self._end()
        os.close(self._bell)
        self._bell = -1

    @abstractmethod
    def _run(self) -> None:
        """Work until closed."""

    @abstractmethod
    def _end(self) -> None:
        """Close what the thread owns."""

    @property
    def _is_here(self) -> bool:
        """Whether this thread is the caller's, who may wait then."""
        return threading.current_thread() is self._thread

    def _guarded(self) -> None:
        try:
            self._run()
        except Exception as error:
            self._fail(error)
        finally:
            self._end()

    def _fail(self, error: Exception) -> None:
        log.exception("data thread failed thread=%s", self._thread.name)
        self._deliver(StoreFailed(f"{self._thread.name} failed: {error!r}"))

    def _ring(self) -> None:
        """Wake the thread."""
        if not self._closed.is_set():
            os.eventfd_write(self._bell, 1)

    def _silence(self) -> None:
        """Make the bell ready to ring again."""
        try:
            os.eventfd_read(self._bell)
        except BlockingIOError:
            return

    def _refuse(self, sender: str | None, reason: str, counter: str = "dropped") -> None:
        """Count a message that is not taken, and say so at most once in a while for each reason (R28)."""
        self.counters[counter] += 1
        sender = sender or "(unknown)"
        if self._log_limit.permits(time.monotonic(), sender, reason):
            count = self.counters[counter]
            log.warning("message refused sender=%s reason=%r count=%d", sender, reason, count)


def _nowhere(event: object) -> None:
    raise RuntimeError(f"not started, but has {event!r}")
