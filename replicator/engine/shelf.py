"""The shelf: committed checkpoints that came for a warm standby, kept until a tenure starts from them.

Of each stream the newest is kept, also after the follower has taken it, so that a takeover need not have it
loaded and sent again; of a deleted one nothing is. The worker knows what is here: it is what it has offered
last. A follower is given none twice, also if a worker that has started anew offers it again. Used under the
session's lock, but for `stop_waiting`.
"""

from __future__ import annotations

from msgspec.structs import replace

from replicator.engine.checkpoint import Arrival, Checkpoint
from replicator.model import Position, StreamName


class _Follower:
    """What one follower has still to take, and what it was given last, by stream."""

    def __init__(self) -> None:
        self.waiting: dict[StreamName, Arrival] = {}  # oldest stream first
        self.given: dict[StreamName, Position] = {}


class Shelf:
    """Per stream one checkpoint, and how far the follower is with it."""

    def __init__(self) -> None:
        self._follower = _Follower()
        self._kept: dict[StreamName, Arrival | Checkpoint] = {}
        self._followed: dict[StreamName, Position] = {}  # what the engine has loaded

    def put(self, arrival: Arrival, is_wanted: bool) -> bool:
        """A newer one has come, or from a new worker the same again: then true, the follower had it. It is
        kept whether or not somebody follows just now."""
        stream, follower = StreamName(arrival.message.stream), self._follower
        self._kept[stream] = arrival
        is_known = is_wanted and follower.given.get(stream) == arrival.message.position
        if is_wanted and not is_known:
            follower.waiting[stream] = arrival
        return is_known

    def take(self) -> Checkpoint | None:
        """The one that has waited longest."""
        follower = self._follower
        if not follower.waiting:
            return None
        stream = next(iter(follower.waiting))
        arrival = follower.waiting.pop(stream)
        checkpoint = arrival.checkpoint()
        follower.given[stream] = checkpoint.position
        if self._kept.get(stream) is arrival:
            # The bytes are there once, but the mapping is the follower's, who may take it apart.
            self._kept[stream] = replace(checkpoint, parts=checkpoint.parts.copy())
        return checkpoint

    def done(self, checkpoint: Checkpoint) -> None:
        """The follower has loaded it, unless it was deleted, or a tenure has started meanwhile."""
        if self._follower.given.get(checkpoint.stream) == checkpoint.position:
            self._followed[checkpoint.stream] = checkpoint.position

    def restored(self, stream: StreamName) -> Arrival | Checkpoint | str:
        """What a tenure starts from that need not be sent; a text if it is not here, which is a bug."""
        found = self._kept.get(stream)
        if found is None:
            return "what the standby was given is gone"
        position = found.position if isinstance(found, Checkpoint) else found.message.position
        if self._followed.get(stream) != position:
            return found
        return replace(found if isinstance(found, Checkpoint) else found.checkpoint(), is_followed=True)

    def forget(self, stream: StreamName) -> None:
        """It was deleted."""
        self._follower.waiting.pop(stream, None)
        self._follower.given.pop(stream, None)
        self._kept.pop(stream, None)
        self._followed.pop(stream, None)

    def stop_waiting(self) -> None:
        """Nobody follows, or somebody else begins to: the worker is told, and offers all anew.

        Takes no lock, so that a follower that was left behind may be collected wherever the collector runs,
        and needs none: who is in the midst of `put` or `take` goes on with what the one before had.
        """
        self._follower = _Follower()

    def lost(self) -> None:
        """The worker is gone; the next one offers all anew, of which the follower needs what is newer."""
        self._follower.waiting.clear()
        self._kept.clear()

    def clear(self) -> None:
        """A tenure has started: what its state becomes has nothing to do with what was followed."""
        self.stop_waiting()
        self._kept.clear()
        self._followed.clear()
