"""Lending: payloads that the worker reads where they lie, from `submit` until they are given back.

A checkpoint goes by the direct line (`link.line`) if there is one. Nobody is told when it has been read: that
stands in shared memory. Whoever looks takes back what has been read by then; a thread or task that waits has
the worker say it. The lock is the session's, as is the backlog.
"""

from __future__ import annotations

import threading
from collections import deque

from replicator.engine.backlog import Backlog
from replicator.engine.bell import Bell
from replicator.engine.ticket import Ticket
from replicator.link.line import EngineLine


class Lending:
    """What was said on the present line and has not been taken back, in order."""

    def __init__(self, lock: threading.Lock, backlog: Backlog, bell: Bell) -> None:
        self.is_awaited = False  # somebody waits for a payload to be read
        self._lock = lock
        self._backlog = backlog
        self._bell = bell
        self._line: EngineLine | None = None
        self._lent: deque[tuple[int, int]] = deque()  # the position at which it has been read, its handle

    def use(self, line: EngineLine | None) -> None:
        """Tell the worker of checkpoints by that line from now on; None: by the link."""
        with self._lock:
            self._line = line

    def send(self, now: float) -> bool:
        """Tell the worker of the oldest checkpoint of the outbox; false if it has to take the link, or there
        is none. Called under the lock."""
        if self._line is None or not self._backlog.outbox:
            return False
        entry = self._backlog.outbox[0]
        if (parcel := entry.parcel) is None:
            return False
        ticket = entry.ticket
        place = ticket.position.epoch, ticket.stream, ticket.position.sequence, entry.handle
        position = self._line.send(place, parcel.parts, parcel.meta, parcel.is_mapping)
        if not position:
            return False
        self._backlog.sent(self._backlog.outbox.popleft(), now)
        self._lent.append((position, entry.handle))
        ticket.released.reader, ticket.released.position = self, position
        return True

    def has_read(self, position: int) -> bool:
        """Whether the worker has read up to *position*: a look at memory."""
        line = self._line
        return line is not None and line.passed[0] >= position

    def take_back(self) -> None:
        """Release what has been read."""
        lent, free = self._lent, list[Ticket | None]()
        with self._lock:
            while lent and self.has_read(lent[0][0]):
                free.append(self._backlog.released(lent.popleft()[1]))
            if self.is_awaited and not lent:
                self._want(False)
        for ticket in free:
            if ticket is not None:
                ticket.released.set()

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
            free = self._backlog.unsent([handle for _, handle in self._lent])
            self._lent.clear()
            self.is_awaited = False
        for ticket in free:
            ticket.released.set()

    def lost(self) -> None:
        """The worker is gone. Called under the lock."""
        self._line = None
        self._lent.clear()
        self.is_awaited = False

    def _want(self, wanted: bool) -> None:
        self.is_awaited = wanted
        if self._line is not None:
            self._line.want_released(wanted)
