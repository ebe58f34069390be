"""The engine's wish to hand its tenure over: to a successor, or to whom it comes.

Takes no lock: a signal's handler may wish, in the midst of whatever the main thread does.
"""

from __future__ import annotations

from replicator.model import Epoch


class Resignation:
    """One wish at a time is with the worker; the newest of those that come meanwhile follows a refusal."""

    def __init__(self) -> None:
        self.epoch: Epoch | None = None  # whose tenure is being handed over
        self._successor: str | None = None  # to whom, and to nobody else
        self._later: tuple[str | None, ...] = ()  # to whom instead, if that one is refused

    def wish(self, epoch: Epoch, successor: str | None) -> bool:
        """Whether the worker is to be told of it now."""
        if self.epoch == epoch:
            self._later = (successor,) if successor != self._successor else ()
            return False
        self.epoch, self._successor, self._later = epoch, successor, ()
        return True

    def refused(self, epoch: Epoch) -> tuple[str | None, ...] | None:
        """To whom to hand over now, or to nobody; None if what was refused was not the engine's wish."""
        if self.epoch != epoch or self._successor is None:
            return None
        self.epoch = None
        return self._later
