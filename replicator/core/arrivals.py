"""Arrivals: which of the primary's publications have come, and which may be on their way still (R16, R18).

A backup is told by heartbeats how much has been published. What has not come by then is lost, or the link is
slow: ZeroMQ says neither. Lost publications must not stop the window, and a fetch of what is coming anyway
would take the link's time twice. So the window believes in a loss soon, and a fetch waits for as long as
publications come in, each within a few times what the slowest of late has taken. Those of large checkpoints
are measured apart: on a slow link they take long, and the small ones between them would have that forgotten.
"""

from __future__ import annotations

import math

from replicator.core.state import State
from replicator.model import Head, StreamName

PATIENCE = 4  # so many times as long as the slowest of late took
PATIENCE_MAX_S = 20.0


class Arrivals:
    """Publications of the epoch that is followed, by their index."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.begin()
        # By one publication, of late: by the last of a checkpoint, mostly its only one, and by those before.
        self._took_s = [0.0, 0.0]

    def begin(self) -> None:
        """A new epoch: publications count from 1 again."""
        self.seen_index = 0  # has come, or was given up
        self._reported_index = 0  # of these, what the primary knows of
        self._told_index = 0
        self._told_at = math.inf  # since when something is on its way
        self._came_index = 0
        self._is_amid = False  # more of the checkpoint of what came last is to follow
        self._lost_index = 0  # given up: nobody waits for it, but from how late it comes is learnt
        self._came_at = -math.inf
        self._due: dict[StreamName, int] = {}  # heads said to be lacking: at the latest published by then

    def told(self, index: int) -> bool:
        """The newest heartbeat says how much has been published; whether the tail is given up now."""
        silent_s = self._state.now - max(self._came_at, self._told_at)
        # On a slow link the large ones come one by one. Twice what they took is PATIENCE_MAX_S at the most.
        is_lost = self.seen_index < index == self._told_index and silent_s >= 2 * self._took_s[True]
        if is_lost:
            self.seen_index = index
        if index > self._over_index >= self._told_index:
            self._told_at = self._state.now
        self._told_index = index
        return is_lost

    def came(self, index: int, is_amid: bool) -> None:
        """A publication has come in; *is_amid*: it does not end its checkpoint, so it is a large one."""
        self.seen_index = max(self.seen_index, index)
        if index > self._came_index:
            took_s = 0.0
            if index <= self._told_index:  # it was waited for, or something else that was lost
                waited_s = self._state.now - max(self._came_at, self._told_at)
                took_s = min(waited_s, PATIENCE * self._patience_s(is_amid), PATIENCE_MAX_S / 2)
            self._took_s[is_amid] = max(took_s, self._took_s[is_amid] / 2)
            self._came_index, self._came_at, self._is_amid = index, self._state.now, is_amid
            if index <= self._lost_index:  # what comes was late, so the rest may be
                self._lost_index = 0

    @property
    def untold(self) -> int:
        """How many the primary does not know to be seen."""
        return self.seen_index - self._reported_index

    def tell(self) -> int:
        """The primary is told now: up to which index."""
        self._reported_index = self.seen_index
        return self.seen_index

    def is_coming(self, head: Head, epoch: int) -> bool:
        """Whether a head that the primary of *epoch* says is lacking here may be on its way."""
        if head.epoch != epoch:  # published in an older one
            return False
        due = self._due.setdefault(StreamName(head.stream), self._told_index)
        patience_s = self._patience_s(self._is_amid or due - self._over_index > 1)
        if self._state.now - max(self._came_at, self._told_at) >= patience_s:
            self._lost_index = max(self._lost_index, due)
        return self._over_index < due

    @property
    def _over_index(self) -> int:
        """Up to here nothing is waited for."""
        return max(self._came_index, self._lost_index)

    def _patience_s(self, is_amid: bool) -> float:
        took_s = max(self._took_s[: 1 + is_amid])
        return max(self._state.config.behind_interval_s, min(PATIENCE * took_s, PATIENCE_MAX_S))

    def settled(self, stream: StreamName) -> None:
        """The head is here, or being fetched."""
        self._due.pop(stream, None)
