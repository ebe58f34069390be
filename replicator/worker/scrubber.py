"""The scrubber: reads what is stored, a little at a time, before somebody needs it (R22).

It goes over the whole store once in `interval_s`, in equal steps, so that neither disk nor processor is
busy with it for long. It keeps the priority of the other threads: one that the kernel puts aside could
hold the interpreter's lock meanwhile, and the heartbeats with it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from replicator.adapters.store import LmdbStore
from replicator.core.events import HeadRotten
from replicator.errors import ReplicatorError

log = logging.getLogger(__name__)

STEPS = 100  # at least so many in an interval
STEP_S_MAX = 10.0


class Scrubber:
    """Walks the store on a thread of its own; *interval_s* 0 means never."""

    def __init__(self, store: LmdbStore, deliver: Callable[[HeadRotten], None], interval_s: float) -> None:
        self._store = store
        self._deliver = deliver
        self._interval_s = interval_s
        self._step_s = min(STEP_S_MAX, interval_s / STEPS)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replicator-scrubber", daemon=True)
        if interval_s > 0:
            self._thread.start()

    def close(self) -> None:
        """End the thread after the chunk that it reads: a whole step may take longer than closing may."""
        self._closed.set()
        if self._thread.ident:
            self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(self._step_s):
            try:
                self._step()
            except ReplicatorError as error:
                log.warning("scrub failed reason=%r", str(error))
            except Exception:  # as the loader does: what nobody foresaw must not end it unseen
                log.exception("scrub failed")

    def _step(self) -> None:
        stored_bytes = self._store.usage()["stored_bytes"]
        budget_bytes = 1 + int(stored_bytes * self._step_s / self._interval_s)
        for stream, digest in self._store.scrub(budget_bytes, lambda: not self._closed.is_set()):
            log.warning("rotten checkpoint found stream=%s digest=%s", stream, digest.hex())
            self._deliver(HeadRotten(stream, digest))
