"""Commits: acknowledgments counted until a majority holds a checkpoint in the present epoch (R9, R14).

The restored heads are adopted by the same count as later checkpoints commit. An acknowledgment counts for
the incarnation that sent it, once, for the digest it names.
"""

from __future__ import annotations

from replicator.core import effects
from replicator.core.messages import ACKS_PER_MESSAGE, Ack, Acked, CommitPoint, Forget
from replicator.core.progress import Follower
from replicator.core.quorum import ReplicaId, is_quorum
from replicator.core.reign import Reign
from replicator.model import Generation, Head, Incarnation, NodeId, Sequence, StreamName


class Commits:
    """Counts what the followers of one epoch acknowledge."""

    def __init__(self, reign: Reign) -> None:
        self._reign = reign
        self._state = reign.state
        self._is_settled = not reign.recovery.chosen  # a quorum has adopted in bulk
        self._unadopted: set[StreamName] = set()  # what it has not adopted in common, once it has
        self._tombstones: dict[StreamName, Head] = {}
        self._uncovered: dict[StreamName, tuple[int, int]] = {}  # committed, not known to be held by all

    # ── adoption (R9) ──

    @property
    def all_adopted(self) -> bool:
        """Whether record and every stream that can be read are adopted by a majority, and held here."""
        recovery = self._reign.recovery
        if not (self._is_settled and recovery.holds_all and self._reign.membership.adopted):
            return False
        return all(s in recovery.unavailable or s not in recovery.chosen for s in self._unadopted)

    def count_bulk(self) -> None:
        """Look whether a majority has adopted in bulk: then only what it excepts is counted one by one."""
        reign = self._reign
        followers = [f for f in reign.progress.followers.values() if f.adopted]
        adopters = {self._state.id, *(follower.replica for follower in followers)}
        if reign.has_adopted and not self._is_settled and is_quorum(adopters, reign.record):
            self._is_settled = True
            self._unadopted = reign.recovery.apart.union(*(follower.not_in_bulk for follower in followers))
            for stream, head in self._state.heads.items():
                is_news = self._state.committed.get(stream) != (head.generation, head.sequence)
                if (is_news or head.tombstone) and stream not in self._unadopted:
                    self._note(head)
        self.count_adoption(self._unadopted)

    def count_adoption(self, streams: set[StreamName]) -> None:
        """Look whether a majority holds the chosen heads of *streams* now."""
        progress, record = self._reign.progress, self._reign.record
        for stream in sorted(streams & self._unadopted):
            chosen = self._reign.recovery.chosen.get(stream)
            if chosen is not None and progress.commit_point(stream, record) >= chosen.sequence:
                self._unadopted.discard(stream)
                self._note(self._state.heads[stream])

    def _note(self, head: Head) -> None:
        """A head is committed: tell retention and the followers, once (R15)."""
        state, stream = self._state, StreamName(head.stream)
        if head.tombstone:
            self._tombstones[stream] = head
        if state.committed.get(stream) != (head.generation, head.sequence):
            state.mark_committed(head)
            self._reign.progress.add_hint(CommitPoint(head.stream, head.generation, head.position))

    # ── acknowledgments (R13, R14) ──

    def on_ack(self, replica: ReplicaId, message: Ack) -> None:
        follower = self._reign.progress.follower(replica)
        if follower is None or message.epoch != self._reign.epoch:
            return
        for acked in message.acks:
            self._take(follower, acked)

    def _take(self, follower: Follower, acked: Acked) -> None:
        stream = StreamName(acked.stream)
        flight = self._reign.window.flights.get(stream)
        if flight is not None and flight.sequence == acked.sequence and self._reign.serving:
            if flight.manifest is None:  # it came before the own publication was reported
                flight.early[follower.replica] = acked
                return
            if flight.manifest.digest != acked.digest:
                return
        else:
            head = self._reign.head(stream)
            if head is None or acked.sequence > head.sequence:
                return
            if acked.sequence == head.sequence and acked.digest != head.digest:
                return
        newest = self._reign.head(stream)
        newest_sequence = max(acked.sequence, newest.sequence if newest else 0)
        follower.take_ack(stream, acked.sequence, newest_sequence, self._state.now)
        self.count_adoption({stream})
        self.check(stream)
        self._cover(stream)

    def take_early(self, early: dict[ReplicaId, Acked]) -> None:
        """Acknowledgments that had come before the manifest was known here."""
        for replica, acked in early.items():
            follower = self._reign.progress.follower(replica)
            if follower is not None:
                self._take(follower, acked)

    # ── commits (R14) ──

    def check(self, stream: StreamName) -> None:
        """Commit the stream's flight if a majority holds it and the lease allows to say so (R25)."""
        reign = self._reign
        flight = reign.window.flights.get(stream)
        if flight is None or flight.manifest is None or not flight.stored:
            return
        if not reign.serving or not reign.holds_lease:
            return
        if reign.progress.commit_point(stream, reign.record) < flight.sequence:
            return
        head = self._state.heads[stream]
        self._note(head)
        self._uncovered[stream] = (flight.handle, flight.sequence)
        holders = reign.progress.holders(stream, flight.sequence)
        reign.window.committed(flight, Generation(head.generation), head.position, holders)
        self._cover(stream)

    def check_all(self) -> None:
        for stream in list(self._reign.window.flights):
            self.check(stream)

    def cover_all(self) -> None:
        for stream in list(self._uncovered):
            self._cover(stream)

    def _cover(self, stream: StreamName) -> None:
        """Say when every member that is up holds the commit."""
        waiting = self._uncovered.get(stream)
        if waiting is None:
            return
        progress = self._reign.progress
        recent = self._state.now - self._state.config.lease_s
        up = [follower for follower in progress.followers.values() if follower.heard_at >= recent]
        if all(follower.newest(stream) >= waiting[1] for follower in up):
            del self._uncovered[stream]
            self._state.emit(effects.HeldByAll(waiting[0], progress.holders(stream, waiting[1])))

    def covered(self) -> bool:
        """Whether a quorum of the present record holds every stream's committed head (R27, T11)."""
        reign = self._reign
        return not reign.recovery.unavailable and all(
            reign.progress.commit_point(stream, reign.record) >= self._state.committed.get(stream, (0, 0))[1]
            for stream in self._state.heads
            if reign.head(stream) is not None
        )

    # ── tombstones (R23) ──

    def forget_tombstones(self) -> None:
        """Forget the deleted streams whose tombstones every member holds; their sequences stay used.

        Not before the engine has been told of them: one that misses the word to forget holds on to the
        tombstone, above which the stream has to go on in this epoch. Nor while members change: a claimant
        who knows of no newer record than the joint one heeds the old store too (R27).
        """
        reign, members = self._reign, self._reign.record.members
        if reign.record.old or not reign.membership.adopted:
            return
        done = [
            Acked(head.stream, head.generation, head.sequence, head.digest)
            for stream, head in self._tombstones.items()
            if stream not in reign.window.flights
            and all(
                reign.progress.acked((NodeId(m.node), Incarnation(m.incarnation)), stream) >= head.sequence
                for m in members
            )
        ][:ACKS_PER_MESSAGE]
        for acked in done:
            del self._tombstones[StreamName(acked.stream)]
            reign.window.pass_by(StreamName(acked.stream), Sequence(acked.sequence))
            self._state.forget(
                StreamName(acked.stream), Generation(acked.generation), Sequence(acked.sequence)
            )
        if done:
            for follower in reign.progress.followers.values():
                self._state.send(follower.node, Forget(reign.epoch, tuple(done)))
