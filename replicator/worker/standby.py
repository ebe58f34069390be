"""Warm standby: committed checkpoints, loaded in the background and offered to an engine that follows.

Per stream the latest wins and one is out at a time, until the engine has taken it; `OUT_MAX` streams are
out together, so that an engine that takes none holds no more memory than that. What was offered last of each
stream stays with the engine until its next tenure has started, which need not be given it again, or the
stream is deleted.

What is committed here when the engine begins to follow is the core's to say: this worker may have started
anew, or a tenure of its own may have committed newer ones.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from itertools import islice

from replicator.core.effects import Standby
from replicator.core.events import HeadRotten
from replicator.core.replica import ReplicaStatus
from replicator.link import messages as link
from replicator.model import Digest, Head, StreamName
from replicator.worker.inbox import Loaded
from replicator.worker.loader import Loader
from replicator.worker.silence import End

OUT_MAX = 8


class Standbys:
    """What the engine is offered while this node is a backup. Used on the control thread only."""

    def __init__(
        self,
        end: End,
        loader: Loader,
        deliver: Callable[[HeadRotten], None],
        status: Callable[[], ReplicaStatus],
    ) -> None:
        self._end = end
        self._loader = loader
        self._deliver = deliver
        self._status = status
        self._following = False
        # Newest, not yet offered; oldest stream first, which a plain dict would search its holes for.
        self._waiting: OrderedDict[StreamName, Head] = OrderedDict()
        self._out: set[StreamName] = set()  # being loaded, or offered and not taken
        self._offered: dict[StreamName, Head] = {}  # what the engine has of each stream

    def committed(self, effect: Standby, now: float) -> None:
        """A newer committed head is held here; a tombstone ends its stream."""
        stream = StreamName(effect.head.stream)
        if effect.head.tombstone:
            self._waiting.pop(stream, None)
            if self._offered.pop(stream, None) is not None:
                self._end.send(link.StandbyDeleted(stream))
            self.taken(stream)
        elif self._following:
            self._waiting[stream] = effect.head
            self._offer()

    def follow(self, on: bool) -> None:
        """The engine begins to follow, with every head that is known to be committed here, or ends it."""
        self._following = on
        self._out.clear()
        self._waiting.clear()
        if on:
            status = self._status()
            known = status["committed"]
            for stream, head in status["heads"].items():
                if not head.tombstone and known.get(stream) == (head.generation, head.sequence):
                    self._waiting[stream] = head
        self._offer()

    def taken(self, stream: StreamName) -> None:
        """The engine is done with what it was offered."""
        self._out.discard(stream)
        self._offer()

    def loaded(self, result: Loaded) -> None:
        """A checkpoint is restored, or cannot be read: the core has it mended and tells of a newer one. It is
        dropped if meanwhile its stream was deleted, or the engine has ended to follow or begun a tenure."""
        stream = StreamName(result.head.stream)
        if result.payload is None:
            self._deliver(HeadRotten(stream, Digest(result.head.digest)))
        elif stream in self._out:
            names, parts = link.part_frames(result.payload)
            meta, mapping = result.payload.meta, result.payload.is_mapping
            offer = link.StandbyOffered(stream, result.head.position, meta, names, mapping)
            self._end.send(offer, parts)
            self._offered[stream] = result.head
            return
        self.taken(stream)

    def offered(self, heads: Iterable[Head]) -> set[StreamName]:
        """The streams of which the engine has that very checkpoint."""
        known = self._offered
        return {s for h in heads if (s := StreamName(h.stream)) in known and h.same_as(known[s])}

    def tenure_started(self) -> None:
        """The engine has everything by it, and keeps nothing of what it was offered."""
        self._out.clear()
        self._waiting.clear()
        self._offered.clear()

    def _offer(self) -> None:
        """Have loaded what there is a place for; looks at no more streams than `OUT_MAX` (one heartbeat may
        tell of hundreds, and many more may wait)."""
        free = (stream for stream in self._waiting if stream not in self._out)
        for stream in list(islice(free, OUT_MAX - len(self._out))):
            self._out.add(stream)
            self._loader.load(None, [self._waiting.pop(stream)])
