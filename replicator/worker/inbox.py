"""The control thread's inbox: what other threads tell it, and what wakes it.

Events come from the store's writer, the data threads and the loader; *posts* are functions to be run on
the control thread (a status that the admin socket asks for). Both are appended to one deque, which needs
no lock; the sleeping control thread is woken by one write to an eventfd, a waking one by nothing. The
producers bound it: each of them has a bounded number of things under way.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator

from msgspec import Struct

from replicator.core.events import Event
from replicator.model import Epoch, Head, Payload


class Loaded(Struct, frozen=True):
    """The loader has tried to restore *head* for the tenure of *epoch* (None: for a warm standby)."""

    epoch: Epoch | None
    head: Head
    payload: Payload | None
    error: str = ""


class Post(Struct, frozen=True):
    """A function to be run on the control thread."""

    run: Callable[[], None]


Item = Event | tuple[Loaded, ...] | Post


class Inbox:
    """A deque with a bell."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._asleep = False

    def deliver(self, item: Item) -> None:
        """Append an item and wake the control thread if it sleeps. Any thread; never blocks."""
        self._items.append(item)
        if self._asleep:
            self._asleep = False
            os.eventfd_write(self._bell, 1)

    def post(self, run: Callable[[], None]) -> None:
        """Have *run* called on the control thread."""
        self.deliver(Post(run))

    def fileno(self) -> int:
        """What becomes readable when an item comes for a sleeper."""
        return self._bell

    def doze(self) -> bool:
        """Ask to be woken from now on; false if there is something to do first.

        The order matters: whoever appends after the flag is set rings, and what was appended before it
        is seen here.
        """
        self._asleep = True
        return not self._items

    def wake(self) -> None:
        """Stop asking to be woken."""
        self._asleep = False

    def silence(self) -> None:
        """Stop the bell; called when it was heard."""
        os.eventfd_read(self._bell)

    def take(self) -> Iterator[Item]:
        """What is there, oldest first, also what comes meanwhile."""
        while self._items:
            yield self._items.popleft()

    def close(self) -> None:
        """Close the bell; called when every thread that delivers has ended."""
        self._asleep = False
        os.close(self._bell)
