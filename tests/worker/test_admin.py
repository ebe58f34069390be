"""The admin socket: whoever asks gets one answer, and nobody keeps others from theirs."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
from msgspec import json

from replicator.errors import Unavailable
from replicator.worker import admin
from tests.worker.nodes import wait_until

Serve = Callable[[Path], Callable[[], None]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve the socket in a directory, echoing each command, until what this returns is called."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    ends: list[Callable[[], None]] = []

    def handle(request: admin.Request, reply: admin.Reply) -> None:
        asked = "much " * 500_000 if request.command == "much" else request.command
        if request.command != "silence":
            threading.Thread(target=reply, args=(json.encode({"asked": asked}),)).start()

    def start(data_dir: Path) -> Callable[[], None]:
        server = admin.AdminServer(data_dir, handle)
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(5)
        ends.append(lambda: asyncio.run_coroutine_threadsafe(server.close(), loop).result(5))
        return ends[-1]

    yield start
    for end in ends:
        end()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.mark.parametrize("depth", [1, 10])
def test_the_socket_serves_from_any_directory(tmp_path: Path, serve: Serve, depth: int) -> None:
    """Also from one whose path is too long for the kernel, and in the place of a dead process's socket."""
    data_dir = tmp_path.joinpath(*["a-long-name"] * depth)
    data_dir.mkdir(parents=True)
    os.close(os.open(data_dir / admin.SOCKET_NAME, os.O_CREAT))
    serve(data_dir)
    assert admin.ask(data_dir, {"command": "hello"}) == {"asked": "hello"}
    assert (data_dir / admin.SOCKET_NAME).stat().st_mode & 0o777 == 0o600


def test_nobody_there_is_said_so(tmp_path: Path, serve: Serve) -> None:
    """No socket, no answer in time: `Unavailable`, with the directory."""
    with pytest.raises(Unavailable, match=str(tmp_path)):
        admin.ask(tmp_path, {"command": "status"})
    serve(tmp_path)
    with pytest.raises(Unavailable, match=str(tmp_path)):
        admin.ask(tmp_path, {"command": "silence"}, timeout_s=0.1)


@pytest.mark.parametrize("line", [b"{}\n", b"nonsense\n", b'{"command": 7}\n', b"x" * 10_000 + b"\n", b""])
def test_a_bad_request_harms_nobody(tmp_path: Path, serve: Serve, line: bytes) -> None:
    """It gets an error or no answer, and the next one is served."""
    serve(tmp_path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / admin.SOCKET_NAME))
        client.sendall(line)
        client.shutdown(socket.SHUT_WR)
        client.settimeout(5)
        try:
            reply = client.recv(1000)
        except ConnectionResetError:
            reply = b""
        assert reply == b"" or (b"error" in reply and len(line) <= admin.REQUEST_BYTES_MAX)
    assert admin.ask(tmp_path, {"command": "hello"}) == {"asked": "hello"}


def test_the_end_waits_for_no_client(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that waits for an answer gets none."""
    monkeypatch.setattr(admin, "REPLY_TIMEOUT_S", 3600)
    end = serve(tmp_path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / admin.SOCKET_NAME))
        client.sendall(b'{"command": "silence"}\n')
        assert _is_served(tmp_path)
        end()
        client.settimeout(5)
        assert client.recv(1000) == b""


def test_one_client_too_many_is_refused(tmp_path: Path, serve: Serve) -> None:
    """Without being listened to; when another one has gone there is a place again."""
    serve(tmp_path)
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(admin.CLIENTS_MAX + 1)]
        for client in clients:
            client.connect(str(tmp_path / admin.SOCKET_NAME))
            client.settimeout(5)
        assert clients[-1].recv(1000) == b'{"error":"too many clients"}\n'
    wait_until(lambda: _is_served(tmp_path), "a place")


def test_clients_that_do_not_read_keep_nobody_out(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their places are free again when the time for a reply is over, and their connections are gone."""
    monkeypatch.setattr(admin, "REPLY_TIMEOUT_S", 0.2)
    serve(tmp_path)
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(admin.CLIENTS_MAX)]
        for client in clients:
            client.connect(str(tmp_path / admin.SOCKET_NAME))
            client.sendall(b'{"command": "much"}\n')
        wait_until(lambda: _is_served(tmp_path), "a place")
        for client in clients:
            client.settimeout(5)
        assert min(sum(map(len, iter(partial(each.recv, 100_000), b""))) for each in clients) < 2_000_000


def test_a_client_that_is_one_too_many_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if its connection is closed before it has asked."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / admin.SOCKET_NAME))
    listener.listen()

    @contextmanager
    def refuse(data_dir: Path) -> Iterator[str]:
        yield str(data_dir / admin.SOCKET_NAME)
        with listener.accept()[0] as client:
            client.sendall(admin._error("too many clients") + b"\n")

    monkeypatch.setattr(admin, "_reachable", refuse)
    with listener:
        assert admin.ask(tmp_path, {"command": "hello"}) == {"error": "too many clients"}


def _is_served(data_dir: Path) -> bool:
    try:
        return admin.ask(data_dir, {"command": "hello"}) == {"asked": "hello"}
    except Unavailable:  # one too many is not listened to
        return False


def test_who_waits_at_the_end_is_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A node that ends while somebody asks it for the status logs no traceback of it."""

    async def ends() -> None:
        asked = asyncio.Event()
        server = admin.AdminServer(tmp_path, lambda request, reply: asked.set())
        await server.start()
        _, writer = await asyncio.open_unix_connection(tmp_path / admin.SOCKET_NAME)
        writer.write(b'{"command": "status"}\n')
        await asked.wait()
        await server.close()
        await asyncio.sleep(0)
        writer.close()

    asyncio.run(ends())
    assert caplog.messages == []
