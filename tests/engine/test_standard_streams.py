"""A worker in a child process, and the engine's standard streams: what is there, and what is not."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from replicator import Replicator, Settings, WorkerFailed
from replicator.descriptor import STDERR
from tests.engine.engine_process import run_engine


def socket_pair() -> tuple[int, int]:
    """As a service's standard error may be one."""
    reader, writer = socket.socketpair()
    return reader.detach(), writer.detach()


@pytest.mark.parametrize("open_both", [os.pipe, os.openpty, socket_pair], ids=["pipe", "terminal", "socket"])
def test_nobody_waits_for_a_standard_error_that_nobody_reads(
    child: Callable[..., Settings], open_both: Callable[[], tuple[int, int]]
) -> None:
    """The worker goes on writing, whatever becomes of it; its last lines are kept all the same. Whoever
    shares the descriptor still waits when he writes there."""
    stderr, (reader, writer) = os.dup(STDERR), open_both()
    os.dup2(writer, STDERR)
    try:
        with pytest.raises(WorkerFailed, match="the last word"):
            Replicator(child("talk", restarts=0)).__enter__()
        assert os.get_blocking(writer)
        assert os.read(reader, 6) == b"a word"
    finally:
        os.dup2(stderr, STDERR)
        for fd in (stderr, reader, writer):
            os.close(fd)


def test_a_standard_error_in_a_file_is_written_in_turn(
    child: Callable[..., Settings], tmp_path: Path
) -> None:
    """What the worker writes and what the engine does come one after the other: nothing is written over."""
    stderr = os.dup(STDERR)
    with open(tmp_path / "log", "wb") as file:
        os.dup2(file.fileno(), STDERR)
    try:
        os.write(STDERR, b"before\n")
        with pytest.raises(WorkerFailed, match="no such library"):
            Replicator(child("crash", restarts=0)).__enter__()
        os.write(STDERR, b"after\n")
    finally:
        os.dup2(stderr, STDERR)
        os.close(stderr)
    assert (tmp_path / "log").read_text().splitlines() == [
        "before",
        "no such library: libexample.so",
        "after",
    ]


def test_a_file_that_has_the_number_of_standard_error_is_not_written_to(
    child: Callable[..., Settings], tmp_path: Path
) -> None:
    """A daemon without the first three descriptors gives their numbers to what it opens next."""
    child("crash")
    code = """
import logging

logging.disable()
os.close(2)
with open(Path(sys.argv[1], "file"), "wb") as file:
    print(file.fileno())
    try:
        Replicator(settings).status()
    except Exception as error:
        print("no such library" in str(error), os.fstat(2).st_size)
"""
    assert run_engine(code, tmp_path, restarts=0) == "2\nTrue 0\n"


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_an_engine_may_lack_any_standard_stream(
    child: Callable[..., Settings], tmp_path: Path, closed: tuple[int, ...]
) -> None:
    """The worker gets its own, over whatever has their numbers, and what else it needs beside them."""
    child("serve")
    code = f"""
out = os.dup(1)
for fd in {closed}:
    os.close(fd)
with Replicator(settings) as replicator:
    ticket = next(iter(replicator.tenures(10))).submit("s", b"")
    os.write(out, type(ticket.result(10)).__name__.encode())
"""
    assert run_engine(code, tmp_path) == "Committed"
