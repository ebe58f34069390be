"""The claimant: from the elector's grant to promises from a majority (R5-R7, R11).

A grant is a level: while it stands, the claimant probes, and claims when a majority would promise. Its
epoch is one above the highest seen anywhere and promised to itself first, so that no number is used twice.
Where its disk is full, it leaves the grant to somebody with room, if it hears of one (R21, T17).
What it gathers, a `Report` of each, is what recovery chooses from.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable

from replicator.core import effects
from replicator.core.messages import Claim, Echo, Probe, ProbeAnswer, Promised, Reason, Refusal
from replicator.core.promise import Promiser
from replicator.core.quorum import ReplicaId, is_named, is_quorum, quorum_sets
from replicator.core.report import Pages, Report
from replicator.core.state import State
from replicator.model import Epoch, MemberRecord, NodeId, Process, Promise, Role

DOUBLINGS_MAX = 4  # of the time for a claim


class Phase(enum.StrEnum):
    """Where the claimant stands."""

    IDLE = "idle"  # nothing granted, or waiting for the next attempt
    PROBING = "probing"  # asking whether a majority would promise
    PROMISING = "promising"  # the own promise is on its way to the disk
    CLAIMING = "claiming"  # gathering promises
    WON = "won"  # a majority has promised: the primary's part


PHASE_CHANGES: dict[Phase, frozenset[Phase]] = {
    Phase.IDLE: frozenset({Phase.PROBING}),
    Phase.PROBING: frozenset({Phase.PROMISING, Phase.IDLE}),
    Phase.PROMISING: frozenset({Phase.CLAIMING, Phase.IDLE}),
    Phase.CLAIMING: frozenset({Phase.WON, Phase.IDLE}),
    Phase.WON: frozenset({Phase.IDLE}),
}


class Claimant:
    """Turns grants into claims. *won(epoch, record, reports)* takes over when a majority has promised."""

    def __init__(
        self,
        state: State,
        promiser: Promiser,
        live_primary: Callable[[], bool],
        won: Callable[[Epoch, MemberRecord, dict[NodeId, Report]], None],
    ) -> None:
        self._state = state
        self._promiser = promiser
        self._live_primary = live_primary
        self._won = won
        self.phase = Phase.IDLE
        self.granted = False
        self.bumping = False  # claiming above members that are stuck, with a tenure still open (R11)
        self.epoch = Epoch(0)  # claimed last, perhaps won
        self._reigns = False  # whether it is won and its reign has not ended, whatever the phase is since
        self._nonce = 0
        self._claim_nonce = 0  # of the claim of `epoch`: no later probe makes an answer to it another one
        self._would: set[ReplicaId] = set()
        self._would_never: set[ReplicaId] = set()
        self._roomy: set[ReplicaId] = set()  # who would promise, and could lead with room on its disk
        self._left = (-1, 0.0)  # the grant was left to one of those: first when, in which epoch
        self._newest: MemberRecord | None = None  # the newest record heard while probing
        self._newest_epoch = 0
        self._begun_at = 0.0
        self._waits_for_lease = False
        self._reports: dict[NodeId, Report] = {}
        self._pages = Pages(self._ask, state.config.claim_retry_max_s)
        self._at = math.inf  # the next instant at which there is something to do
        self._give_up_at = math.inf
        self._timeouts = 0  # claims since the last one that was won for which the time was too short

    # ── phases ──

    def _change(self, new: Phase) -> None:
        assert new in PHASE_CHANGES[self.phase], f"{self.phase} -> {new}"
        self.phase = new

    @property
    def deadline(self) -> float:
        return min(self._at, self._give_up_at)

    def on_granted(self) -> None:
        self.granted = True
        self.try_now()
        self.tick()

    def on_engine(self, ready: bool) -> None:
        """An engine is there to take a tenure, or is not any longer."""
        self._state.has_engine = ready and self._state.config.has_engine
        if ready:
            self.try_now()
        elif self.phase in (Phase.PROBING, Phase.PROMISING, Phase.CLAIMING):
            self._give_away("the engine has left")

    def try_now(self) -> None:
        """Something that stood against a claim is gone: no timer has to run out (R11)."""
        if self.phase is Phase.IDLE and self.granted:
            self._at = self._state.now

    def on_revoked(self) -> None:
        """Another may have been named; what is already promised by a majority is not given up for that."""
        self.granted = False
        if self.phase is not Phase.WON and not self.bumping:
            self.stop("the elector's grant was revoked")

    def stop(self, reason: str, bumping: bool = False) -> None:
        """Back to waiting; tried again later while the grant stands, or to go on *bumping*."""
        self.bumping = bumping
        self._give_up_at = math.inf
        if self.phase is not Phase.IDLE:
            self._change(Phase.IDLE)
        if self._state.role is Role.CANDIDATE:
            self._state.change_role(Role.BACKUP, reason)
        self._at = self._retry_at() if self.granted or bumping else math.inf

    def on_reign_ended(self, reason: str) -> None:
        """What was won is over: late promises of that epoch are of no use any longer."""
        self._reigns = False
        self.stop(reason)

    def bump(self) -> None:
        """Claim above members stuck at a higher promise; the tenure waits for it, suspended (R11).

        Until the higher epoch is promised, and if nothing comes of it, the reign goes on in the one it has.
        """
        self.bumping = True
        if self.phase is Phase.WON:
            self._change(Phase.IDLE)
        self._at = self._state.now
        self.tick()

    def _retry_at(self) -> float:
        config = self._state.config
        spread = config.claim_retry_max_s - config.claim_retry_min_s
        return self._state.now + config.claim_retry_min_s + spread * self._state.draw()

    def tick(self) -> None:
        """Do what is due: a first or another probe, a claim told again, or giving up."""
        state = self._state
        if state.now >= self._give_up_at:
            self._time_out()
        if state.now < self._at:
            return
        if self.phase is Phase.IDLE and (self.granted or self.bumping):
            self._begin()
        elif self.phase is Phase.PROBING:
            self._probe()
        elif self.phase is Phase.CLAIMING:
            self._claim()
        else:
            self._at = math.inf

    def _time_out(self) -> None:
        """A claim takes as long as disks take to write promises down: the next one has more time. Where the
        own disk is too slow others may have more luck with the grant (T17)."""
        self._timeouts += 1
        if self.phase is Phase.PROMISING and not self.bumping:
            self._give_away("the own promise was not on the disk in time")
        else:
            self.stop("no majority promised in time", self.bumping)

    # ── probing ──

    @property
    def _record_order(self) -> tuple[int, int]:
        newest = (self._newest_epoch, self._newest.version) if self._newest is not None else (0, 0)
        return max(newest, self._state.record_order)

    def _begin(self) -> None:
        state = self._state
        self._at = self._retry_at()
        if state.role is Role.PRIMARY and not self.bumping:
            self._at = math.inf  # what called for a higher epoch is gone: the tenure goes on in its own
            return
        if not state.can_lead:
            if state.role is not Role.FOUNDING:
                state.emit(effects.Transfer(None))
            return
        if self._live_primary() and not self.bumping:
            return
        if not self.bumping:
            state.change_role(Role.CANDIDATE, "the elector granted leadership")
        self._change(Phase.PROBING)
        self._nonce += 1
        self._would.clear()
        self._would_never.clear()
        self._roomy.clear()
        self._begun_at, self._waits_for_lease = self._state.now, False
        self._newest, self._newest_epoch = self._state.record, self._state.record_epoch
        self._probe()

    def _give_away(self, reason: str) -> None:
        """Others may have more luck with the grant than this node has (T17); not with that of a tenure."""
        has_tenure = self.bumping
        self.stop(reason)
        if not has_tenure:
            self._state.emit(effects.Transfer(None))

    def _probe(self) -> None:
        """Ask, and look whether this replica itself may promise now."""
        state = self._state
        if self._live_primary() and not self.bumping:
            self.stop("a primary of a higher epoch is alive")
            return
        if state.now - self._begun_at > state.config.hand_over_after_s and not self._waits_for_lease:
            self._give_away("no majority would promise this node anything")
            return
        self._waits_for_lease = False  # until somebody says so again
        self._at = state.now + state.config.claim_retry_max_s
        objection = self._promiser.objection(state.epoch_seen + 1, state.me)
        if objection is None:
            self._would.add(state.id)
        elif objection is Reason.LEASE:
            # What this replica lent before its process was started again must pass first (R24).
            self._waits_for_lease = True
            self._at = min(self._at, self._promiser.lease_until(state.me))
        epoch, version = self._record_order
        for node in state.others:
            state.send(node, Probe(self._nonce, version, epoch))
        self._try_claim()

    def on_probe_answer(self, replica: ReplicaId, answer: ProbeAnswer) -> None:
        self._state.saw_epoch(answer.epoch)
        if self.phase is not Phase.PROBING or answer.nonce != self._nonce:
            return
        heard = answer.record
        if heard and (answer.record_epoch, heard.version) > self._record_order:
            self._newest, self._newest_epoch = heard, answer.record_epoch
        if answer.would:
            self._would.add(replica)
            if answer.has_room:
                self._roomy.add(replica)
        elif answer.reason is Reason.LEASE:
            self._waits_for_lease = True
        elif answer.reason is Reason.NOT_MEMBER:
            self._would_never.add(replica)
        self._try_claim()

    def _try_claim(self) -> None:
        """Claim if a majority would promise, unless none ever will: this store may be no member, or so many
        may not know it as one (R20)."""
        state, record = self._state, self._newest
        assert record is not None  # a candidate has one
        everybody = {replica for each in quorum_sets(record) for replica in each}
        if state.id not in everybody or not is_quorum(everybody - self._would_never, record):
            self._give_away("a majority does not know this node's store as a member")
            return
        if state.id not in self._would or not is_quorum(self._would, record):
            return
        if self._promiser.objection(state.epoch_seen + 1, state.me) is not None or self._leaves_it():
            return
        self._change(Phase.PROMISING)
        self._at = math.inf
        self._await_pages()
        self.epoch, self._reigns = Epoch(state.epoch_seen + 1), False
        self._reports.clear()
        self._pages.begin()
        self._nonce += 1
        self._claim_nonce = self._nonce
        self._promiser.promise(self.epoch, state.me)

    def _leaves_it(self) -> bool:
        """Whether a claim has to wait, or the grant is given away: a full disk leaves leadership to one with
        room, as long as that may yet claim, and waits a round for word of it. For a tenure of its own nobody
        else is asked (R11, R21)."""
        state = self._state
        if not state.full or self.bumping:
            return False
        assert self._newest is not None
        if any(is_named(replica, self._newest) for replica in self._roomy):
            if self._left[0] != state.epoch_seen:  # somebody has claimed since
                self._left = state.epoch_seen, state.now
            if state.now - self._left[1] > state.config.hand_over_after_s:
                return False  # whoever it was cannot lead
            self._give_away("another node has room on its disk")
            return True
        return state.now < self._begun_at + state.config.claim_retry_max_s

    # ── claiming ──

    def on_promise_written(self, promise: Promise) -> None:
        """The own promise is durable: now the others may be asked (R5)."""
        state = self._state
        if self.phase is not Phase.PROMISING or promise != Promise(self.epoch, state.me):
            return
        assert state.record is not None
        assert state.owns(self.epoch)  # a newer promise would have stopped this claim
        self._change(Phase.CLAIMING)
        self._await_pages()
        process, echo = Process(state.me.process), Echo(state.me.process, state.now)
        what = (state.record, state.record_epoch, echo)
        own = Report(state.id, process, dict(state.heads), set(), set(), b"", *what)
        self._reports[NodeId(state.me.node)] = own
        self._claim()
        self._try_win()

    def _claim(self) -> None:
        lacking = [node for node in self._state.others if node not in self._reports]
        for node in lacking:
            self.claim_again(node)
        self._at = min(map(self._pages.again_at, lacking), default=math.inf)

    def _await_pages(self) -> None:
        """Silence is what times out: an answer of many pages may take a slow link much longer."""
        patience_s = max(self._state.config.claim_timeout_s, self._pages.patience_s)
        self._give_up_at = self._state.now + patience_s * 2 ** min(self._timeouts, DOUBLINGS_MAX)

    @property
    def _gathers(self) -> bool:
        """Whether promises of the epoch are of use: it is being claimed, or somebody reigns in it."""
        return self.phase is Phase.CLAIMING or self._reigns

    def claim_again(self, node: NodeId) -> None:
        """Ask a replica for its promise, perhaps in the epoch that is won already (a late one), unless what
        it was asked for may be on its way. Nobody is asked before the own promise is durable (R5).
        """
        if self._gathers:
            assert self._state.owns(self.epoch)
            self._pages.ask_again(node, self._state.now)

    def claim_anew(self, node: NodeId) -> None:
        """The same from the beginning: what has come of its answer was compared with own heads that nobody
        has watched since, or was told by another store."""
        self._pages.forget(node)
        self.claim_again(node)

    def on_heard_again(self, node: NodeId) -> None:
        """A replica that has not told anything yet is back: it was asked in vain until now."""
        self._pages.hurry(node)
        self.claim_again(node)

    def _ask(self, node: NodeId, page: int) -> None:
        epoch, version = self._record_order
        self._state.send(node, Claim(self.epoch, self._claim_nonce, version, epoch, page))

    def on_page(self, replica: ReplicaId, process: Process, page: Promised) -> Report | None:
        """Take a page of a promise; a whole report that comes after the claim is won is handed back, also
        while a higher epoch is probed for, and if nothing has come of that."""
        state, report = self._state, None
        if page.epoch == self.epoch and self._gathers:
            report = self._pages.add(replica, process, page, state.heads, state.now)
        else:
            self._pages.overhear(replica[0], state.now)
        if self.phase is not Phase.CLAIMING:
            return report
        self._await_pages()  # also after a page of an older claim: what is asked for now is behind it
        if report is not None:
            self._reports[replica[0]] = report
            self._try_win()
        return None

    def on_refusal(self, refusal: Refusal) -> None:
        """A claim refused for a higher promise is lost; one refused for a lease waits (R11)."""
        state = self._state
        if refusal.promised is not None:
            state.saw_epoch(refusal.promised.epoch)
        if self.phase is not Phase.CLAIMING or refusal.epoch != self.epoch:
            return
        if refusal.reason in (Reason.PROMISED, Reason.JUMP):
            self.stop(f"refused: {refusal.reason}", self.bumping)

    def _try_win(self) -> None:
        """Promises from a majority of the newest member record among them (R7)."""
        newest = max(self._reports.values(), key=lambda report: (report.record_epoch, report.record.version))
        if not is_named(self._state.id, newest.record):
            self._give_away("the newest member record does not name this node's store")
        elif is_quorum({report.replica for report in self._reports.values()}, newest.record):
            self._win(newest.record)

    def _win(self, record: MemberRecord) -> None:
        self._change(Phase.WON)
        self.bumping, self._reigns, self._timeouts = False, True, 0
        self._at = self._give_up_at = math.inf
        reports, self._reports = self._reports, {}
        self._won(self.epoch, record, reports)
