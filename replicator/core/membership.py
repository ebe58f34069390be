"""Membership: the member record adopted in each epoch, and one incarnation replaced in place (R20, R27).

A change is a joint record with the old and the new set, from whose proposal on every quorum is a majority
of both; then every stream's head accepted by a majority of both; then the final record: of the new set, or
of the old one, which is as safe, if only that names the primary. For now the only change is a wiped node's
new incarnation in its old place; adding and removing nodes takes the same path.

A learner is not taken in while it holds a stream that the primary does not have. An old store that comes
back after it was replaced does: of what was deleted since, every member has forgotten the tombstone, and
as a member's head it would come to life again (I11, R23). So does, seldom, a new store that took what
never committed from a primary that is gone. Which of them it is cannot be told from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from msgspec import structs

from replicator.core.messages import Members
from replicator.core.progress import Follower, Progress
from replicator.core.quorum import ReplicaId, is_quorum, quorum_sets
from replicator.core.state import State
from replicator.model import Epoch, Incarnation, Member, MemberRecord


class Membership:
    """The member record of one primary's epoch."""

    def __init__(self, state: State, progress: Progress, epoch: Epoch) -> None:
        self._state = state
        self._progress = progress
        self._epoch = epoch
        self._stored_version = -1  # the newest version durable here in this epoch
        self.refused: set[ReplicaId] = set()  # learners whose stores the operator was told to empty

    @property
    def record(self) -> MemberRecord:
        """The record by which quorums are counted; a proposed one counts from its proposal on."""
        record = self._state.record
        assert record is not None
        return record

    @property
    def adopted(self) -> bool:
        """Whether the newest record is durable on a quorum of itself, in this epoch."""
        version = self.record.version
        holders = {f.replica for f in self._progress.followers.values() if f.record_version >= version}
        if self._stored_version >= version:
            holders.add(self._state.id)
        return is_quorum(holders, self.record)

    @property
    def is_changing(self) -> bool:
        """Whether a change is under way, or a learner waits for one."""
        followers = self._progress.followers.values()
        return bool(self.record.old) or any(
            all(member.incarnation != follower.replica[1] for member in self.record.members)
            for follower in followers
        )

    def on_record_written(self, record: MemberRecord, epoch: Epoch) -> None:
        if epoch == self._epoch:
            self._stored_version = max(self._stored_version, record.version)

    def on_accepted(self, replica: ReplicaId, version: int) -> None:
        """A follower has that version of the record durably, in this epoch."""
        follower = self._progress.follower(replica)
        if follower is not None:
            follower.record_version = max(follower.record_version, version)

    def step(self, covered: Callable[[], bool]) -> None:
        """Go on with a change that is under way, or start one for a learner that has caught up.

        *covered()* says whether a quorum holds every stream; it takes time, and is asked last.
        """
        if not self.adopted:
            return
        if self.record.old:
            # One whose old disk is back meanwhile, and who reigns by it, does not go: the change is undone.
            keeps = self._state.id in quorum_sets(self.record)[0]
            if covered():
                final = self.record.members if keeps else self.record.old
                self._propose(MemberRecord(self.record.version + 1, final))
            return
        for follower in self._progress.followers.values():
            member = self.record.find(follower.node)
            if member is None or member.incarnation == follower.replica[1]:
                continue
            if self._has_caught_up(follower) and not self._holds_the_deleted(follower) and covered():
                self._replace(member, follower.replica[1])
                return

    def _has_caught_up(self, learner: Follower) -> bool:
        """Whether it has acknowledged all that it lacked at one instant. While commits go on something is
        always on its way, for as long as its disk and its link take. That is nobody's loss: the final record
        waits for a majority of both sets (T11)."""
        recently = self._state.now - self._state.config.lease_s
        if not learner.is_known or learner.heard_at < recently:
            learner.awaited = None  # what was noted says nothing of what comes out while it is silent
            return False
        if learner.awaited is None and all(since > -math.inf for since in learner.lacking.values()):
            learner.awaited = {stream: self._progress.own(stream) for stream in learner.lacking}
        return learner.awaited == {}

    def _holds_the_deleted(self, follower: Follower) -> bool:
        """Whether it holds streams that are not here; the operator is told once."""
        if follower.surplus and follower.replica not in self.refused:
            self.refused.add(follower.replica)
            self._state.notice(
                f"{follower.node}: its store is not taken in: it holds {len(follower.surplus)} streams that "
                f"do not exist here, as {min(follower.surplus)}. It was replaced before and is back, it "
                "seems: empty its data directory and start it again (R20, R23)"
            )
        return bool(follower.surplus)

    def _replace(self, member: Member, incarnation: Incarnation) -> None:
        """Put a new incarnation into the old one's place: the joint record first."""
        old = self.record.members
        new = tuple(structs.replace(m, incarnation=incarnation) if m == member else m for m in old)
        self._state.notice(f"{member.node}: its new store takes its old place (R20)")
        self._propose(MemberRecord(self.record.version + 1, new, old))

    def _propose(self, record: MemberRecord) -> None:
        # While the final record is on its way the joint one's quorums are a superset of its own, so it
        # may count at once: a majority of the new set is what the joint record already asked for (R27).
        self._state.record = record
        self._state.write_record(record, self._epoch, True)
        for follower in self._progress.followers.values():
            if follower.report is not None:
                self.tell(follower)

    def tell(self, follower: Follower) -> None:
        """Tell the record to a follower that has not stored it."""
        if follower.record_version < self.record.version:
            self._state.send(follower.node, Members(self._epoch, self.record))
