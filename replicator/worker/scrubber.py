"""The scrubber: reads what is stored, a little at a time, before somebody needs it (R22).

It goes over the whole store once in `interval_s`, in equal steps, so that neither disk nor processor is
busy with it for long. What others come upon, who read for a peer, it tells at once. It keeps the priority of
the other threads: one that the kernel puts aside could hold the interpreter's lock meanwhile, and the
heartbeats with it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

from replicator.adapters.store import LmdbStore
from replicator.adapters.store_scrub import Damage
from replicator.core.events import HeadRotten
from replicator.errors import ReplicatorError

log = logging.getLogger(__name__)

STEPS = 100  # at least so many in an interval
STEP_S_MAX = 10.0


class Scrubber:
    """Walks the store on a thread of its own; never with an *interval_s* of 0, but tells what others find."""

    def __init__(self, store: LmdbStore, deliver: Callable[[HeadRotten], None], interval_s: float) -> None:
        self._store = store
        self._deliver = deliver
        self._interval_s = interval_s
        self._step_s = min(STEP_S_MAX, interval_s / STEPS) or None
        self._told: set[Damage] = set()  # just now
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replicator-scrubber", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread after the chunk that it reads: a whole step may take longer than closing may."""
        self._closed.set()
        self._store.end_wait()
        self._thread.join()

    def _run(self) -> None:
        while self._is_wanted():
            try:
                self._rest()
                if self._step_s is not None and self._is_wanted():
                    self._tell(self._scrub(self._step_s))
            except ReplicatorError as error:
                log.warning("scrub failed reason=%r", str(error))
            except Exception:  # as the loader does: what nobody foresaw must not end it unseen
                log.exception("scrub failed")

    def _rest(self) -> None:
        """Tell what others come upon until it is time for the next step, which comes no sooner for that."""
        until = time.monotonic() + (self._step_s or math.inf)
        while self._is_wanted() and (rest_s := until - time.monotonic()) > 0:
            self._tell(self._store.wait_for_rot(rest_s if self._step_s else None, self._is_wanted))

    def _is_wanted(self) -> bool:
        return not self._closed.is_set()

    def _scrub(self, step_s: float) -> list[Damage]:
        stored_bytes = self._store.usage()["stored_bytes"]
        return self._store.scrub(1 + int(stored_bytes * step_s / self._interval_s), self._is_wanted)

    def _tell(self, damaged: list[Damage]) -> None:
        """Tell each once: what the walk finds is suspected by it, too."""
        for stream, digest in damaged:
            if (stream, digest) not in self._told:
                log.warning("rotten checkpoint found stream=%s digest=%s", stream, digest.hex())
                self._deliver(HeadRotten(stream, digest))
        self._told = {*damaged}
