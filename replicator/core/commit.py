"""Commits: acknowledgments counted until a majority holds a checkpoint in the present epoch (R9, R14).

The restored heads are adopted by the same count as later checkpoints commit. An acknowledgment counts for
the incarnation that sent it, once, for the digest it names.
"""

from __future__ import annotations

from itertools import islice

from replicator.core import effects
from replicator.core.messages import ACKS_PER_MESSAGE, Ack, Acked, CommitPoint, Forget
from replicator.core.progress import Follower
from replicator.core.quorum import ReplicaId, is_quorum, quorum_sets
from replicator.core.reign import Reign
from replicator.model import Generation, Head, Sequence, StreamName

STREAMS_PER_BEAT = ACKS_PER_MESSAGE  # looked at with one heartbeat, so that no number of them takes long
NO_VERSION = -1


class Commits:
    """Counts what the followers of one epoch acknowledge."""

    def __init__(self, reign: Reign) -> None:
        self._reign = reign
        self._state = reign.state
        self._is_settled = not reign.recovery.chosen  # a quorum has adopted in bulk
        self._unadopted: set[StreamName] = set()  # what it has not adopted in common, once it has
        self._tombstones: dict[StreamName, Head] = {}
        # Those that somebody has acknowledged since they were looked at, by the members of that record.
        self._ripe: dict[StreamName, None] = {}
        self._ripe_for = NO_VERSION
        self._uncovered: dict[StreamName, tuple[int, int]] = {}  # committed, not known to be held by all
        self._were_up: frozenset[ReplicaId] = frozenset()  # who had to hold it when that was last asked
        # Streams that a quorum of that record is not known to hold; empty once it holds every one.
        self._to_cover: list[StreamName] = []
        self._covered_for = NO_VERSION
        self._to_seat: list[StreamName] = []  # to be looked at for want of room

    # ── adoption (R9) ──

    @property
    def all_adopted(self) -> bool:
        """Whether record and every stream that is not withheld are adopted by a majority, and held here."""
        reign = self._reign
        if not (self._is_settled and reign.holds_all and reign.membership.adopted):
            return False
        withheld, chosen = reign.withheld, reign.recovery.chosen
        return all(s in withheld or s not in chosen for s in self._unadopted)

    def withhold_the_roomless(self) -> None:
        """What no majority has room for is waited for as what nobody can read is, its stream alone (R21)."""
        reign, since = self._reign, self._state.now - self._state.config.lease_s
        if not (self._is_settled and reign.is_late and reign.holds_lease and reign.progress.any_full):
            return
        self._to_seat = self._to_seat or sorted(self._unadopted, reverse=True)
        withheld = reign.withheld
        for stream in self._to_seat[-STREAMS_PER_BEAT:]:
            chosen = reign.recovery.chosen.get(stream)
            is_open = stream in self._unadopted and stream not in withheld
            if is_open and chosen and not reign.progress.may_hold(chosen, reign.record, since):
                self._withhold(stream)
        del self._to_seat[-STREAMS_PER_BEAT:]
        reign.recovery.step()

    def _withhold(self, stream: StreamName) -> None:
        """Do without a chosen head: drop it for an older one where that is safe."""
        recovery = self._reign.recovery
        if recovery.drop(stream):
            self._reign.wants_room = recovery.wants_room  # what is chosen now may lie here
            return
        head = self._reign.roomless[stream] = recovery.chosen[stream]
        self._state.notice(
            f"stream {stream}: its newest checkpoint (epoch {head.epoch}, sequence {head.sequence}) finds no "
            "room on a majority of disks; waiting for some (R21), and nobody joins the members before (R27)"
        )

    def count_bulk(self) -> None:
        """Look whether a majority has adopted in bulk: then only what it excepts is counted one by one."""
        reign = self._reign
        followers = [f for f in reign.progress.followers.values() if f.adopted]
        adopters = {self._state.id, *(follower.replica for follower in followers)}
        if not reign.has_adopted and is_quorum(adopters, reign.record):
            reign.outrun_since = min(reign.outrun_since, self._state.now)
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
                self._reign.roomless.pop(stream, None)
                self._note(self._state.heads[stream])

    def _note(self, head: Head) -> None:
        """A head is committed: tell retention and the followers, once (R15)."""
        state, stream = self._state, StreamName(head.stream)
        self._tombstones.pop(stream, None)
        if head.tombstone:
            self._tombstones[stream] = head
            self._ripe[stream] = None
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
        if stream in self._tombstones:
            self._ripe[stream] = None
        self.count_adoption({stream})
        self.check(stream)
        self._cover(stream)

    def on_adopted(self) -> None:
        """A follower's bulk adoption acknowledges many heads at once."""
        self._ripe.update(dict.fromkeys(self._tombstones))
        self.count_bulk()
        self.check_all()
        self._cover_all()

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
        may_say = reign.serving and reign.holds_lease
        if not may_say or reign.progress.commit_point(stream, reign.record) < flight.sequence:
            return
        head = self._state.heads[stream]
        self._note(head)
        self._uncovered[stream] = (flight.handle, flight.sequence)
        holders = reign.progress.holders(stream, flight.sequence)
        reign.window.committed(flight, Generation(head.generation), head.position, holders)
        self._cover(stream)

    def watch_disk(self) -> None:
        """Look, with each heartbeat, whether something waits for the own disk and for no other, the oldest
        flights first. What that disk has written last may be just before what it hangs at."""
        reign = self._reign
        flights = (f for f in islice(reign.window.flights.values(), STREAMS_PER_BEAT) if not f.stored)
        held_up = (reign.progress.others_hold(f.stream, f.sequence, reign.record) for f in flights)
        if reign.recovery.is_accepting or any(held_up):
            reign.outrun_since = min(reign.outrun_since, self._state.now)

    def check_all(self) -> None:
        for stream in list(self._reign.window.flights):
            self.check(stream)

    def cover_without_the_lost(self) -> None:
        """Look again at what waits for all members if one is up no longer: it may have been the last."""
        up = frozenset(follower.replica for follower in self._reign.up)
        if not self._were_up <= up:
            self._cover_all()
        self._were_up = up

    def _cover_all(self) -> None:
        for stream in list(self._uncovered):
            self._cover(stream)

    def _cover(self, stream: StreamName) -> None:
        """Say when every member that is up holds the commit."""
        waiting = self._uncovered.get(stream)
        if waiting is not None and all(each.newest(stream) >= waiting[1] for each in self._reign.up):
            del self._uncovered[stream]
            self._state.emit(effects.HeldByAll(waiting[0], self._reign.progress.holders(stream, waiting[1])))

    def covered(self) -> bool:
        """Whether a quorum of the present record holds every stream's committed head (R27, T11).

        Each stream is looked at until it is so, some at each call: what is held once is durable, and what
        commits later under the same record is held by a quorum of it.
        """
        reign = self._reign
        if self._covered_for != reign.record.version:
            self._covered_for, self._to_cover = reign.record.version, list(self._state.heads)
        for _ in range(STREAMS_PER_BEAT):
            if not self._to_cover or not self._is_covered(self._to_cover[-1]):
                break
            self._to_cover.pop()
        return (
            not self._to_cover and not reign.withheld and not self._unadopted & reign.recovery.chosen.keys()
        )

    def _is_covered(self, stream: StreamName) -> bool:
        reign, committed = self._reign, self._state.committed.get(stream, (0, 0))[1]
        return reign.head(stream) is None or reign.progress.commit_point(stream, reign.record) >= committed

    # ── tombstones (R23) ──

    def forget_tombstones(self) -> None:
        """Forget the deleted streams whose tombstones every member holds; their sequences stay used.

        Not before the engine has been told of them: one that misses the word to forget holds on to the
        tombstone, above which the stream has to go on in this epoch. Nor while members change: a claimant
        who knows of no newer record than the joint one heeds the old store too (R27).
        """
        reign = self._reign
        if reign.record.old or not reign.membership.adopted:
            return
        if self._ripe_for != reign.record.version:
            self._ripe_for = reign.record.version
            self._ripe.update(dict.fromkeys(self._tombstones))
        ripe = list(islice(self._ripe, STREAMS_PER_BEAT))
        done = [self._tombstones[stream] for stream in ripe if self._is_held_by_all(stream)]
        for stream in ripe:
            del self._ripe[stream]
        for head in done:
            self._forget(head)
        if done:
            tombstones = tuple(Acked(h.stream, h.generation, h.sequence, h.digest) for h in done)
            for follower in reign.progress.followers.values():
                self._state.send(follower.node, Forget(reign.epoch, tombstones))

    def _is_held_by_all(self, stream: StreamName) -> bool:
        """Whether every member has the stream's tombstone, and nothing new is on its way."""
        reign, head = self._reign, self._tombstones.get(stream)
        if head is None or stream in reign.window.flights:
            return False
        (members,) = quorum_sets(reign.record)
        return all(reign.progress.acked(member, stream) >= head.sequence for member in members)

    def _forget(self, head: Head) -> None:
        stream, sequence = StreamName(head.stream), Sequence(head.sequence)
        del self._tombstones[stream]
        self._reign.window.pass_by(stream, sequence)
        self._reign.progress.forget(stream)
        self._state.forget(stream, Generation(head.generation), sequence)
