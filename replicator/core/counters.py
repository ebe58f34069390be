"""The counters by which a store that went back in time is noticed, by its peers and by itself (R21, T19).

A store counts its durable answers. Every envelope tells how far it is, and the newest counter heard of the
recipient, which is remembered on the disk too. Where last week's copy was put back, a new process of the same
incarnation tells less than an earlier one has told.

A store that is older goes on counting, and could count past what is remembered of it before anybody compares.
So nothing is taken of what a peer publishes, or tells that is lacking, until the peer, having heard this very
process, has said what it remembers, however often this node is started: what it has said before may be late.
And until it has said anything it is told the counter that the store was opened with.

A node's disk may be replaced, and a frame from before may come long after: each of its last incarnations has
its own counter, and the one that has spoken last is the last of them. A member's stays however many others
come and go in its place, for its disk may be back.
"""

from __future__ import annotations

from replicator.core.effects import DURABLE, Effect, RememberCounters
from replicator.core.events import Received
from replicator.core.quorum import is_named
from replicator.core.state import State
from replicator.model import Incarnation, NodeId, Process

INCARNATIONS_MAX = 4  # remembered of each node; no record names more than two of them
BEHIND = (  # what is wrong with such a store, and what helps
    "a peer remembers a later state of this store than it holds (T19)",
    "empty the data directory, and this node joins anew: started again as it is, it stays faulty",
)


class Counters:
    """What is told to each peer, what is remembered of it, and whose store is too old to count."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._opened = state.counter
        self._heard: set[NodeId] = set()  # these have said what they remember
        self._compared: set[NodeId] = set()  # and these since they have heard this process
        self._tellers: dict[NodeId, Process] = {}  # who has told what is remembered, since this process began
        self._has_news = False  # something is remembered that is not written yet

    @property
    def is_condemned(self) -> bool:
        """Whether an earlier process has found that this store went back in time, and has written it down."""
        return self._state.me.node in self._state.remembered

    def has_compared(self, node: NodeId) -> bool:
        """Whether that peer has said, since it has heard this process, what it remembers of this store."""
        return node in self._compared

    def with_news(self, wanted: list[Effect]) -> list[Effect]:
        """What is wanted; what was heard of the peers rides on what of that is written durably anyhow."""
        if self._has_news and not DURABLE.isdisjoint(map(type, wanted)):
            self._has_news = False
            wanted.insert(0, RememberCounters(dict(self._state.remembered)))
        return wanted

    def envelope(self, to: NodeId) -> tuple[int, Incarnation, int]:
        """What the envelope to that peer says: the counter of this store, and the incarnation and newest
        counter heard of the peer; (b'', 0) if none."""
        state = self._state
        told = state.counter if to in self._heard else self._opened
        return told, *state.remembered.get(to, ((Incarnation(b""), 0),))[-1]

    def compare(self, event: Received, has_heard: bool) -> bool:
        """Take what a peer remembers of this store, which *has_heard* this very process; whether that is more
        than this process has told it, and more than any earlier one could if the store is as that left it.
        Exact, so it is a verdict, and is written down among what is remembered of the peers, with the next
        durable write or when the store is idle: a sound store has no word of itself there."""
        if event.remembered is None:
            return False  # what it says is of another store, which was here before
        is_older = event.remembered > self.envelope(event.node)[0]
        self._heard.add(event.node)
        if has_heard:
            self._compared.add(event.node)
        if is_older:
            node, incarnation = self._state.id
            self._state.emit(RememberCounters({node: ((incarnation, event.remembered),)}))
        return is_older

    def take(self, event: Received) -> bool:
        """Take a peer's counter; whether what comes with it counts for nothing, as it is below what is
        remembered of that incarnation and has not come from the process that told that.

        This accuses nobody. A process tells what its store was opened with, or more, and that is no less
        than what earlier ones have told. So a frame of the teller's that is below was overtaken by a newer
        one, and counts. One of another process is of an old copy, or is late and its process dead; where the
        teller is unknown, since this process is new, it may have been sent before that. Nobody here can know
        which, and all of them may be lost, as any frame. Only the sender can tell that its store is behind,
        once it hears what is remembered.
        """
        known = dict(self._state.remembered.get(event.node, ()))
        newest = known.pop(event.incarnation, -1)
        known[event.incarnation] = max(newest, event.counter)
        if len(known) > INCARNATIONS_MAX:
            oldest, *_ = (each for each in known if not is_named((event.node, each), self._state.record))
            del known[oldest]
        self._state.remembered[event.node] = tuple(known.items())
        if event.counter <= newest:
            return event.counter < newest and self._tellers.get(event.node) != event.process
        self._tellers[event.node] = event.process
        self._has_news = True
        return False
