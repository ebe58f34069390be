"""The primary: one epoch from its won claim to its end (R8-R17, R24-R27).

It recovers (chooses, holds and adopts every stream's head), serves (publishes, counts acknowledgments,
commits), asks for the lease with each heartbeat, and ends for a newer promise, a long lapse, or because
it resigns. When single members are stuck at a higher promise it claims above them and goes on.
"""

from __future__ import annotations

import math

from replicator.core import effects, messages
from replicator.core.above import reasons_to_claim_above
from replicator.core.claim import Claimant
from replicator.core.commit import Commits
from replicator.core.events import AcceptRefused, Published, Why
from replicator.core.handover import Handover
from replicator.core.heartbeat import Heartbeats
from replicator.core.phase import PHASE_CHANGES, Phase
from replicator.core.quorum import ReplicaId
from replicator.core.reign import Reign
from replicator.core.report import Report
from replicator.core.rivals import note_refusal, rivals_hold_majority, stuck_for
from replicator.core.state import State
from replicator.core.tenure import Tenure
from replicator.core.window import Flight, Window
from replicator.model import Digest, Epoch, Head, Manifest, MemberRecord, NodeId, Role, Sequence, StreamName


class Primary:
    """The one replica that may publish, for as long as nothing newer is promised."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.claimant: Claimant  # set by the replica: the two know each other
        self.phase = Phase.OFF
        self.tenure = Tenure(state)
        self.window = Window(state)
        self.reign: Reign | None = None
        self._commits: Commits
        self._heartbeats: Heartbeats
        self._unchanged = False
        self.handover = Handover(state)
        self._lapsed_since: float | None = None

    def _change(self, new: Phase) -> None:
        assert new in PHASE_CHANGES[self.phase], f"{self.phase} -> {new}"
        self.phase = new

    @property
    def deadline(self) -> float:
        if self.reign is None:
            return math.inf
        lapse = self.reign.holder.deadline if self._lapsed_since is None else math.inf
        return min(self._heartbeats.deadline, lapse, self.handover.deadline, self.reign.recovery.deadline)

    @property
    def lease_until(self) -> float:
        """Before which instant this replica, a lender to itself, promises nobody else (R24)."""
        return self.reign.holder.deadline if self.reign is not None else -math.inf

    def begin(self, epoch: Epoch, record: MemberRecord, reports: dict[NodeId, Report]) -> None:
        """A majority has promised: choose, hold and adopt (R7-R9); heartbeats start at once."""
        state = self._state
        self._change(Phase.RECOVERING)
        state.cancel_fetches()
        reign = self.reign = Reign(state, self.window, epoch, record, reports)
        self._commits = Commits(reign)
        self._heartbeats = Heartbeats(reign, self.claimant)
        # A stream that was withheld is held now, or was dropped: either is news to the engine (R11).
        unchanged = reign.holds_all and not reign.recovery.exceptions and not self.tenure.withheld
        self._unchanged = unchanged and self.tenure.epoch is not None
        if not self._unchanged:
            self._begin_anew("other checkpoints than this tenure's were found")
        self._lapsed_since = state.now
        for report in reports.values():
            self._heartbeats.on_report(report)
        reign.recovery.step()
        self._heartbeats.beat()

    def _begin_anew(self, reason: str) -> None:
        """No tenure is to go on in this epoch: the engine gets a new one."""
        assert self.reign is not None
        self._unchanged = False
        self._close(reason, Role.CANDIDATE, f"recovering epoch {self.reign.epoch}")

    def _close(self, reason: str, role: Role, why: str) -> None:
        """What is being published is abandoned with the role, before its payload is given back (I4)."""
        self.tenure.end(reason)
        self._state.change_role(role, why)
        self.window.close(reason)

    def on_report(self, report: Report) -> None:
        """A promise that came after the majority's."""
        if self.reign is not None and report.replica[0] in self.reign.progress.followers:
            heard = self.reign.recovery.has_heard(report.replica)
            self._heartbeats.on_report(report)
            if not heard and (self.phase is Phase.RECOVERING or self.reign.withheld):
                self.reign.recovery.add_report(report)
                self._step()

    def on_stranger(self, replica: ReplicaId) -> None:
        """An incarnation of a member speaks that the record does not name: it learns everything (R20)."""
        reign, recently = self.reign, self._state.now - self._state.config.lease_max_s
        follower = reign.progress.followers.get(replica[0]) if reign is not None else None
        if reign is None or follower is None or follower.replica == replica or follower.heard_at >= recently:
            return
        reign.progress.follow(replica)
        self.claimant.claim_anew(replica[0])

    def _step(self) -> None:
        """Go as far as what is adopted and lent allows."""
        reign = self.reign
        if reign is None or not reign.holds_lease:
            return
        if self.phase is Phase.RECOVERING and self._commits.all_adopted:
            reign.serving = True
            if self._unchanged and reign.roomless:
                self._begin_anew("no majority has room for its checkpoints")
            if self._unchanged:
                self._change(Phase.DRAINING)
                self.window.drain()
            self.window.open(reign.epoch, reign.recovery.dropped)
            self._commits.check_all()
        drained = self.phase is Phase.DRAINING and self.window.empty
        if drained or (self.phase is Phase.RECOVERING and reign.serving):
            self._serve()

    def _serve(self) -> None:
        state, reign = self._state, self.reign
        assert reign is not None
        self._change(Phase.SERVING)
        self._lapsed_since = None
        self.window.drained("goes on unchanged in a newer epoch")
        # What the engine could not be given since this epoch began, it has not got in what goes on unchanged.
        chosen, lost = reign.recovery.chosen, {s: state.heads[s] for s in self.tenure.withheld}
        lost |= reign.withheld
        self.tenure.end("goes on unchanged in a newer epoch")
        heads = [h for s, h in state.heads.items() if (self._unchanged or s in chosen) and s not in lost]
        unavailable = tuple(lost[stream] for stream in sorted(lost))
        state.change_role(Role.PRIMARY, f"a majority has adopted epoch {reign.epoch}")
        self.tenure.start(reign.epoch, tuple(heads), unavailable, self._unchanged, reign.holder.deadline)

    def tick(self) -> None:
        """Beat, notice a lapse, resign, retry what recovery lacks."""
        state, reign = self._state, self.reign
        if reign is None:
            return
        if state.now >= reign.holder.deadline and self._lapsed_since is None:
            self.suspend()
        if state.now >= reign.recovery.deadline:
            reign.recovery.retry()
            self._step()
        if state.now >= self._heartbeats.deadline:
            self._beat(reign)

    def _beat(self, reign: Reign) -> None:
        self._heartbeats.beat()
        self._commits.watch_disk()
        if self.phase is Phase.SERVING and self._state.owns(reign.epoch):  # not once more is promised (R3)
            self._commits.forget_tombstones()
            if reign.membership.is_changing:
                reign.membership.step(self._commits.covered)
        reign.holder.count(reign.record)
        self._lease_moved(reign)
        self._watch(reign)

    def _watch(self, reign: Reign) -> None:
        """What ends a tenure or moves its epoch: a lapse, the elector's steady word, what a higher epoch
        would mend; without room that would only suspend it, so what finds none holds up nothing else."""
        state, config = self._state, self._state.config
        if self._lapsed_since is not None and state.now - self._lapsed_since > config.lapse_max_s:
            self.end("the lease lapsed for too long", hand_over=True)
            return
        self.handover.let_try(reign, self._lapsed_since)
        if self.handover.is_to_follow(reign, self.phase is Phase.SERVING):
            self.resign(None, if_able=False)
        if self.phase is Phase.RECOVERING:
            self._commits.withhold_the_roomless()
            self._step()
        if reign.is_starved(state.now - config.lease_s):
            self.window.overtake()
            if self.phase is Phase.DRAINING and reign.is_late:
                self.end("no majority has room for what was in flight")
                return
        above = reasons_to_claim_above(reign, self.tenure)
        if self.phase is Phase.RECOVERING and reign.holds_all and stuck_for(reign, config.bump_after_s):
            self.end("too few have adopted its epoch, and who promised a higher one may")
        elif above and reign.serving and not self.claimant.bumping and not reign.is_starved():
            self.claim_above("; ".join(above))

    def claim_above(self, reason: str) -> None:
        """Claim a higher epoch with the tenure open, suspended once that is promised (R11)."""
        self._state.notice(f"{reason}: claiming above it (R11)")
        self.claimant.bump()

    def suspend(self) -> None:
        """The lease is no longer what it was, or a higher epoch is about to be promised: one lapse, however
        many epochs are claimed in it (R24, R25)."""
        if self._lapsed_since is None:
            self._lapsed_since = self._state.now
        self.tenure.suspend()

    def on_heartbeat_answer(self, replica: ReplicaId, answer: messages.HeartbeatAnswer) -> None:
        if self.reign is not None:
            self._heartbeats.on_answer(replica, answer)
            self._lease_moved(self.reign)
            self._commits.cover_without_the_lost()

    def _lease_moved(self, reign: Reign) -> None:
        """The lease may have been prolonged: tell the engine, and report what had to wait for it."""
        if not reign.holds_lease:
            return
        # A lapse that no tick has noticed counts too: what was acknowledged in it has not been reported.
        regained = self._lapsed_since is not None or self.tenure.deadline <= self._state.now
        self._lapsed_since = None
        if self.tenure.epoch == reign.epoch:
            self.tenure.lend(reign.holder.deadline)
        if regained:
            self._commits.check_all()
        self._step()

    def on_ack(self, replica: ReplicaId, message: messages.Ack) -> None:
        if self.reign is not None:
            self._commits.on_ack(replica, message)
            self._step()

    def on_adopted(self, replica: ReplicaId, message: messages.Adopted) -> None:
        """A bulk adoption counts for every head that it covers (R10)."""
        reign = self.reign
        follower = reign.progress.follower(replica) if reign is not None else None
        if reign is None or follower is None or follower.report is None or message.epoch != reign.epoch:
            return
        if follower.report.digest == message.digest and not follower.adopted:
            follower.take_adopted()
            self._commits.on_adopted()
            self._step()

    def on_members_accepted(self, replica: ReplicaId, message: messages.MembersAccepted) -> None:
        if self.reign is not None and message.epoch == self.reign.epoch:
            self.reign.membership.on_accepted(replica, message.version)
            self._step()

    def on_progress(self, replica: ReplicaId, message: messages.Progress) -> None:
        if self.reign is not None and message.epoch == self.reign.epoch == self.window.epoch:
            self.window.progress(replica, message.publish_index, self.reign.record)

    def on_refusal(self, replica: ReplicaId, message: messages.Refusal) -> None:
        """A follower refuses: it has promised more, or it asks to be asked again (R3, R11, R25)."""
        reign = self.reign
        follower = reign.progress.follower(replica) if reign is not None else None
        if reign is None or follower is None or message.epoch != reign.epoch:
            return
        if message.reason is messages.Reason.UNKNOWN_HEADS:
            follower.report = None
            self.claimant.claim_again(follower.node)
        note_refusal(reign, follower, message)
        if rivals_hold_majority(reign):
            self.end("a majority has promised a newer epoch")

    # ── the store ──

    def on_heads_adopted(self, epoch: Epoch) -> None:
        """The own bulk adoption is durable."""
        if self.reign is not None and epoch == self.reign.epoch:
            self.reign.has_adopted, self.reign.outrun_since = True, math.inf
            self._commits.count_bulk()
            self._step()

    def on_record_written(self, record: MemberRecord, epoch: Epoch) -> None:
        if self.reign is not None:
            self.reign.membership.on_record_written(record, epoch)
            self._step()

    def on_accepted(self, manifest: Manifest, epoch: Epoch) -> None:
        """The primary's own acceptance counts like a follower's, under the same fence (T8)."""
        reign, stream = self.reign, StreamName(manifest.stream)
        if reign is None or epoch != reign.epoch:
            return
        was_lacking, reign.outrun_since = not reign.recovery.holds(stream), math.inf
        reign.recovery.on_accepted(manifest)
        self._commits.count_adoption({stream})
        if self.window.stored(manifest) is not None:
            reign.progress.add_head(stream, manifest.sequence, self._state.now)
        elif was_lacking:
            reign.progress.add_head(stream, manifest.sequence, -math.inf)
            if reign.holds_all:
                self._heartbeats.tell_all()
        self._commits.check(stream)
        self._step()

    def on_accept_refused(self, event: AcceptRefused) -> None:
        """The own acceptance failed: fenced means over; the rest is mended or waits for room (R21)."""
        reign, stream = self.reign, StreamName(event.manifest.stream)
        if reign is None or event.epoch != reign.epoch:
            return
        head, reign.outrun_since = self._state.heads.get(stream), math.inf
        if event.why is Why.STALE and head is not None and head.digest == event.manifest.digest:
            self.on_accepted(event.manifest, event.epoch)  # it has been, before it rotted or went out again
            return
        reign.recovery.on_refused(event.manifest, event.why)
        flight = self.window.flight(stream, Digest(event.manifest.digest))
        if event.why is Why.INCOMPLETE and flight is not None:
            self.window.publish(flight)
        elif event.why is Why.FULL and (flight is not None or not reign.serving):
            reign.wants_room = True  # until there is, or somebody else is found who can go on

    def on_room(self) -> None:
        """There is room again for what has found none (R21)."""
        if self.reign is not None:
            self.reign.wants_room = False
            self.window.accept_again()
            self.reign.recovery.on_room()

    def on_fetched(self, stream: StreamName, digest: Digest, manifest: Manifest | None) -> None:
        """A fetch has ended, perhaps one for recovery; without a manifest it has failed (R8)."""
        if self.reign is not None:
            self.reign.recovery.on_fetched(stream, digest, manifest)
            self._step()

    def on_rotten(self, stream: StreamName, digest: Digest) -> None:
        """The own head is rotten: it waits for a good copy, or is published again from the engine's."""
        reign, flight = self.reign, self.window.flight(stream, digest)
        if reign is not None and (not reign.serving or stream in reign.roomless):
            reign.recovery.on_rotten(stream, digest)
        elif reign is not None and flight is not None and flight.is_of(reign.epoch):
            self.window.publish(flight)  # one that was adopted would be another one of the same order (R12)

    # ── the engine ──

    def on_submitted(self, epoch: Epoch, flight: Flight) -> None:
        """A checkpoint of the present tenure; of an ended one its outcome is known to be nothing (R12)."""
        reign = self.reign
        if reign is None or epoch != self.tenure.epoch:
            self.window.refuse(flight, "the tenure has ended")
        elif flight.stream in self.tenure.withheld:
            self.window.refuse(flight, "the stream's newest checkpoint is waited for (R8)")
        else:
            self.window.submit(flight)

    def on_published(self, event: Published) -> None:
        if self.reign is None or event.epoch != self.window.epoch or not self._state.owns(event.epoch):
            return
        flight = self.window.published(event.handle, event.manifest, event.publish_index)
        if flight is not None and flight.early:
            early, flight.early = flight.early, {}
            self._commits.take_early(early)

    def abandon(self, stream: StreamName) -> None:
        """The operator gives an unreadable head up, for an older one or for the stream's deletion (R8)."""
        state, reign, head = self._state, self.reign, None
        reason = "there is nothing to abandon: it can be read, or soon can, or does not exist"
        if reign is not None and (stream in reign.recovery.rotten or not state.owns(reign.epoch)):
            reason = "a newer epoch is being claimed: ask again after that"
        elif reign is not None:
            head = reign.recovery.abandon(stream) or self._abandon_adopted(reign, stream)
        if reign is None or head is None:
            state.emit(effects.AbandonRefused(reason))
            return
        state.emit(effects.Abandoned(head, reign.recovery.chosen.get(stream)))
        if stream not in reign.recovery.chosen and stream not in self.window.flights:
            self.window.submit(Flight(0, stream, Sequence(head.sequence + 1), True))

    def _abandon_adopted(self, reign: Reign, stream: StreamName) -> Head | None:
        """What a majority has adopted, and the engine could not be given: only a deletion can follow it."""
        head = reign.head(stream) if stream in self.tenure.withheld - reign.withheld.keys() else None
        if head is None or (head.readable and not self.tenure.is_in_vain(head)):
            return None
        reign.recovery.chosen.pop(stream, None)
        return head

    def resign(self, successor: NodeId | None, if_able: bool) -> None:
        """Hand over once what is in flight has committed, or after a claim's time (R25, R26)."""
        if self.reign:
            self.handover.ask(successor, if_able)
            self._heartbeats.beat()  # who answers is up

    def hand_over(self) -> None:
        """End the tenure if a handover has come so far; called after every event."""
        if self.reign and self.handover.step(self.reign):
            self.end(self.handover.reason, hand_over=True)

    # ── the end ──

    def end(self, reason: str, hand_over: bool = False) -> None:
        """Guard closed first, then the lease given back, then leadership, if it is to be handed over."""
        state, reign = self._state, self.reign
        if reign is None:
            return
        self._close(reason, Role.BACKUP, reason)
        for follower in reign.progress.followers.values():
            state.send(follower.node, messages.LeaseReturned(reign.epoch))
        state.cancel_fetches()
        successor = self.handover.successor(reign)
        self.reign = None
        self.handover.clear()
        self._change(Phase.OFF)
        self.claimant.on_reign_ended(reason)
        if hand_over:
            state.emit(effects.Transfer(successor))
