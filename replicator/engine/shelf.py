"""The shelf: committed checkpoints that came for a warm standby, kept until a tenure starts from them.

Of each stream the newest is kept, also after the follower has taken it, so that a takeover need not have it
loaded and sent again; of a deleted one nothing is. The worker knows what is here: it is what it has offered
last. Used under the session's lock, but for `stop_waiting`.
"""

from __future__ import annotations

from msgspec.structs import replace

from replicator.engine.checkpoint import Arrival, Checkpoint
from replicator.model import Position, StreamName


class Shelf:
    """Per stream one checkpoint, and how far the follower is with it."""

    def __init__(self) -> None:
        self._waiting: dict[StreamName, Arrival] = {}  # not taken yet; oldest stream first
        self._kept: dict[StreamName, Arrival | Checkpoint] = {}
        self._followed: dict[StreamName, Position] = {}  # what the follower is done with

    def put(self, arrival: Arrival, is_wanted: bool) -> None:
        """A newer one has come; it is kept whether or not somebody follows just now."""
        stream = StreamName(arrival.message.stream)
        self._kept[stream] = arrival
        if is_wanted:
            self._waiting[stream] = arrival

    def take(self) -> Checkpoint | None:
        """The one that has waited longest."""
        waiting = self._waiting
        if not waiting:
            return None
        stream = next(iter(waiting))
        arrival = waiting.pop(stream)
        checkpoint = arrival.checkpoint()
        if self._kept.get(stream) is arrival:
            # The bytes are there once, but the mapping is the follower's, who may take it apart.
            self._kept[stream] = replace(checkpoint, parts=checkpoint.parts.copy())
        return checkpoint

    def done(self, checkpoint: Checkpoint) -> None:
        """The follower has loaded it."""
        if checkpoint.stream in self._kept:
            self._followed[checkpoint.stream] = checkpoint.position

    def restored(self, stream: StreamName) -> Arrival | Checkpoint | str:
        """What a tenure starts from that need not be sent; a text if it is not here, which is a bug."""
        found = self._kept.get(stream, "what the standby was given is gone")
        if isinstance(found, Checkpoint) and self._followed.get(stream) == found.position:
            return replace(found, is_followed=True)
        return found

    def forget(self, stream: StreamName) -> None:
        """It was deleted."""
        self._waiting.pop(stream, None)
        self._kept.pop(stream, None)
        self._followed.pop(stream, None)

    def stop_waiting(self) -> None:
        """Nobody follows, or somebody else begins to: the worker is told, and offers all anew.

        Takes no lock, so that a follower that was left behind may be collected wherever the collector runs,
        and needs none: who is in the midst of `put` or `take` goes on with the mapping that he has.
        """
        self._waiting = {}

    def clear(self) -> None:
        """A tenure has started, or the worker is gone."""
        self._waiting.clear()
        self._kept.clear()
        self._followed.clear()
