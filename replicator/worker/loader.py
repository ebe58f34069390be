"""The loader: one thread that restores checkpoints, so that the control thread never waits for a disk.

A tenure's heads come first; warm standbys are loaded when no tenure waits. Results go to the control
thread, which sends them to the engine; a job that was dropped in between is recognised there by its
epoch. It runs at the priority of all others: a low one could be put aside by the kernel while it holds
the interpreter's lock, and the heartbeats with it.
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

HEADS_MAX = 64  # of small checkpoints that are restored at once

log = logging.getLogger(__name__)


class Loader:
    """Restores heads in order, small ones several at once, on a thread of its own."""

    def __init__(self, data: DataPath, deliver: Callable[[tuple[Loaded, ...]], None]) -> None:
        self._data = data
        self._deliver = deliver
        self._epoch: Epoch | None = None  # of the tenure whose heads are urgent
        self._urgent: deque[Head] = deque()
        self._leisurely: deque[Head] = deque()
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
                self._urgent.extend(heads)
            self._work.notify()

    def drop(self) -> None:
        """Forget the heads of a tenure that has ended before they were restored."""
        with self._work:
            self._urgent.clear()

    def close(self) -> None:
        """End the thread, and what it restores at its next chunk."""
        with self._work:
            self._closed = True
            self._work.notify()
        self._thread.join()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            epoch, heads = job
            small = self._small(heads) if len(heads) > 1 else {}
            if small:
                found = [head for head in heads if head.stream in small]
                self._deliver(tuple(Loaded(epoch, head, small[StreamName(head.stream)]) for head in found))
            for head in heads:
                if head.stream not in small:
                    self._deliver((self._restored(epoch, head),))

    def _small(self, heads: list[Head]) -> dict[StreamName, Payload]:
        try:
            return self._data.restore_small(heads)
        except Exception:  # singly, the stream that it comes from is told of it, and the others are restored
            log.exception("restore of small checkpoints failed count=%d", len(heads))
            return {}

    def _restored(self, epoch: Epoch | None, head: Head) -> Loaded:
        try:
            return Loaded(epoch, head, self._data.restore(head, lambda: not self._closed))
        except ReplicatorError as error:
            return Loaded(epoch, head, None, str(error))
        except Exception as error:
            log.exception("restore failed stream=%s sequence=%d", head.stream, head.sequence)
            return Loaded(epoch, head, None, f"{type(error).__name__}: {error}")

    def _next(self) -> tuple[Epoch | None, list[Head]] | None:
        with self._work:
            self._work.wait_for(lambda: self._closed or self._urgent or self._leisurely)
            if self._closed:
                return None
            if not self._urgent:
                return None, [self._leisurely.popleft()]
            count = min(len(self._urgent), HEADS_MAX)
            return self._epoch, [self._urgent.popleft() for _ in range(count)]
