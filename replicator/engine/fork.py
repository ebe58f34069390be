"""The guard against forks: a forked child holds its parent's handles, and is to use none of them."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

from replicator.engine.ticket import Latch


class Disowned(Protocol):
    """What has to know that it is in a forked child."""

    def disown(self) -> None:
        """Called in the child."""


_guarded: weakref.WeakSet[Disowned] = weakref.WeakSet()


def guard(handle: Disowned) -> None:
    """Have `disown` called in every child that is forked while *handle* is alive."""
    _guarded.add(handle)


def _disown_all() -> None:
    Latch.lock = threading.Lock()  # the one lock of all latches; a thread that held it is not here to let go
    for handle in tuple(_guarded):
        handle.disown()


os.register_at_fork(after_in_child=_disown_all)
