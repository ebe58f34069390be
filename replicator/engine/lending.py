"""Lending: payloads that the worker reads where they lie, from `submit` until they are given back.

A checkpoint goes by the direct line (`link.line`) if there is one. Nobody is told when it has been read: that
stands in shared memory. Whoever looks takes back what has been read by then; a thread or task that waits has
the worker say it. The lock is the session's, as is the backlog.

What is free is let go of outside of the lock: the last reference to a payload may run anybody's finalizer.
"""

from __future__ import annotations

import threading
from collections import deque

from replicator.bell import Bell
from replicator.engine.backlog import Backlog, Entry
from replicator.link.line import EngineLine


class Lending:
    """What was said on the present line and has not been taken back, in order."""

    def __init__(self, lock: threading.Lock, backlog: Backlog, bell: Bell) -> None:
        self.is_awaited = False  # somebody waits for a payload to be read
        self._lock = lock
        self._backlog = backlog
        self._bell = bell
        self._line: EngineLine | None = None
        self._lent: deque[Entry] = deque()

    def use(self, line: EngineLine | None) -> None:
        """Tell the worker of checkpoints by that line from now on; None: by the link."""
        with self._lock:
            self._line = line

    def send(self, now: float) -> bool:
        """Tell the worker of the oldest checkpoint of the outbox; false if it has to take the link, or there
        is none. Called under the lock.

        A signal's handler may raise anywhere in here. The entry is still in the outbox then: the next call
        goes on with it. What has been done is done once more without harm, but it is told of once.
        """
        line, outbox = self._line, self._backlog.outbox
        if line is None or not outbox:
            return False
        entry = outbox[0]
        if (parcel := entry.parcel) is None:
            return False
        ticket = entry.ticket
        if not entry.position:
            place = ticket.position.epoch, ticket.stream, ticket.position.sequence, entry.handle
            entry.position = line.send(place, parcel.parts, parcel.meta, parcel.is_mapping)
            if not entry.position:
                return False
        line.tell(entry.position)
        self._backlog.sent(entry, now)
        self._lent.append(entry)
        released = ticket.released
        released.position, released.reader = entry.position, self
        if released.waiters:  # it began to wait when nobody had lent the payload yet
            self._want(True)
            self._bell.ring()
        outbox.popleft()
        return True

    def has_read(self, position: int) -> bool:
        """Whether the worker has read up to *position*: a look at memory."""
        line = self._line
        return line is not None and line.passed[0] >= position

    def take_back(self) -> None:
        """Release what has been read."""
        lent = self._lent
        taken: list[Entry] = []  # their tickets, too, may be in nobody's hands any more
        with self._lock:
            while lent and self.has_read(lent[0].position):
                taken.append(lent[0])
                self._backlog.released(lent[0].handle)
                lent.popleft()  # at last: a signal's handler may raise before
            if self.is_awaited and not lent:
                self._want(False)
        self.let_go()

    def let_go(self) -> None:
        """Drop the payloads that are free, and say so. Called outside of the lock, by any number of threads.
        A signal's handler may raise in here: whoever comes next goes on with it."""
        free = self._backlog.free
        for entry in list(free.values()):
            entry.parcel = None
            entry.ticket.released.set()
            free.pop(entry.handle, None)

    def await_read(self) -> None:
        """Somebody begins to wait: the link's thread has to look soon, and the worker to wake it."""
        with self._lock:
            self._want(bool(self._lent))
        self._bell.ring()

    def go_by_link(self) -> None:
        """The worker reads nothing here any more: all that it has not read goes again, by the link."""
        self.take_back()
        with self._lock:
            self._line = None
            self._backlog.unsent(entry.handle for entry in self._lent)
            self._lent.clear()
            self.is_awaited = False
        self.let_go()

    def lost(self) -> None:
        """The worker is gone: nothing is lent. Called under the lock."""
        self._line = None
        self._lent.clear()
        self.is_awaited = False

    def disown(self) -> None:
        """In a forked child: what is read there is the parent's, and its lock may be held for ever."""
        self._line = None

    def _want(self, wanted: bool) -> None:
        self.is_awaited = wanted
        if self._line is not None:
            self._line.want_released(wanted)
