"""The floor: what three raw copies on three disks of this machine cost, with no protocol at all.

The same three processes and two links as a cluster: this process writes the payload to its own file and
sends it by plain TCP to two peers, which write it to theirs; all three call fdatasync. A commit is over when
the local copy and the first remote one are synced. Nothing is compressed, hashed, framed or named. Files
are the cheapest kind: two of them in turns, so that the last copy stays while the next is written, and
recycled, so that no sync has new blocks to enter. Without *synced* nobody syncs: the floor of memory
durability.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType

PIECE_BYTES = 2**20
INLINE_BYTES = 2**17  # up to here the kernel takes all at once, and a thread would cost more than it saves
SOCKET_BUFFER_BYTES = 4 * 2**20
SLOTS = 2
LENGTH = struct.Struct("<Q")
ACK = b"\x06"


class Slots:
    """Two recycled files: a payload goes to the one that does not hold the newest."""

    def __init__(self, directory: Path) -> None:
        self._files = [os.open(directory / f"slot-{n}", os.O_CREAT | os.O_RDWR, 0o600) for n in range(SLOTS)]
        self._next = 0

    def begin(self) -> int:
        """The file to write to now."""
        self._next = (self._next + 1) % SLOTS
        return self._files[self._next]

    def close(self) -> None:
        """Close both."""
        for file in self._files:
            os.close(file)


class Floor:
    """The three processes; use it in a ``with`` statement. `commit` is one commit, in seconds."""

    def __init__(self, directory: Path | None = None, *, synced: bool = True) -> None:
        self._sync = os.fdatasync if synced else _no_sync
        self._parent = directory
        self._stack = ExitStack()
        self._peers: list[socket.socket] = []
        self._jobs: SimpleQueue[tuple[memoryview, int] | None] = SimpleQueue()
        self._local = threading.Semaphore(0)

    def __enter__(self) -> Floor:
        with self._stack:
            base = Path(
                self._stack.enter_context(
                    tempfile.TemporaryDirectory(prefix="replicator-floor-", dir=self._parent)
                )
            )
            self._slots = Slots(base)
            self._stack.callback(self._slots.close)
            listener = self._stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            for number in range(2):
                directory = base / f"peer-{number}"
                directory.mkdir()
                sync = "synced" if self._sync is os.fdatasync else "unsynced"
                words = [str(listener.getsockname()[1]), str(directory), sync]
                command = [sys.executable, "-m", "bench.kit.floor", *words]
                process = subprocess.Popen(command, start_new_session=True)
                self._stack.callback(process.wait)
                peer = self._stack.enter_context(listener.accept()[0])
                _tune(peer)
                self._peers.append(peer)
            writer = threading.Thread(target=self._write, daemon=True)
            writer.start()
            self._stack.callback(writer.join)
            self._stack.callback(self._jobs.put, None)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for peer in self._peers:
            peer.close()
        self._stack.close()

    def commit(self, payload: bytearray) -> float:
        """Seconds until the local and the first remote copy are synced; the other is waited for untimed."""
        view, file, began = memoryview(payload), self._slots.begin(), time.perf_counter()
        header = LENGTH.pack(len(view))
        if len(view) <= INLINE_BYTES:
            for peer in self._peers:
                peer.sendmsg([header, view])
            os.pwrite(file, view, 0)
            self._sync(file)
        else:
            self._jobs.put((view, file))
            for peer in self._peers:
                peer.sendall(header)
            for start in range(0, len(view), PIECE_BYTES):
                for peer in self._peers:
                    peer.sendall(view[start : start + PIECE_BYTES])
            self._local.acquire()
        select.select(self._peers, [], [])
        spent_s = time.perf_counter() - began
        for peer in self._peers:
            if peer.recv(1) != ACK:
                raise RuntimeError("a peer of the floor has died")
        return spent_s

    def _write(self) -> None:
        """The thread that writes large local copies."""
        while (job := self._jobs.get()) is not None:
            view, file = job
            for start in range(0, len(view), PIECE_BYTES):
                os.pwrite(file, view[start : start + PIECE_BYTES], start)
            self._sync(file)
            self._local.release()


def _no_sync(file: int) -> None:
    """Leave it to the kernel when the file's pages reach the disk."""


def _tune(peer: socket.socket) -> None:
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        peer.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)


def _receive(link: socket.socket, target: memoryview) -> int:
    """Fill *target*; 0 when the link has ended."""
    filled = 0
    while filled < len(target):
        got = link.recv_into(target[filled:])
        if not got:
            return 0
        filled += got
    return filled


def _serve(port: int, directory: Path, sync: Callable[[int], None]) -> None:
    """A peer: write what comes, piece by piece, sync, acknowledge; until the link ends."""
    slots, buffer = Slots(directory), memoryview(bytearray(PIECE_BYTES))
    with socket.create_connection(("127.0.0.1", port)) as link:
        _tune(link)
        while _receive(link, buffer[: LENGTH.size]):
            (size,) = LENGTH.unpack_from(buffer)
            file = slots.begin()
            for start in range(0, size, PIECE_BYTES):
                piece = buffer[: min(PIECE_BYTES, size - start)]
                if not _receive(link, piece):
                    return
                os.pwrite(file, piece, start)
            sync(file)
            link.sendall(ACK)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), Path(sys.argv[2]), os.fdatasync if sys.argv[3] == "synced" else _no_sync)
