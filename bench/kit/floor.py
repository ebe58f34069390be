"""The floor: what three raw copies on three disks of this machine cost, with no protocol at all.

The same three processes and two links as a cluster: this process writes the payload to its own file and
sends it to two peers, which write it to theirs; all three call fdatasync. A commit is over when the local
copy and the first remote one are synced. Nothing is compressed, hashed, framed or named. Files are the
cheapest kind: two of them in turns, so that the last copy stays while the next is written, and recycled, so
that no sync has new blocks to enter. Without *synced* nobody syncs: the floor of memory durability.

The links are plain TCP, or (*links* `zeromq`) a PUB, two SUBs, and DEALERs to a ROUTER, as a node's: what is
between the two is the price of ZeroMQ from Python, whatever is said over it.
"""

from __future__ import annotations

import os
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

from bench.kit.links import INLINE_BYTES, PIECE_BYTES, connect, listen, pieces

PEERS = 2
SLOTS = 2


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

    def __init__(self, directory: Path | None = None, *, synced: bool = True, links: str = "tcp") -> None:
        self._sync = os.fdatasync if synced else _no_sync
        self._parent = directory
        self._kind = links
        self._stack = ExitStack()
        self._jobs: SimpleQueue[tuple[memoryview, int] | None] = SimpleQueue()
        self._local = threading.Semaphore(0)

    def __enter__(self) -> Floor:
        with self._stack:
            place = tempfile.TemporaryDirectory(prefix="replicator-floor-", dir=self._parent)
            base = Path(self._stack.enter_context(place))
            self._slots = Slots(base)
            self._stack.callback(self._slots.close)
            self._links = listen(self._kind)
            for number in range(PEERS):
                directory = base / f"peer-{number}"
                directory.mkdir()
                sync = "synced" if self._sync is os.fdatasync else "unsynced"
                words = [str(directory), sync, self._kind, *self._links.words]
                command = [sys.executable, "-m", "bench.kit.floor", *words]
                self._stack.callback(subprocess.Popen(command, start_new_session=True).wait)
            self._stack.callback(self._links.close)
            self._links.await_peers(PEERS)
            writer = threading.Thread(target=self._write, daemon=True)
            writer.start()
            self._stack.callback(writer.join)
            self._stack.callback(self._jobs.put, None)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def commit(self, payload: bytearray) -> float:
        """Seconds until the local and the first remote copy are synced; the other is waited for untimed."""
        view, file, began = memoryview(payload), self._slots.begin(), time.perf_counter()
        if len(view) <= INLINE_BYTES:  # a thread would cost more than it saves
            self._links.send(view)
            os.pwrite(file, view, 0)
            self._sync(file)
        else:
            self._jobs.put((view, file))
            self._links.send(view)
            self._local.acquire()
        self._links.await_first()
        spent_s = time.perf_counter() - began
        self._links.await_rest()
        return spent_s

    def _write(self) -> None:
        """The thread that writes large local copies."""
        while (job := self._jobs.get()) is not None:
            view, file = job
            for number, piece in enumerate(pieces(view)):
                os.pwrite(file, piece, number * PIECE_BYTES)
            self._sync(file)
            self._local.release()


def _no_sync(file: int) -> None:
    """Leave it to the kernel when the file's pages reach the disk."""


def _serve(directory: Path, sync: Callable[[int], None], kind: str, *words: str) -> None:
    """A peer: write what comes, piece by piece, sync, acknowledge; until the links end."""
    slots, links = Slots(directory), connect(kind, *words)
    for payload in links.payloads():
        file = slots.begin()
        for number, piece in enumerate(payload):
            os.pwrite(file, piece, number * PIECE_BYTES)
        sync(file)
        links.acknowledge()


if __name__ == "__main__":
    directory, durability, *rest = sys.argv[1:]
    _serve(Path(directory), os.fdatasync if durability == "synced" else _no_sync, *rest)
