"""R20-R28 broken: disks, the lease, members and the wire."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs

from replicator.adapters import store_plan
from replicator.core import membership
from replicator.core.backup import Backup
from replicator.core.claim import Claimant
from replicator.core.commit import Commits
from replicator.core.config import Config
from replicator.core.effects import Accept
from replicator.core.events import Accepted, HeadRotten, Received
from replicator.core.founding import Founding
from replicator.core.lease import Holder, Lender
from replicator.core.membership import Membership
from replicator.core.messages import Claim, Echo, Hello, LeaseReturned, Message, Probe, ProbeAnswer, Reason
from replicator.core.primary import Primary
from replicator.core.progress import Follower, Progress
from replicator.core.promise import Promiser
from replicator.core.quorum import ReplicaId, is_named, quorum_sets
from replicator.core.reign import Reign
from replicator.core.replica import _HANDLERS, Replica
from replicator.core.report import Pages
from replicator.core.state import State
from replicator.core.window import Window
from replicator.model import (
    Epoch,
    Generation,
    Incarnation,
    Member,
    MemberRecord,
    NodeId,
    Owner,
    Sequence,
    StreamName,
)
from replicator.worker.mesh import Mesh
from tests.simulation.disk import Disk
from tests.simulation.disk_faults import DiskFaults
from tests.simulation.image import Image
from tests.simulation.node import Node
from tests.simulation.teeth.endings import go_on_despite

Patch = pytest.MonkeyPatch


def amnesia(patch: Patch) -> None:
    """An empty disk passes for the old one (T9)."""

    def replace_disk(self: DiskFaults, node: Node) -> None:
        image = Image(node.disk.image.incarnation)
        image.record, image.founded = node.disk.image.record, node.disk.image.founded
        node.disk.replace(image)

    patch.setattr(DiskFaults, "replace_disk", replace_disk)


def found_early(patch: Patch) -> None:
    """The cluster is declared when the coordinator alone has stored the record."""

    def _declare(self: Founding) -> None:
        state, record = self._state, self._proposed
        if record is not None and state.record == record and not state.founded:
            state.write_record(record, Epoch(0), True)

    patch.setattr(Founding, "_declare", _declare)


class GoesOnAfterFailedSync(Disk):
    """A sync that failed is answered as if it had not, and the store is written on."""

    def _synced(self, life: int) -> None:
        failed = self.fails_next and life == self._life and self._batch is not None and not self._stopped
        if not failed:
            super()._synced(life)
            return
        self.fails_next = False
        batch, self._batch = self._batch or [], None
        for one in batch:
            if isinstance(one, Accept) and not self._fenced(one.epoch):
                self._hand_in(life, Accepted(one.manifest, one.epoch, self.image.counter))
        self._start_batch()


def compare_early(patch: Patch) -> None:
    """What a learner told before it was followed is compared with the heads of that time."""
    patch.setattr(Pages, "forget", lambda self, node: None)


def lead_unnamed(patch: Patch) -> None:
    """A member record of a higher version passes for the newest, though a later epoch adopted another one."""
    heed = Claimant.on_probe_answer

    def _counts(self: Promiser, owner: Owner, word: Probe | Claim | None) -> bool:
        record = self._state.record
        told = word.record_version if word is not None else 0
        return record is not None and (
            record.version < told or is_named((NodeId(owner.node), Incarnation(owner.incarnation)), record)
        )

    def on_probe_answer(self: Claimant, replica: ReplicaId, answer: ProbeAnswer) -> None:
        own, heard = self._state.record, answer.record
        if own is not None and heard is not None and heard.version <= own.version:
            answer = structs.replace(answer, record=None)
        heed(self, replica, answer)

    patch.setattr(Promiser, "_counts", _counts)
    patch.setattr(Claimant, "on_probe_answer", on_probe_answer)
    patch.setattr("replicator.core.claim.is_named", lambda replica, record: True)


def forget_what_is_wanted(patch: Patch) -> None:
    """Rot that is found to be gone takes with it whatever else is wanted of the stream."""
    honest = Backup.tick

    def tick(self: Backup) -> None:
        due, rotten = self._state.now >= self.deadline, dict(self._rotten)
        honest(self)
        for stream in rotten.keys() - self._rotten.keys() if due else ():
            self._wanted.pop(stream, None)

    patch.setattr(Backup, "tick", tick)


def let_rot(patch: Patch) -> None:
    """A head that cannot be read stays as it is."""

    def on_rotten(self: Backup, event: HeadRotten) -> None:
        return None

    patch.setattr(Backup, "on_rotten", on_rotten)


def recall_the_deleted(patch: Patch) -> None:
    """Once a deletion is forgotten, a late frame brings back what it deleted."""
    honest = State.forget

    def forget(self: State, stream: StreamName, generation: Generation, sequence: Sequence) -> None:
        honest(self, stream, generation, sequence)
        self.forgotten.clear()

    patch.setattr(State, "forget", forget)


def forget_early(patch: Patch) -> None:
    """A tombstone is forgotten when a majority has it (T18)."""
    honest = Commits.forget_tombstones

    def forget_tombstones(self: Commits) -> None:
        record = self._reign.membership.record
        heads = self._tombstones
        done = {
            s for s, head in heads.items() if self._reign.progress.commit_point(s, record) >= head.sequence
        }
        acked = Progress.acked
        self._ripe.update(dict.fromkeys(done))
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Progress, "acked", lambda p, r, s: 2**62 if s in done else acked(p, r, s))
            honest(self)

    patch.setattr(Commits, "forget_tombstones", forget_tombstones)


def remember_all_deletions(patch: Patch) -> None:
    """Deleted streams are remembered for as long as the epoch lasts, however many come and go."""
    patch.setattr(Primary, "claim_above", lambda self, reason: None)


def keep_the_forgotten(patch: Patch) -> None:
    """What followers lacked of a deleted stream stays lacking when it is forgotten."""
    patch.setattr(Progress, "forget", lambda self, stream: None)


def forget_while_changing(patch: Patch) -> None:
    """A tombstone is forgotten while a claimant may still heed the store that is being replaced."""
    honest = Commits.forget_tombstones

    def forget_tombstones(self: Commits) -> None:
        settled = MemberRecord(self._reign.record.version, self._reign.record.members)
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Reign, "record", settled)
            inner.setattr(Membership, "adopted", True)
            honest(self)

    patch.setattr(Commits, "forget_tombstones", forget_tombstones)


def wait_for_silence(patch: Patch) -> None:
    """A learner has to lack nothing at all, which it never does while commits go on."""
    patch.setattr(Membership, "_has_caught_up", lambda self, learner: learner.adopted and not learner.lacking)


def wait_for_nearness(patch: Patch) -> None:
    """A learner has to lack nothing at one instant, however far away it is."""
    patch.setattr(
        Membership, "_has_caught_up", lambda self, learner: learner.is_known and not learner.lacking
    )


def hand_over_unheard(patch: Patch) -> None:
    """Who has not told what it holds passes for one that lacks nothing."""
    patch.setattr(Follower, "is_known", True)


def take_in_the_deleted(patch: Patch) -> None:
    """A store that holds what was deleted and forgotten is taken in as a member's."""
    patch.setattr(Membership, "_holds_the_deleted", lambda self, follower: False)


