"""The leisurely side of a worker: an asyncio loop beside the control thread.

It watches the engine and the disk, takes signals (in a process of its own) and serves the admin socket.
Whatever it is told, it posts to the control thread. If it ends, for whatever reason, the worker ends too: one
that does not notice the engine's death would outlive it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress

import uvloop
from msgspec import json

from replicator.adapters.ports import Store
from replicator.core.events import StoreHangs
from replicator.errors import Unavailable
from replicator.model import StreamName
from replicator.settings import Settings
from replicator.worker.admin import AdminServer, Reply, Request
from replicator.worker.driver import Driver
from replicator.worker.inbox import Inbox
from replicator.worker.watch import EngineWatch

log = logging.getLogger(__name__)

# Whatever a part waits for at its end, the worker holds the store no longer than this after its engine, whose
# next process wants it. It has room for a farewell; and what was acknowledged is durable at any moment.
OUTLIVE_S_MAX = 0.15
LOOK_S = 0.5  # from one look at the disk to the next


class Leisure:
    """Runs on one thread until `end` is called from another."""

    def __init__(
        self,
        settings: Settings,
        driver: Driver,
        inbox: Inbox,
        store: Store,
        engine_pid: int | None = None,
        stop_signals: Iterable[signal.Signals] = (),
    ) -> None:
        self._driver = driver
        self._inbox = inbox
        self._store = store
        self._hangs_after_s = settings.lapse_max_s
        self._is_late = self._hangs = False
        self._engine_pid = engine_pid
        self._stop_signals = tuple(stop_signals)
        self._admin = AdminServer(settings.data_dir, self._handle)
        self._loop = uvloop.new_event_loop()
        self._done = asyncio.Event()
        self.engine_gone = False
        self.error: Exception | None = None

    def run(self) -> None:
        """Serve until `end`; what it fails with is kept for whoever joins it."""
        try:
            self._loop.run_until_complete(self._serve())
        except Exception as error:
            self.error = error
        finally:
            self._inbox.post(self._driver.leave)
            self._loop.close()

    def end(self) -> None:
        """The driver has ended. Any thread, once."""
        with suppress(RuntimeError):  # the loop has failed, and is closed
            self._loop.call_soon_threadsafe(self._done.set)

    async def _serve(self) -> None:
        watch = None
        if self._engine_pid is not None:
            watch = EngineWatch(self._loop, self._engine_pid, sys.stdin.fileno(), self._engine_is_gone)
        for each in self._stop_signals:
            self._loop.add_signal_handler(each, self._inbox.post, self._driver.leave)
        try:
            await self._admin.start()
        except OSError as error:
            log.warning("admin socket not served reason=%r", str(error))
        while not self._done.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._done.wait(), LOOK_S)
            self._look()
        await self._admin.close()
        for each in self._stop_signals:
            self._loop.remove_signal_handler(each)
        if watch is not None:
            watch.close()

    def _look(self) -> None:
        """Tell whether the disk hangs: whoever waits for it, as its writer does, cannot. By two looks: after
        the first one a process that has stood still itself finds it at work."""
        was_late, self._is_late = self._is_late, self._store.writing_s() > self._hangs_after_s
        hangs = was_late and self._is_late
        if hangs != self._hangs:
            self._hangs = hangs
            self._inbox.deliver(StoreHangs(hangs))

    def _engine_is_gone(self) -> None:
        log.info("the engine has ended engine_pid=%d", self._engine_pid)
        self.engine_gone = True
        self._inbox.post(self._driver.leave)
        timer = threading.Timer(OUTLIVE_S_MAX, os._exit, (1,))
        timer.daemon = True  # and not the loop's, which ends before the parts are closed
        timer.start()

    def _handle(self, request: Request, reply: Reply) -> None:
        """A request of the admin socket, done on the control thread."""
        self._inbox.post(lambda: self._do(request, reply))

    def _do(self, request: Request, reply: Reply) -> None:
        driver = self._driver
        try:
            match request.command:
                case "status":
                    driver.ask_status(reply)
                case "handover":
                    driver.operator.hand_over(request.to, reply)
                case "abandon":
                    driver.operator.abandon(StreamName(request.stream), reply)
                case _:
                    raise Unavailable(f"no such command: {request.command}")
        except Unavailable as error:
            reply(json.encode({"error": str(error)}))
