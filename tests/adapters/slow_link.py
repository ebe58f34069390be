"""A link in front of a node's port that carries little at a time, or nothing any more."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType

from replicator.addresses import Address

STEP_BYTES, STEP_S = 2**11, 0.03
MEMORY_BYTES = 2**20  # what it takes in before the sender notices that it is slow


class SlowLink:
    """Listens at one address and connects to the other; use it in a ``with`` statement."""

    def __init__(self, listen: Address, target: Address) -> None:
        self.connections = 0
        self.is_stuck = False
        self._listen, self._target = listen, target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> SlowLink:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(5)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, *self._listen, limit=MEMORY_BYTES)

    async def _stop(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            far, forth = await asyncio.open_connection(*self._target)
            try:
                await asyncio.gather(self._carry(near, forth, STEP_S), self._carry(far, back, 0))
            finally:
                forth.transport.abort()
        except (OSError, asyncio.CancelledError):
            pass  # one end is gone, or the link itself
        finally:
            back.transport.abort()

    async def _carry(self, source: asyncio.StreamReader, to: asyncio.StreamWriter, pause_s: float) -> None:
        while content := await source.read(STEP_BYTES):
            while self.is_stuck:
                await asyncio.sleep(STEP_S)
            to.write(content)
            await to.drain()
            await asyncio.sleep(pause_s)
        to.close()
