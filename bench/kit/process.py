"""What processes use: processor time and memory, from /proc."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from types import TracebackType

CPU_CLOCK = 2  # CPUCLOCK_SCHED: what clock_getcpuclockid(3), which Python lacks, makes of a process
FORGET_PEAK = "5"
WATCH_INTERVAL_S = 0.02


def cpu_s(pids: Iterable[int]) -> float:
    """Processor seconds of all threads of the processes, user and system; those that have ended count 0."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += time.clock_gettime(~pid << 3 | CPU_CLOCK)
    return total


def forget_peak(pid: int) -> bool:
    """Have VmHWM begin anew at what is resident now; false where that is not allowed."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text(FORGET_PEAK)
    except OSError:
        return False
    return True


def memory_mib(pid: int, field: str = "RssAnon") -> float:
    """Resident memory of a process: what is its own (RssAnon), all (VmRSS), or the peak of all (VmHWM)."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
    return 0.0


def pin(pid: int, cores: Collection[int], *, but: Collection[int] = ()) -> None:
    """Let all threads of a process run on *cores* only, those of *but* excepted."""
    for path in Path(f"/proc/{pid}/task").iterdir():
        if int(path.name) not in but:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(path.name), cores)


class Usage:
    """Processor share and peak memory of some processes while a ``with`` statement lasts.

    What watching takes, of this process, is not in its share.
    """

    def __init__(self, pids: Collection[int]) -> None:
        self._pids = list(pids)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._watching_s = 0.0
        self.peak_mib = dict.fromkeys(self._pids, 0.0)
        self.cpu_share = dict.fromkeys(self._pids, 0.0)

    def __enter__(self) -> Usage:
        self._began, self._cpu = time.monotonic(), {pid: cpu_s([pid]) for pid in self._pids}
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        spent_s = time.monotonic() - self._began
        self._cpu[os.getpid()] = self._cpu.get(os.getpid(), 0.0) + self._watching_s
        self.cpu_share = {pid: (cpu_s([pid]) - self._cpu[pid]) / spent_s for pid in self._pids}

    def _watch(self) -> None:
        while True:
            for pid in self._pids:
                self.peak_mib[pid] = max(self.peak_mib[pid], memory_mib(pid))
            if self._done.wait(WATCH_INTERVAL_S):
                self._watching_s = time.thread_time()
                return
