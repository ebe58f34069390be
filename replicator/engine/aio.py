"""The asyncio front door: `AsyncReplicator`, with the same names as the blocking one.

What waits there is awaited here; what does not wait (`submit`, `delete`, `resign`, `active`, …) is the same
call. Tickets are awaited. No thread is used for waiting, and a cancelled wait leaves everything as it was
(but for `follow`, which is a generator). Works on any event loop, uvloop too.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Any

from replicator.engine.checkpoint import Checkpoint
from replicator.engine.replicator import STATUS_TIMEOUT_S, FrontDoor, read_report
from replicator.engine.session import Closed, Session
from replicator.engine.tenure import RESUME_POLL_S, BaseTenure
from replicator.engine.ticket import Found, Latch, Signal, bounded, deadline_of
from replicator.link import messages as link
from replicator.settings import Settings


class AsyncTenure(BaseTenure):
    """A tenure for an engine on an event loop."""

    async def wait_active(self, timeout: float | None = None) -> bool:
        """As `Tenure.wait_active`."""
        self._session.check_process()
        deadline = deadline_of(timeout)
        while not self.active:
            if self._ended.is_set() or (deadline is not None and time.monotonic() >= deadline):
                return False
            await asyncio.sleep(RESUME_POLL_S)
        return True

    async def wait_ended(self, timeout: float | None = None) -> bool:
        """As `Tenure.wait_ended`."""
        self._session.check_process()
        return await _open(self._ended, timeout)


class AsyncReplicator(FrontDoor[AsyncTenure]):
    """As `Replicator`, for ``async with``, ``async for`` and ``await``.

    To end in order on SIGTERM, cancel the task that is in ``async with``, and take the CancelledError that
    comes out of it for the program's end::

        loop.add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, AsyncTenure)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> AsyncReplicator:
        """As `Replicator.from_env`."""
        return cls(Settings.from_env(environ))

    def tenures(self, timeout: float | None = None) -> AsyncIterator[AsyncTenure]:
        """As `Replicator.tenures`."""
        return AsyncTenures(self._session, timeout)

    async def follow(self, timeout: float | None = None) -> AsyncIterator[Checkpoint]:
        """As `Replicator.follow`. A wait that is cancelled is its end; another one begins anew."""
        session = self._session
        with suppress(Closed), session.following():
            while (checkpoint := await _found(session.changed, session.take_offer, timeout)) is not None:
                yield checkpoint
                session.done_with_offer(checkpoint)

    async def status(self, timeout: float = STATUS_TIMEOUT_S) -> dict[str, Any]:
        """As `Replicator.status`."""
        session, until = self._session, time.monotonic() + bounded(timeout)
        await _found(session.changed, session.is_started, timeout)
        with session.asking_status() as nonce:
            report = await _found(session.changed, lambda: session.report(nonce), until - time.monotonic())
        return read_report(report)

    async def flush(self, timeout: float | None = None) -> bool:
        """As `Replicator.flush`."""
        tickets, session = self._open_tickets(), self._session
        return bool(await _found(session.settled, lambda: all(t.done() for t in tickets) or None, timeout))

    async def close(self, timeout: float | None = None) -> None:
        """As `Replicator.close`; the loop goes on meanwhile."""
        self._session.check_process()
        limit_s = self._session.settings.close_timeout_s if timeout is None else timeout
        await _in_thread(self._shut, limit_s)

    async def __aenter__(self) -> AsyncReplicator:
        try:
            await _found(self._session.changed, self._session.is_started)
        except BaseException:
            await self.close(0)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._session.is_forked:
            await self.close()


class AsyncTenures(AsyncIterator[AsyncTenure]):
    """As `Tenures`. No generator, which a cancelled wait would end for good."""

    def __init__(self, session: Session[AsyncTenure], timeout: float | None) -> None:
        self._session = session
        self._timeout = timeout

    async def __anext__(self) -> AsyncTenure:
        session = self._session
        session.want(link.Ready(True))
        with suppress(Closed):
            if (tenure := await _found(session.changed, session.take_tenure, self._timeout)) is not None:
                return tenure
        raise StopAsyncIteration


async def _in_thread(function: Callable[[float], None], limit_s: float) -> None:
    """In a thread of its own: the loop's may all be busy, or ended before an engine's threads are."""
    future: Future[None] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            function(limit_s)
            future.set_result(None)
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="replicator-close").start()
    await asyncio.wrap_future(future)


async def _open(latch: Latch, timeout: float | None) -> bool:
    """`Latch.wait`, awaited."""
    with suppress(TimeoutError):
        async with asyncio.timeout(None if timeout is None else bounded(timeout)):
            await latch
    return latch.is_set()


async def _found(
    signal: Signal, check: Callable[[], Found | None], timeout: float | None = None
) -> Found | None:
    """`Signal.wait_for`, awaited."""
    deadline = deadline_of(timeout)
    while True:
        latch = signal.next()
        if (found := check()) is not None:
            return found
        left_s = None if deadline is None else deadline - time.monotonic()
        if left_s is not None and left_s <= 0:
            return None
        await _open(latch, left_s)
