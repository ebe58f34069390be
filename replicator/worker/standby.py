"""Warm standby: committed checkpoints, loaded in the background and offered to an engine that follows.

Per stream the latest wins and one is out at a time, until the engine has taken it; `OUT_MAX` streams are
out together, so that an engine that takes none holds no more memory than that. What was offered last of each
stream stays with the engine until its next tenure has started, which need not be given it again, or the
stream is deleted. From the start of a tenure to its end nothing is offered: the engine goes on by itself.

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
from replicator.model import Digest, Head, Position, StreamName
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
        self._following = self._is_tenured = False
        # Newest, not yet offered; oldest stream first, which a plain dict would search its holes for.
        self._waiting: OrderedDict[StreamName, Head] = OrderedDict()
        self._loading: dict[StreamName, Head | None] = {}  # None: it is not to be offered any more
        self._untaken: dict[StreamName, Head] = {}
        self._offered: dict[StreamName, Head] = {}  # what the engine has of each stream

    def committed(self, effect: Standby, now: float) -> None:
        """A newer committed head is held here; a tombstone ends its stream."""
        stream = StreamName(effect.head.stream)
        if effect.head.tombstone:
            self._waiting.pop(stream, None)
            self._untaken.pop(stream, None)
            if stream in self._loading:
                self._loading[stream] = None
            if self._offered.pop(stream, None) is not None:
                self._end.send(link.StandbyDeleted(stream))
        elif self._following and not self._is_tenured:
            self._waiting[stream] = effect.head
        self._offer()

    def follow(self, on: bool) -> None:
        """The engine begins to follow, with every head that is known to be committed here, or ends it."""
        self._following = on
        self._untaken.clear()
        self._waiting.clear()
        if on and not self._is_tenured:
            self._begin()

    def taken(self, stream: StreamName, position: Position) -> None:
        """The engine is done with what it was offered, unless it speaks of one before that."""
        if (head := self._untaken.get(stream)) is not None and head.position == position:
            del self._untaken[stream]
            self._offer()

    def loaded(self, result: Loaded) -> None:
        """A checkpoint is restored, or cannot be read: the core has it mended and tells of a newer one. It is
        dropped if meanwhile its stream was deleted, or the engine has ended to follow or begun a tenure."""
        head, payload = result.head, result.payload
        stream = StreamName(head.stream)
        if payload is None:
            self._deliver(HeadRotten(stream, Digest(head.digest)))
        is_wanted = self._loading.get(stream) is head
        if is_wanted or (stream in self._loading and self._loading[stream] is None):
            del self._loading[stream]
        if is_wanted and payload is not None and self._following:
            names, parts = link.part_frames(payload)
            offer = link.StandbyOffered(stream, head.position, payload.meta, names, payload.is_mapping)
            self._end.send(offer, parts)
            self._offered[stream] = self._untaken[stream] = head
        self._offer()

    def offered(self, heads: Iterable[Head]) -> set[StreamName]:
        """The streams of which the engine has that very checkpoint."""
        known = self._offered
        return {s for h in heads if (s := StreamName(h.stream)) in known and h.same_as(known[s])}

    def tenure_begins(self) -> None:
        """The engine will have everything by it; what it was offered stays until it has."""
        self._is_tenured = True
        self._waiting.clear()
        self._loading.clear()
        self._loader.drop_standbys()

    def tenure_started(self) -> None:
        """The engine keeps nothing of what it was offered."""
        self._untaken.clear()
        self._offered.clear()

    def tenure_ended(self) -> None:
        """One that follows begins anew; what it has still got, if the tenure never started, its end knows."""
        if self._is_tenured:
            self._is_tenured = False
            if self._following:
                self._begin()

    def _begin(self) -> None:
        """Everything that is known to be committed here waits, but what is being loaded already."""
        status = self._status()
        known = status["committed"]
        for stream, head in status["heads"].items():
            is_known = known.get(stream) == (head.generation, head.sequence)
            if is_known and not head.tombstone and not head.same_as(self._loading.get(stream)):
                self._waiting[stream] = head
        self._offer()

    def _offer(self) -> None:
        """Have loaded what there is a place for; looks at no more streams than `OUT_MAX` (one heartbeat may
        tell of hundreds, and many more may wait)."""
        if not self._following:
            return
        free = (s for s in self._waiting if s not in self._loading and s not in self._untaken)
        places = OUT_MAX - len(self._loading) - len(self._untaken)
        for stream in list(islice(free, places)):
            head = self._loading[stream] = self._waiting.pop(stream)
            self._loader.load(None, [head])
