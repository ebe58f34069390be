"""The admin socket: one JSON line in, one JSON line out, for the node's own user.

It lies in the data directory, can be used by its owner only, and is served on the leisurely loop; what a
request needs of the control thread is posted there. Requests: ``{"command": "status"}``,
``{"command": "abandon", "stream": …}`` (the one exception of I3), ``{"command": "handover", "to": …}``.
A reply is the status, or ``{"ok": true, …}`` with the ``"primary"`` that took over, or with the abandoned
``"position"`` and the one that comes ``"instead"`` (null if none does), each ``[epoch, sequence]``; or
``{"error": …}``.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from msgspec import Struct, json

from replicator.errors import UNREADABLE, Unavailable

SOCKET_NAME = "admin.sock"
REQUEST_BYTES_MAX = 4096
REPLY_BYTES_MAX = 16_000_000
REPLY_TIMEOUT_S = 5.0
CLIENTS_MAX = 16
PATH_BYTES_MAX = 100  # the kernel takes 107

Reply = Callable[[bytes], None]


class Request(Struct):
    """What a client asks."""

    command: str
    stream: str = ""
    to: str | None = None


Handler = Callable[[Request, Reply], None]


@contextmanager
def _reachable(data_dir: Path) -> Iterator[str]:
    """The socket's path, short enough for the kernel while the context lasts."""
    path = str(data_dir / SOCKET_NAME)
    if len(os.fsencode(path)) <= PATH_BYTES_MAX:
        yield path
        return
    directory = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{SOCKET_NAME}"
    finally:
        os.close(directory)


class AdminServer:
    """Serves the socket. *handle* takes a request and a function for the reply, both from any thread."""

    def __init__(self, data_dir: Path, handle: Handler) -> None:
        self._path = data_dir / SOCKET_NAME
        self._handle = handle
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen, in the place of whatever a dead process has left there; the store's lock is held."""
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _reachable(self._path.parent) as path:
            listener.bind(path)
            os.chmod(path, 0o600)  # before anybody can connect
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=REQUEST_BYTES_MAX)

    async def close(self) -> None:
        """Stop listening, leave the clients that wait without an answer, and remove the socket."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)
            self._server = None
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = asyncio.current_task()
        assert client is not None
        self._clients.add(client)
        writer.transport.set_write_buffer_limits(0)  # a reply that is drained is with the kernel
        try:
            async with asyncio.timeout(REPLY_TIMEOUT_S):
                if len(self._clients) > CLIENTS_MAX:
                    reply = _error("too many clients")
                else:
                    reply = await self._answer(await reader.readuntil(b"\n"))
                writer.write(reply + b"\n")
                await writer.drain()
        except (TimeoutError, OSError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # a client that asks for nothing, asks too much, reads nothing or is gone gets no answer,
            # nor who waits when `close` cancels: Python 3.11 logs a traceback of a task that ends cancelled
        finally:
            self._clients.discard(client)
            writer.transport.abort()  # to close it would wait for a client that does not read

    async def _answer(self, line: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()

        def settle(report: bytes) -> None:
            if not answer.done():
                answer.set_result(report)

        def reply(report: bytes) -> None:
            with suppress(RuntimeError):  # the loop may have ended, and the client's connection with it
                loop.call_soon_threadsafe(settle, report)

        try:
            self._handle(json.decode(line, type=Request), reply)
        except UNREADABLE as error:
            return _error(f"not a request: {error}")
        return await answer


def _error(text: str) -> bytes:
    return json.encode({"error": text})


def ask(data_dir: Path, request: dict[str, Any], timeout_s: float = REPLY_TIMEOUT_S) -> dict[str, Any]:
    """Ask the node that runs on *data_dir*; raises `Unavailable` if none does or it does not answer."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(timeout_s)
            with _reachable(data_dir) as path:
                client.connect(path)
            with suppress(BrokenPipeError):  # refused unheard, as one too many: it is said all the same
                client.sendall(json.encode(request) + b"\n")
            with client.makefile("rb") as lines:
                line = lines.readline(REPLY_BYTES_MAX)
    except OSError as error:
        raise Unavailable(f"no node answers in {data_dir}: {error.strerror or error}") from error
    if not line.endswith(b"\n"):
        raise Unavailable(f"the node in {data_dir} gave no answer")
    reply: dict[str, Any] = json.decode(line)
    return reply
