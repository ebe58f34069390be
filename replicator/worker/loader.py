"""The loader: one thread that restores checkpoints, so that the control thread never waits for a disk.

A tenure's heads come first; warm standbys are loaded when no tenure waits. What is being restored for a
standby when a tenure wants it is the tenure's then, and what nobody wants any longer ends at its next chunk.
Results go to the control thread, which sends them to the engine. It runs at the priority of all others: a low
one could be put aside by the kernel while it holds the interpreter's lock, and the heartbeats with it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable

from replicator.adapters.ports import DataPath
from replicator.errors import ReplicatorError
from replicator.model import Epoch, Head, Payload, StreamName
from replicator.worker.inbox import Loaded

HEADS_MAX = 256  # of small checkpoints that are restored at once

log = logging.getLogger(__name__)


class _Job:
    """What is to be restored for the tenure of *epoch*: one, or some that may be small. Or (None) what is for
    a warm standby, which is one."""

    __slots__ = ("epoch", "heads", "is_wanted")

    def __init__(self, epoch: Epoch | None, heads: list[Head]) -> None:
        self.epoch, self.heads, self.is_wanted = epoch, heads, True


class Loader:
    """Restores heads in order, small ones several at once, on a thread of its own."""

    def __init__(self, data: DataPath, deliver: Callable[[tuple[Loaded, ...]], None]) -> None:
        self._data = data
        self._deliver = deliver
        self._epoch: Epoch | None = None  # of the tenure whose heads are urgent
        self._urgent: deque[Head] = deque()
        self._leisurely: deque[Head] = deque()
        self._large: deque[_Job] = deque()  # of those heads, what did not come with the small ones
        self._job: _Job | None = None  # under way
        self._work = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="replicator-loader", daemon=True)
        self._thread.start()

    def load(self, epoch: Epoch | None, heads: Iterable[Head]) -> None:
        """Queue heads for the tenure of *epoch*, the only one then, or for a warm standby (None)."""
        with self._work:
            if epoch is None:
                self._leisurely.extend(heads)
            else:
                self._epoch = epoch
                self._urgent.extend(self._not_under_way(epoch, heads))
            self._work.notify()

    def _not_under_way(self, epoch: Epoch, heads: Iterable[Head]) -> list[Head]:
        """All but the one that is being restored for a standby, which is the tenure's from now on."""
        wanted, job = list(heads), self._job
        if job is not None and job.epoch is None and job.is_wanted:
            for index, head in enumerate(wanted):
                if head.stream == job.heads[0].stream and head.same_as(job.heads[0]):
                    job.epoch, job.heads = epoch, [wanted.pop(index)]
                    break
        return wanted

    def drop(self) -> None:
        """Forget the heads of a tenure that has ended before they were restored."""
        with self._work:
            self._urgent.clear()
            self._large.clear()
            if self._job is not None:
                self._job.is_wanted &= self._job.epoch is None

    def drop_standbys(self) -> None:
        """Forget what was to be restored for standbys."""
        with self._work:
            self._leisurely.clear()
            if self._job is not None:
                self._job.is_wanted &= self._job.epoch is not None

    def close(self) -> None:
        """End the thread, and what it restores at its next chunk."""
        with self._work:
            self._closed = True
            self._work.notify()
        self._thread.join()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            if len(job.heads) == 1:
                self._restore(job)
            else:
                self._restore_small(job)

    def _restore_small(self, job: _Job) -> None:
        """Restore those that are small at once; the others have their turn by themselves."""
        small = self._small(job.heads)
        found = [head for head in job.heads if head.stream in small]
        if found and job.is_wanted:
            self._deliver(tuple([Loaded(job.epoch, head, small[StreamName(head.stream)]) for head in found]))
        with self._work:
            self._job = None
            for head in job.heads if job.is_wanted else ():
                if head.stream not in small:
                    self._large.append(_Job(job.epoch, [head]))

    def _small(self, heads: list[Head]) -> dict[StreamName, Payload]:
        try:
            return self._data.restore_small(heads)
        except Exception:  # singly, the stream that it comes from is told of it, and the others are restored
            log.exception("restore of small checkpoints failed count=%d", len(heads))
            return {}

    def _restore(self, job: _Job) -> None:
        """Restore one, and tell of it unless nobody wants it any longer."""
        payload, error = self._restored(job)
        with self._work:
            self._job = None
        if job.is_wanted and not self._closed:
            self._deliver((Loaded(job.epoch, job.heads[0], payload, error),))

    def _restored(self, job: _Job) -> tuple[Payload | None, str]:
        head = job.heads[0]
        try:
            return self._data.restore(head, lambda: job.is_wanted and not self._closed), ""
        except ReplicatorError as error:
            return None, str(error)
        except Exception as error:
            log.exception("restore failed stream=%s sequence=%d", head.stream, head.sequence)
            return None, f"{type(error).__name__}: {error}"

    def _next(self) -> _Job | None:
        """What is to be restored now; nothing when it is time to end."""
        with self._work:
            self._work.wait_for(lambda: self._closed or self._large or self._urgent or self._leisurely)
            if self._closed:
                return None
            if self._large:
                self._job = self._large.popleft()
            elif self._urgent:
                count = min(len(self._urgent), HEADS_MAX)
                self._job = _Job(self._epoch, [self._urgent.popleft() for _ in range(count)])
            else:
                self._job = _Job(None, [self._leisurely.popleft()])
            return self._job
