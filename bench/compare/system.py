"""What a system must do to be compared, and how its servers are started and ended.

`Durability` is what holds when a put returns. They are not the same promise, and a figure is fair only
beside one of its own class; a rival that promises less than its class is named so.
"""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Literal, TypeVar

Found = TypeVar("Found")
Durability = Literal["synced on a majority", "not synced, on a majority"]
CHUNK_BYTES = 2**20  # how a payload is cut where a system takes no larger message
STREAMS = 8  # as many names are written over again and again
READY_TIMEOUT_S = 30.0
PR_SET_PDEATHSIG = 1


class Absent(Exception):
    """A system cannot be compared here; the text says why and what would help."""


class System:
    """Three processes that hold what is put. Use it in a ``with`` statement.

    `put` returns when the payload is held as *durability* says. It is called from one thread at a time;
    `putter` gives a further caller a `put` of its own, for several at once.
    """

    name: ClassVar[str]
    durability: ClassVar[Durability]
    remark: str = ""
    size_max: ClassVar[int] = 2**30

    def __init__(self, parent: Path | None = None) -> None:
        self._parent = parent
        self.stack = ExitStack()

    def start(self, base: Path) -> None:
        """Start all processes and wait until they serve; raises `Absent` if they cannot be started."""
        raise NotImplementedError

    def put(self, stream: int, payload: bytearray) -> None:
        """Store *payload* under the name of *stream* and wait until it is held."""
        raise NotImplementedError

    def putter(self) -> Callable[[int, bytearray], None]:
        """A `put` that may be called beside the others."""
        return self.put

    def put_for(
        self, payload: bytearray, in_flight: int, seconds: float, freshen: Callable[[bytearray], None]
    ) -> float:
        """Put again and again, *in_flight* at a time; the payload bytes per second."""
        done, until = [0] * in_flight, time.perf_counter() + seconds
        errors: list[BaseException] = []

        def work(number: int, put: Callable[[int, bytearray], None]) -> None:
            own = bytearray(payload)
            try:
                while not done[number] or time.perf_counter() < until:
                    freshen(own)
                    put(number, own)
                    done[number] += 1
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(n, self.putter())) for n in range(in_flight)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return sum(done) * len(payload) / (time.perf_counter() - began)

    def __enter__(self) -> System:
        with self.stack:
            directory = tempfile.TemporaryDirectory(prefix="replicator-compare-", dir=self._parent)
            self.start(Path(self.stack.enter_context(directory)))
            self.stack = self.stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.close()

    def spawn(self, command: Sequence[str], log: Path) -> None:
        """Start a server that is killed in the end, also when this process is."""
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent
            )
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)


def program(*names: str) -> str:
    """The path of the first of these programs that is installed; raises `Absent`."""
    for name in names:
        found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/bin:/usr/bin")
        if found:
            return found
    raise Absent(f"{' or '.join(names)} is not installed; scripts/bench compare --install does it")


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses just now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_until(
    what: str, check: Callable[[], Found | None], errors: tuple[type[Exception], ...] = (OSError,)
) -> Found:
    """Wait for something of a server, and give it; raises `Absent` when it does not come."""
    until = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < until:
        with contextlib.suppress(*errors):
            if found := check():
                return found
        time.sleep(0.05)
    raise Absent(f"{what} did not come within {READY_TIMEOUT_S:.0f} s")


def pieces(payload: bytearray) -> list[memoryview]:
    """The payload in pieces of at most `CHUNK_BYTES`."""
    view = memoryview(payload)
    return [view[start : start + CHUNK_BYTES] for start in range(0, len(view), CHUNK_BYTES)]


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
