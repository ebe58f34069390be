"""Commit points that a backup hears of: for retention, a warm standby, and to know what it lacks (R15)."""

from __future__ import annotations

from replicator.core import effects
from replicator.core.messages import CommitPoint
from replicator.core.state import State
from replicator.model import StreamName


class Points:
    """Those of checkpoints that are not here yet wait for them; true if there are any."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._waiting: dict[StreamName, CommitPoint] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def take(self, point: CommitPoint) -> None:
        """A hint; one of what is held here, of what is superseded or deleted here, or of what is to come."""
        state, stream = self._state, StreamName(point.stream)
        head = state.heads.get(stream)
        if head is not None and head.position == point.position:
            self._waiting.pop(stream, None)
            if state.committed.get(stream) != (head.generation, head.sequence):
                state.mark_committed(head)
                state.emit(effects.Standby(head))
        elif state.is_old(stream, state.promised_epoch, point.position.sequence):
            self._waiting.pop(stream, None)
        else:  # nothing of an older epoch supersedes it, whatever its sequence
            self._waiting[stream] = point

    def arrived(self, stream: StreamName) -> None:
        """The stream has a new head here."""
        if (point := self._waiting.get(stream)) is not None:
            self.take(point)

    def forget(self, stream: StreamName) -> None:
        """It is deleted everywhere (R23)."""
        self._waiting.pop(stream, None)
