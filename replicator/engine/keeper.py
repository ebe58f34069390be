"""The keeper: the link's thread, which keeps a worker alive.

A worker that ends unasked takes the tenure with it at once; another one is started, later each time. What
cannot be mended by starting again (wrong settings, a store in use) and too many deaths in a row are told
to whoever calls next.
"""

from __future__ import annotations

import logging
import select
import threading
import time
from math import inf
from typing import Any

from replicator.engine.life import Failure, Life
from replicator.engine.session import Session
from replicator.engine.ticket import Latch
from replicator.errors import ReplicatorError, StoreInUse, WorkerFailed
from replicator.link import messages as link
from replicator.link.endpoint import EngineEnd

log = logging.getLogger(__name__)

EXIT_TIMEOUT_S = 1.0  # what close() may take longer than its limit, to see the worker out
HEALTHY_AFTER_S = 10.0  # a worker that lived so long begins a new row of failures
STORE_WAIT_S = 1.0  # how long the worker of an engine that was killed may still use the store
BACK_OFF_MIN_S, BACK_OFF_MAX_S = 0.1, 5.0


class Keeper:
    """Runs the link's thread from its creation to `stop`."""

    def __init__(self, session: Session[Any]) -> None:
        self._session = session
        self._stop_at: float | None = None  # when a worker that was told to close is killed
        self._failures = 0  # in a row
        self._ended = Latch()  # a thread whose join was interrupted may be taken for one that has ended
        self._thread = threading.Thread(target=self._run, name="replicator-link", daemon=True)
        session.link_thread = self._thread
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Have the worker close, and the thread then close the session, and wait for it; the worker is killed
        when the time is over. Any thread, again and again."""
        stop_at = time.monotonic() + timeout_s
        self._stop_at = stop_at if self._stop_at is None else min(self._stop_at, stop_at)
        self._session.call(link.Close())
        if self._ended.wait(timeout_s + EXIT_TIMEOUT_S):
            self._thread.join()
        else:
            log.error("the link's thread does not end: a ticket's callback, or the worker's disk, hangs")

    def _run(self) -> None:
        try:
            try:
                EngineEnd.warm_up()
                self._keep_alive()
            except Exception as error:  # no thread for ZeroMQ, no memory: whoever waits for a worker is told
                log.exception("the link's thread failed")
                self._session.fail(Failure(WorkerFailed.__name__, f"{type(error).__name__}: {error}").error)
            self._sleep(inf)  # given up: whoever calls is told of it, until he closes
            self._session.close()
        finally:
            self._ended.set()

    def _keep_alive(self) -> None:
        """One worker after the other, until the thread has to stop or they are given up."""
        born_at = time.monotonic()
        while self._stop_at is None:
            failure = self._live()
            if self._stop_at is not None:
                return
            log.warning("worker ended failures=%d kind=%s: %s", self._failures, failure.kind, failure.text)
            if self._is_final(failure, time.monotonic() - born_at):
                if failure.kind in _DEATHS:
                    failure = Failure(WorkerFailed.__name__, f"given up: {failure.text}")
                self._session.fail(failure.error)
                return
            self._sleep(min(BACK_OFF_MIN_S * 2 ** (self._failures - 1), BACK_OFF_MAX_S))

    def _live(self) -> Failure:
        """One worker's life, and what ended it."""
        began_at, life = time.monotonic(), None
        try:
            life = Life(self._session)
            failure = life.serve(lambda: self._stop_at)
        except ReplicatorError as error:
            failure = Failure(type(error).__name__, str(error))
        except Exception as error:  # the machine's fault or ours: the tenure must not outlive the link
            log.exception("the link failed")
            failure = Failure(WorkerFailed.__name__, f"{type(error).__name__}: {error}")
        try:
            if life is not None:
                life.bury()
        except Exception:  # whatever is left of it: who waits for its tickets is told
            log.exception("the worker's end")
        self._session.worker_gone(failure.reason)
        is_healthy = life is not None and life.has_started and time.monotonic() - began_at > HEALTHY_AFTER_S
        self._failures = 1 if is_healthy else self._failures + 1
        return failure

    def _is_final(self, failure: Failure, age_s: float) -> bool:
        is_own_word = failure.kind not in _DEATHS
        if is_own_word and not self._session.started:
            return failure.kind != StoreInUse.__name__ or age_s > STORE_WAIT_S
        return self._failures > self._session.settings.worker_restarts_max

    def _sleep(self, span_s: float) -> None:
        """Sleep until another worker is due or the thread has to stop."""
        bell, until = self._session.bell, time.monotonic() + span_s
        poll = select.poll()
        poll.register(bell, select.POLLIN)
        while self._stop_at is None and (left_s := until - time.monotonic()) > 0:
            bell.doze()
            if self._stop_at is None:
                poll.poll(left_s * 1000 if left_s < inf else None)
            bell.wake()
            bell.silence()


_DEATHS = frozenset({"WorkerDied", "WorkerFailed", "MessageError"})