def keep_the_newest_only(patch: Patch) -> None:
    """The newest checkpoint is kept, and the committed one below it thrown away."""
    patch.setattr(store_plan, "retained", lambda record, keep: record.entries[-1:])


def lend_twice(patch: Patch) -> None:
    """A lender promises another owner while its lease runs."""
    honest = Promiser.objection

    def objection(self: Promiser, epoch: int, owner: Owner, *word: Any) -> Reason | None:
        reason = honest(self, epoch, owner, *word)
        return None if reason is Reason.LEASE else reason

    patch.setattr(Promiser, "objection", objection)
    patch.setattr(Lender, "blocks", lambda self, owner, now: False)


def lease_from_answer(patch: Patch) -> None:
    """The holder counts the lease from the answer's arrival, not from the question."""
    honest = Holder.answer

    def answer(self: Holder, replica: ReplicaId, question: int, lends: bool, record: MemberRecord) -> None:
        self._asked[question] = max(self._asked.get(question, 0.0), self.now)  # type: ignore[attr-defined]
        honest(self, replica, question, lends, record)

    def on_heartbeat_answer(self: Primary, *args: Any) -> None:
        if self.reign is not None:
            self.reign.holder.now = self._state.now  # type: ignore[attr-defined]
        told(self, *args)

    told = Primary.on_heartbeat_answer
    patch.setattr(Holder, "answer", answer)
    patch.setattr(Primary, "on_heartbeat_answer", on_heartbeat_answer)


