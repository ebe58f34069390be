"""How much memory a process takes, looked at all the time while a test goes on.

What counts is anonymous memory: pages of the store that the kernel keeps mapped are a cache, which it takes
back when somebody needs the room.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from types import TracebackType

INTERVAL_S = 0.01
KIB, MIB = 2**10, 2**20


def resident_bytes(pid: int) -> int:
    """The anonymous memory of a process, as it is now; 0 when it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * KIB
    return 0


class MemoryWatch:
    """The peak of one process while a ``with`` statement lasts, and what it had at its beginning."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.before_bytes = self.peak_bytes = resident_bytes(pid)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(INTERVAL_S):
            self.peak_bytes = max(self.peak_bytes, resident_bytes(self._pid))
