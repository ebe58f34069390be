"""The watch of a simulated disk: says that it hangs, as a worker's does of a real one (R21)."""

from __future__ import annotations

from collections.abc import Callable

from replicator.core.events import Event, StoreHangs

HANGS_AFTER_S = 5.0  # `lapse_max_s`


class DiskWatch:
    """Looks now and then whether anything has been written of what waits."""

    def __init__(
        self,
        schedule: Callable[..., None],
        is_waited_for: Callable[[], bool],
        deliver: Callable[[Event], None],
    ) -> None:
        self._schedule = schedule
        self._is_waited_for = is_waited_for
        self._deliver = deliver
        self._life = 0  # a look of an earlier process means nothing
        self._writes = 0
        self._is_watched = self._has_said = False

    def look_later(self) -> None:
        """Something may wait from now on."""
        if not self._is_watched and self._is_waited_for():
            self._is_watched = True
            self._schedule(HANGS_AFTER_S, self._look, self._life, self._writes)

    def _look(self, life: int, writes: int) -> None:
        if life != self._life:
            return
        self._is_watched = False
        if writes == self._writes and self._is_waited_for():
            self._say(True)
        self.look_later()

    def wrote(self) -> None:
        """A batch is done."""
        self._writes += 1
        self._say(False)

    def crash(self) -> None:
        """The process dies."""
        self._life += 1
        self._is_watched = self._has_said = False

    def _say(self, hangs: bool) -> None:
        if hangs != self._has_said:
            self._has_said = hangs
            self._deliver(StoreHangs(hangs))
