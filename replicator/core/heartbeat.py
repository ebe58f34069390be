"""Heartbeats: the primary's question for the lease, and with it everything a follower should know.

What a follower lacks is told again until it is acknowledged: the claim, the member record, the bulk
adoption, heads, commit points. Losing any one of these messages costs an interval, nothing else (R18).
But nothing is told again while it may be on its way, for behind a slow link heartbeats would queue behind it
(R16). Messages come in order: what was told before a question is there, or lost, once that is answered.
"""

from __future__ import annotations

from itertools import islice

from replicator.core.claim import Claimant
from replicator.core.messages import NAMES_PER_PAGE, Adopt, Behind, CommitPoint, Heartbeat, HeartbeatAnswer
from replicator.core.progress import Follower
from replicator.core.quorum import ReplicaId, is_quorum
from replicator.core.reign import Reign
from replicator.core.report import Report
from replicator.model import Head, StreamName

HINTS_PER_HEARTBEAT = 256
LOOKED_AT_TIMES = 4  # the heads that are told at once: some have been published a moment ago


class Heartbeats:
    """Asks, tells and listens, for one epoch; the *claimant* asks for promises that are still to come."""

    def __init__(self, reign: Reign, claimant: Claimant) -> None:
        self._reign = reign
        self._state = reign.state
        self._claimant = claimant
        self.deadline = reign.state.now

    def beat(self) -> None:
        """One heartbeat to every follower."""
        state, config, reign = self._state, self._state.config, self._reign
        self.deadline = state.now + config.heartbeat_interval_s
        question = reign.holder.ask(state.now)
        index = reign.window.publish_index if reign.window.epoch == reign.epoch else 0
        # While no majority can lend, what others lend only keeps their promises from whoever has one (R24).
        may_hold = is_quorum({self._state.id, *(follower.replica for follower in reign.up)}, reign.record)
        for follower in reign.progress.followers.values():
            hints: tuple[CommitPoint, ...] = ()
            if not follower.hinted[1]:
                hints = tuple(islice(follower.hints.values(), HINTS_PER_HEARTBEAT))
                follower.hinted = (question, hints)
            echo = reign.holder.echoes.get(follower.node) if may_hold else None
            state.send(follower.node, Heartbeat(reign.epoch, question, config.lease_s, echo, index, hints))
            has_arrived = follower.report is None or follower.answered > follower.told_after
            if has_arrived and state.now - follower.told_at >= config.behind_interval_s:
                self._tell(follower)

    def tell_all(self) -> None:
        """Tell every follower at once what it lacks."""
        for follower in self._reign.progress.followers.values():
            self._tell(follower)

    def _tell(self, follower: Follower) -> None:
        """Tell everything that the follower has not acknowledged."""
        follower.told_at, follower.told_after = self._state.now, self._reign.holder.question
        if follower.report is None:
            self._claimant.claim_again(follower.node)
            return
        self._reign.membership.tell(follower)
        if not follower.adopted:
            self._send_adopt(follower)
        self._tell_lacking(follower)

    def on_report(self, report: Report) -> None:
        """A promise in this epoch, in time or late: adopt what is shared, tell what is lacking (R10)."""
        reign = self._reign
        follower = reign.progress.follower(report.replica)
        if follower is None:
            return
        follower.take_report(report, reign.recovery.apart, reign.recovery.lacking, reign.head)
        reign.holder.echoes[follower.node] = report.echo
        self._tell(follower)

    def on_answer(self, replica: ReplicaId, answer: HeartbeatAnswer) -> None:
        """The follower is alive and has promised nothing newer; perhaps it lends."""
        reign = self._reign
        follower = reign.progress.follower(replica)
        if follower is None or answer.epoch != reign.epoch:
            return
        was_silent = self._state.now - follower.heard_at > self._state.config.lease_s
        follower.heard_at, follower.stuck_since = self._state.now, None
        if was_silent and follower.report is None:
            self._claimant.on_heard_again(follower.node)
        follower.full, follower.can_lead = answer.full, answer.can_lead
        follower.heard_answer(answer.question)
        reign.holder.echoes[follower.node] = answer.echo
        reign.holder.answer(replica, answer.question, answer.lends, reign.record)
        if reign.window.epoch == reign.epoch:
            reign.window.progress(replica, answer.seen_index, reign.record)

    def _send_adopt(self, follower: Follower) -> None:
        report = follower.report
        assert report is not None
        names = sorted(follower.exceptions)
        pages = [names[i : i + NAMES_PER_PAGE] for i in range(0, len(names), NAMES_PER_PAGE)] or [[]]
        for index, page in enumerate(pages):
            self._state.send(
                follower.node, Adopt(self._reign.epoch, report.digest, index, len(pages), tuple(page))
            )

    def _tell_lacking(self, follower: Follower) -> None:
        """Tell a follower the heads that it should have acknowledged by now (R18). Of many that were
        published a moment ago no more are looked at than a beat has time for."""
        state, config, lacking = self._state, self._state.config, follower.lacking
        late: list[Head] = []
        early: list[StreamName] = []
        for stream in islice(lacking, LOOKED_AT_TIMES * config.behind_heads_max):
            head = self._reign.head(stream)
            if head is None or state.now - lacking[stream] < config.behind_interval_s:
                early.append(stream)
            elif len(late) < config.behind_heads_max:
                late.append(head)
            else:
                break
        for stream in (*early, *(StreamName(head.stream) for head in late)):
            lacking[stream] = lacking.pop(stream)  # the others have their turn first next time
        if late:
            state.send(follower.node, Behind(self._reign.epoch, tuple(late)))