def lend_unheard(patch: Patch) -> None:
    """A question without a fresh echo is lent the lease (T22)."""
    honest = Lender.lend

    def lend(self: Lender, owner: Owner, lease_s: float, echo: Echo | None, now: float) -> bool:
        return honest(self, owner, lease_s, Echo(self._process, now), now)

    patch.setattr(Lender, "lend", lend)


def no_margin(patch: Patch) -> None:
    """The holder gives nothing away for clocks whose rates differ."""
    patch.setattr(Config, "lease_margin_s", property(lambda self: 0.0))


def report_suspended(patch: Patch) -> None:
    """Commits are reported without the lease."""
    patch.setattr(Reign, "holds_lease", property(lambda self: self.state.owns(self.epoch)))


def never_end(patch: Patch) -> None:
    """A lapse ends no tenure, however long it lasts."""
    go_on_despite(patch, "the lease lapsed for too long")


def hand_on_what_was_held(patch: Patch) -> None:
    """What a handover held back in one tenure is published in the next."""

    def drained(self: Window, reason: str) -> None:
        self._draining = False

    patch.setattr(Window, "drained", drained)


def keep_the_lease(patch: Patch) -> None:
    """A primary that resigns does not give the lease back."""
    honest = State.send

    def send(self: State, to: NodeId, message: Message) -> None:
        if not isinstance(message, LeaseReturned):
            honest(self, to, message)

    patch.setattr(State, "send", send)


def change_at_once(patch: Patch) -> None:
    """A new incarnation takes its place without the joint record."""

    def replace(self: Membership, member: Member, incarnation: Incarnation) -> None:
        old = self.record.members
        new = tuple(Member(each.node, incarnation) if each == member else each for each in old)
        self._propose(MemberRecord(self.record.version + 1, new))

    patch.setattr(Membership, "_replace", replace)


def take_any_record(patch: Patch) -> None:
    """A late founder writes every record that it is told, the older ones too."""

    def _settle(self: Founding, record: MemberRecord) -> None:
        if self._state.promising is None and self._settling != record:
            self._settling = record
            self._state.write_record(record, Epoch(0), True)

    patch.setattr(Founding, "_settle", _settle)


def leave_the_primary_out(patch: Patch) -> None:
    """A change of members ends with the new set, though that does not name who reigns by the old one."""
    patch.setattr(membership, "quorum_sets", lambda record: (frozenset().union(*quorum_sets(record)),))


def cover_nothing(patch: Patch) -> None:
    """A change of members goes on before the new set holds every stream (T11)."""
    honest = Membership.step

    def step(self: Membership, covered: Callable[[], bool]) -> None:
        followers = self._progress.followers.values()
        lacking = {follower.node: follower.lacking for follower in followers}
        for follower in followers:
            follower.adopted, follower.lacking = True, {}
        honest(self, lambda: True)
        for follower in followers:
            follower.lacking = lacking[follower.node]

    patch.setattr(Membership, "step", step)


def jump_anywhere(patch: Patch) -> None:
    """An epoch may jump by any step (T21)."""
    patch.setattr(State, "reaches", lambda self, epoch: True)


def see_any_epoch(patch: Patch) -> None:
    """What a peer says of an epoch is taken as it comes, and claims go above it (T21)."""
    patch.setattr("replicator.core.state.EPOCH_JUMP_MAX", 2**62)


def hear_strangers(patch: Patch) -> None:
    """A node that is no configured peer is heard like one."""
    honest = Replica._on_received

    def _on_received(self: Replica, event: Received) -> None:
        config = self._state.config
        if isinstance(event.message, Hello) or event.node in config.peers:
            honest(self, event)
            return
        self._state.config = structs_with(config, event.node)
        honest(self, event)
        self._state.config = config

    patch.setitem(_HANDLERS, Received, _on_received)


def structs_with(config: Config, node: NodeId) -> Config:
    """The same configuration with one more peer."""
    fields = {name: getattr(config, name) for name in config.__struct_fields__}
    return Config(**{**fields, "peers": config.peers | {node}})


def read_any_size(patch: Patch) -> None:
    """Frames are decoded whatever their size."""
    patch.setattr("replicator.codec.frames.ENVELOPE_BYTES_MAX", 2**40)
    patch.setattr("replicator.codec.frames.HEADER_BYTES_MAX", 2**40)


def hear_anybody(patch: Patch) -> None:
    """A sender is who it says it is, of whatever version and cluster, whatever its key says (T16)."""
    patch.setattr(Mesh, "_check", lambda self, envelope, key_node: None)
