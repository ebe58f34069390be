"""The watch: notices that the engine is gone, however it went, so that the worker follows it at once.

A pipe of which the engine holds the other end, and alone, is closed when the program ends: also when another
one takes its place in the same process (exec), which keeps its id and its children.

The process is watched, too, for a copy of the pipe may have gone to one that was forked unseen. A pidfd
becomes readable when the process ends, also by SIGKILL. It is taken for a parent's id: if the parent has
changed by then, the engine was gone before. Where the kernel gives no pidfd, the parent's id is looked at
`POLL_INTERVAL_S` apart. A signal of the kernel's on the parent's death would not do: it follows the thread
that spawned the worker, and leaves no time to give back the lease.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

POLL_INTERVAL_S = 0.05


class EngineWatch:
    """Calls *gone* once on the loop when the process *pid*, this one's parent, has ended, or has closed its
    end of *pipe*, by which nothing comes."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, pid: int, pipe: int, gone: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._pid = pid
        self._pipe = pipe
        self._gone = gone
        self._pidfd = -1
        self._timer: asyncio.TimerHandle | None = None
        loop.add_reader(pipe, self._end)
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            pass
        except OSError:
            self._poll()
            return
        if self._pidfd < 0 or os.getppid() != pid:
            self._end()
        else:
            loop.add_reader(self._pidfd, self._end)

    def close(self) -> None:
        """Stop watching."""
        self._loop.remove_reader(self._pipe)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _poll(self) -> None:
        if os.getppid() != self._pid:
            self._end()
        else:
            self._timer = self._loop.call_later(POLL_INTERVAL_S, self._poll)

    def _end(self) -> None:
        self.close()
        self._gone()
