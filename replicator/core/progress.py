"""Progress: what the primary knows of every other replica in its epoch (R13-R16, R18).

A follower is known by node and incarnation; one whose incarnation is not in the member record is a
learner: it is told everything and counts for nothing (R20).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Set

from replicator.core.messages import CommitPoint
from replicator.core.quorum import ReplicaId, commit_point, is_quorum, quorum_value
from replicator.core.report import Report
from replicator.core.state import State
from replicator.model import Epoch, Head, Incarnation, MemberRecord, NodeId, Sequence, StreamName

NOTHING = -1


class Follower:
    """One other replica, as its acknowledgments show it in the present epoch."""

    def __init__(self, replica: ReplicaId, now: float, told: dict[bytes, frozenset[StreamName]]) -> None:
        self.replica = replica
        self.report: Report | None = None
        self.exceptions: frozenset[StreamName] = frozenset()
        self._told = told  # exceptions by the report's digest
        self.adopted = False  # the bulk adoption, and with it the member record, is durable there
        self.record_version = 0
        self.acked: dict[StreamName, int] = {}  # one by one
        self.bulk: dict[StreamName, Head] = {}  # what it has adopted in bulk in this epoch
        self.not_in_bulk: set[StreamName] = set()  # and what of the primary's own streams it has not
        self.surplus: set[StreamName] = set()  # what it reported and the primary does not have
        # Heads not acknowledged, and since when; those told last are at the end.
        self.lacking: dict[StreamName, float] = {}
        # A learner's: what it lacked at one instant, the newest sequences of then, until it has them (R20).
        self.awaited: dict[StreamName, int] | None = None
        self.hints: dict[StreamName, CommitPoint] = {}  # commit points not known to have arrived
        # What that question carries, while it may be on its way.
        self.hinted: tuple[int, tuple[CommitPoint, ...]] = (0, ())
        self.answered = 0  # the newest question that it has answered
        self.told_at, self.told_after = now, 0  # all that it lacks, when and after which question
        self.heard_at = -math.inf
        self.stuck_since: float | None = None
        self.full = False
        self.can_lead = False

    @property
    def node(self) -> NodeId:
        return self.replica[0]

    @property
    def is_known(self) -> bool:
        """Whether what it holds is known: before that it lacks nothing for want of a word from it."""
        return self.report is not None and self.adopted

    def has_reported(self, stream: StreamName, head: Head | None) -> bool:
        """Whether that very head of the stream was readable there when it promised."""
        said = self.report.heads.get(stream) if self.report is not None else None
        return said is not None and said.readable and said.same_as(head)

    def take_report(
        self,
        report: Report,
        apart: set[StreamName],
        awaited: Set[StreamName],
        head_of: Callable[[StreamName], Head | None],
    ) -> None:
        """A promise has come in: what it shares with the primary is adopted in bulk, the rest it lacks (R10).

        *head_of* gives what it should hold of a stream; it may be another head than the one that the report
        was compared with in the streams *apart* alone. What is *awaited* here exists, though no head is here.
        """
        self.report = report
        self.adopted = False
        said = report.heads
        differing = {
            stream
            for stream in report.differs | report.lacks | apart
            if not self.has_reported(stream, head_of(stream))
        }
        self.surplus = {s for s in report.differs if not (s in awaited or head_of(s) or said[s].tombstone)}
        # What is excepted depends on when the report is looked at, and an answer names its digest alone:
        # once told for a report it stays, and what is held since is told head by head.
        self.exceptions = self._told.setdefault(report.digest, frozenset(differing & said.keys()))
        for stream in sorted(differing | self.exceptions):
            head = head_of(stream)
            if head is not None and self.newest(stream) < head.sequence:
                self.lacking[stream] = -math.inf

    def take_adopted(self) -> None:
        """The bulk adoption is durable: every reported head but the exceptions is acknowledged by it."""
        assert self.report is not None
        self.adopted = True
        self.bulk.update({s: head for s, head in self.report.heads.items() if s not in self.exceptions})
        self.not_in_bulk = self.report.lacks | self.exceptions

    def heard_answer(self, question: int) -> None:
        """It has answered a question. The commit points that came with it have arrived: others have their
        turn, newer ones of them too. Those that came with an older one are lost, and told once more."""
        self.answered = max(self.answered, question)
        carrier, points = self.hinted
        if question < carrier:
            return
        for point in points if question == carrier else ():
            stream = StreamName(point.stream)
            newest = self.hints.pop(stream, point)
            if newest != point:
                self.hints[stream] = newest
        self.hinted = (0, ())

    def newest(self, stream: StreamName) -> int:
        """The newest sequence of the stream that it has acknowledged in this epoch."""
        acked, head = self.acked.get(stream, NOTHING), self.bulk.get(stream)
        return acked if head is None or head.sequence < acked else head.sequence

    def take_ack(self, stream: StreamName, sequence: int, newest: int, now: float) -> None:
        """One checkpoint is durable there. What it lacks of the stream then came out since: where a stream
        moves fast a follower may well be one behind at all times."""
        self.surplus.discard(stream)
        before = self.newest(stream)
        self.acked[stream] = max(before, sequence)
        if self.acked[stream] >= newest:
            self.lacking.pop(stream, None)
        elif sequence > before and stream in self.lacking:
            self.lacking[stream] = now
        if self.awaited and stream in self.awaited and self.acked[stream] >= self.awaited[stream]:
            del self.awaited[stream]

    def forget(self, stream: StreamName) -> None:
        """The stream is deleted, and every member knows it. Its hint goes as it came, once it has arrived."""
        self.acked.pop(stream, None)
        self.bulk.pop(stream, None)
        self.lacking.pop(stream, None)


class Progress:
    """All followers of one epoch, and what a majority of them holds."""

    def __init__(self, state: State, epoch: Epoch, record: MemberRecord) -> None:
        self._state = state
        self.epoch = epoch
        self.followers: dict[NodeId, Follower] = {}
        # An incarnation may come, go and come again in an epoch: what it was told stays, whoever it followed.
        self._told: dict[ReplicaId, dict[bytes, frozenset[StreamName]]] = {}
        for member in (*record.old, *record.members):
            if member.node != state.me.node:
                self.follow((NodeId(member.node), Incarnation(member.incarnation)))

    def follow(self, replica: ReplicaId) -> None:
        """From now on its node is that incarnation, of which nothing is known yet."""
        self.followers[replica[0]] = Follower(replica, self._state.now, self._told.setdefault(replica, {}))

    def own(self, stream: StreamName) -> int:
        """The newest sequence that this replica itself has accepted in the epoch (T8)."""
        head = self._state.heads.get(stream)
        return head.sequence if head is not None and head.accepted_epoch == self.epoch else NOTHING

    def acked(self, replica: ReplicaId, stream: StreamName) -> int:
        if replica == self._state.id:
            return self.own(stream)
        follower = self.follower(replica)
        return follower.newest(stream) if follower is not None else NOTHING

    def commit_point(self, stream: StreamName, record: MemberRecord) -> Sequence:
        """The newest sequence held by a majority, the primary itself included (R14)."""
        held = commit_point(lambda replica: Sequence(self.acked(replica, stream)), record)
        return Sequence(min(held, self.own(stream)))

    def others_hold(self, stream: StreamName, sequence: int, record: MemberRecord) -> bool:
        """Whether a majority would hold it if this replica did."""
        me = self._state.id
        return quorum_value(lambda r: math.inf if r == me else self.acked(r, stream), record) >= sequence

    def has_room(self, record: MemberRecord, since: float) -> bool:
        """Whether enough others for a majority with this replica take new checkpoints, as far as is known of
        those heard since then (R21)."""
        roomy = {f.replica for f in self.followers.values() if not f.full and f.heard_at >= since}
        return is_quorum({*roomy, self._state.id}, record)

    @property
    def any_full(self) -> bool:
        """Whether any disk is known to have no room."""
        return self._state.full or any(f.full for f in self.followers.values())

    def may_hold(self, chosen: Head, record: MemberRecord, since: float) -> bool:
        """Whether a majority holds a chosen head, or can, as far as those heard since then have told (R21):
        it needs room only where it does not lie."""
        stream = StreamName(chosen.stream)
        able = {f.replica for f in self.followers.values() if f.newest(stream) >= chosen.sequence}
        recent = [f for f in self.followers.values() if f.heard_at >= since]
        able |= {
            f.replica for f in recent if not f.full or chosen.tombstone or f.has_reported(stream, chosen)
        }
        return not self._state.lacks_room_for(chosen) and is_quorum({*able, self._state.id}, record)

    def holders(self, stream: StreamName, sequence: int) -> tuple[NodeId, ...]:
        """The nodes known to hold that committed checkpoint or a newer one of the stream; this one does."""
        others = [each.node for each in self.followers.values() if each.newest(stream) >= sequence]
        return tuple(sorted((self._state.id[0], *others)))

    def follower(self, replica: ReplicaId) -> Follower | None:
        """The follower of that very incarnation: words of another one count for nothing (I10)."""
        follower = self.followers.get(replica[0])
        return follower if follower is not None and follower.replica == replica else None

    def add_head(self, stream: StreamName, sequence: int, since: float) -> None:
        """The primary has a new head: a follower lacks it, since then, until it says otherwise."""
        for follower in self.followers.values():
            if follower.newest(stream) < sequence:
                follower.lacking.setdefault(stream, since)

    def forget(self, stream: StreamName) -> None:
        """Keep nothing of a deleted stream (I12)."""
        for follower in self.followers.values():
            follower.forget(stream)

    def add_hint(self, point: CommitPoint) -> None:
        for follower in self.followers.values():
            follower.hints[StreamName(point.stream)] = point
