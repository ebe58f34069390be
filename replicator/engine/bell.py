"""The bell: wakes the link's thread when it sleeps, and costs next to nothing when it does not."""

from __future__ import annotations

import contextlib
import os


class Bell:
    """An eventfd behind a flag. Whoever has put something down rings; the sleeper looks once more after
    it has said that it dozes, so nothing is missed."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._dozing = False

    def ring(self) -> None:
        """Wake the sleeper. Any thread; never blocks."""
        if self._dozing:
            self._dozing = False
            os.eventfd_write(self._fd, 1)

    def doze(self) -> None:
        """Ask to be woken; look for work once more before you sleep."""
        self._dozing = True

    def wake(self, is_rung: bool = True) -> None:
        """Awake again: silence the bell if it was rung, which the sleeper may know."""
        self._dozing = False
        if not is_rung:
            return
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)

    def fileno(self) -> int:
        """What to poll for reading."""
        return self._fd

    def close(self) -> None:
        """No ring after this one is heard."""
        self._dozing = False
        os.close(self._fd)
