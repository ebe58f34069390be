"""The bell: wakes a thread when it sleeps, and costs next to nothing when it does not.

The store's writer, the control thread and the link's thread each sleep on one. It is an eventfd and not a
condition: whoever rings gives up the interpreter's lock, so the sleeper does not wake only to wait for it,
and it can be polled beside sockets.
"""

from __future__ import annotations

import os

from replicator.descriptor import above_standard


class Bell:
    """An eventfd behind a flag. Whoever has put something down rings; the sleeper looks once more after
    it has said that it dozes, so nothing is missed.

    Who rings very often may look at the flag first: a call costs as much as all the rest.
    """

    def __init__(self) -> None:
        (self._fd,) = above_standard(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        self.is_dozing = False  # whether ringing does anything

    def ring(self) -> None:
        """Wake the sleeper. Any thread; never blocks."""
        if self.is_dozing:
            self.is_dozing = False
            os.eventfd_write(self._fd, 1)

    def doze(self) -> None:
        """Ask to be woken; look for work once more before you sleep."""
        self.is_dozing = True

    def wake(self) -> None:
        """Awake again: who rings now need not."""
        self.is_dozing = False

    def silence(self) -> None:
        """Stop the bell if it was rung, which the sleeper may know."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return

    def fileno(self) -> int:
        """What to poll for reading."""
        return self._fd

    def close(self) -> None:
        """No ring after this one is heard."""
        self.is_dozing = False
        os.close(self._fd)
