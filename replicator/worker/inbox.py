"""The control thread's inbox: what other threads tell it, and what wakes it.

Events come from the store's writer, the data threads and the loader; *posts* are functions to be run on
the control thread (a status that the admin socket asks for). Both are appended to one deque, which needs
no lock; the sleeping control thread is woken by one write to an eventfd, a waking one by nothing. The
producers bound it: each of them has a bounded number of things under way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from msgspec import Struct

from replicator.bell import Bell
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


class Inbox(Bell):
    """A deque with a bell; it is closed when every thread that delivers has ended."""

    def __init__(self) -> None:
        super().__init__()
        self._items: deque[Item] = deque()

    def deliver(self, item: Item) -> None:
        """Append an item and wake the control thread if it sleeps. Any thread; never blocks."""
        self._items.append(item)
        if self.is_dozing:
            self.ring()

    def post(self, run: Callable[[], None]) -> None:
        """Have *run* called on the control thread."""
        self.deliver(Post(run))

    def may_sleep(self) -> bool:
        """Ask to be woken from now on; false if there is something to do first.

        The order matters: whoever appends after the flag is set rings, and what was appended before it
        is seen here.
        """
        self.is_dozing = True
        return not self._items

    def take(self) -> Iterator[Item]:
        """What is there, oldest first, also what comes meanwhile."""
        while self._items:
            yield self._items.popleft()
