"""`replicator node`: a worker without an engine, in the foreground."""

from __future__ import annotations

import os
import pty
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec
import pytest

from tests.cli.conftest import Command

DEADLINE_S = 20
WORDS = [sys.executable, "-m", "replicator", "node"]


def free_port() -> int:
    """A port that is free, and so are the two after it."""
    while True:
        with ExitStack() as sockets:
            first = sockets.enter_context(socket.create_server(("127.0.0.1", 0)))
            port: int = first.getsockname()[1]
            try:
                for other in (port + 1, port + 2):
                    sockets.enter_context(socket.create_server(("127.0.0.1", other)))
            except (OSError, OverflowError):
                continue
            return port


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Of a node that waits for two others, which are not there."""
    peers = ",".join(f"edge-{n}=127.0.0.{n}:{free_port()}" for n in (1, 2, 3))
    environ = {name: value for name, value in os.environ.items() if not name.startswith("REPLICATOR_")}
    own = {"REPLICATOR_NODE": "edge-3", "REPLICATOR_PEERS": peers, "REPLICATOR_DATA_DIR": str(tmp_path)}
    return environ | own


@pytest.fixture
def node(environ: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """It runs."""
    with subprocess.Popen(WORDS, env=environ, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_node_serves_until_it_is_told_to_stop(
    command: Command, node: subprocess.Popen[str], tmp_path: Path, stop: signal.Signals
) -> None:
    """It answers for its status, names those it waits for, and ends with status 0 and no traceback."""
    end = time.monotonic() + DEADLINE_S
    while (outcome := command("status", "--json", "--data-dir", tmp_path)).status != 0:
        assert node.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    *others, own = msgspec.json.decode(outcome.raw)["members"]
    assert (own["node"], own["role"]) == ("edge-3", "founding")
    assert [other["reachable"] for other in others] == [False, False]
    node.send_signal(stop)
    _, log = node.communicate(timeout=DEADLINE_S)
    assert node.returncode == 0
    assert "Traceback" not in log


def test_a_node_does_not_wait_for_whoever_reads_its_log(
    command: Command, environ: dict[str, str], tmp_path: Path
) -> None:
    """With a pipe that nobody reads, or a terminal that is held, it goes on, and the lines are lost."""
    held, terminal = pty.openpty()
    termios.tcflow(terminal, termios.TCOOFF)
    reader, pipe = os.pipe2(os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while os.write(pipe, bytes(select.PIPE_BUF)):
            pass
    os.set_blocking(pipe, True)
    for stderr in (pipe, terminal):
        with subprocess.Popen(WORDS, env=environ, stderr=stderr) as process:
            try:
                end = time.monotonic() + DEADLINE_S
                while command("status", "--data-dir", tmp_path).status != 0:
                    assert time.monotonic() < end, "it waits"
                    time.sleep(0.05)
                process.terminate()
                assert process.wait(DEADLINE_S) == 0
            finally:
                process.kill()
    for each in (held, terminal, reader, pipe):
        os.close(each)


def test_a_node_needs_peers(command: Command) -> None:
    """Alone it would serve nobody: it says so in one line."""
    outcome = command("node")
    assert outcome.status == 2
    assert outcome.err.startswith("replicator: REPLICATOR_PEERS: not set; ")
