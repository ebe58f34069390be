"""The simulator has teeth: a core or a disk that breaks one rule is found within a stated number of seeds.

Each substitution is made here, from outside; the core has no switch for any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from replicator.core.commit import Commits
from replicator.core.effects import Accept, AdoptHeads, WritePromise
from replicator.core.events import Accepted, Event, PromiseWritten
from replicator.core.lease import Holder, Lender
from replicator.core.membership import Membership
from replicator.core.messages import Reason
from replicator.core.primary import Primary
from replicator.core.progress import Progress
from replicator.core.promise import Promiser
from replicator.core.quorum import ReplicaId
from replicator.core.recovery import Recovery
from replicator.core.reign import Reign
from replicator.core.state import State
from replicator.model import Epoch, Head, Incarnation, Member, MemberRecord, Owner, Sequence, StreamName
from tests.simulation.disk import Disk, Operation
from tests.simulation.disk_faults import DiskFaults
from tests.simulation.image import Image
from tests.simulation.node import Node
from tests.simulation.run import run_seed

Patch = pytest.MonkeyPatch


class PromisesEarly(Disk):
    """Answers a promise before it is durable (against R2)."""

    def perform(self, effect: Any) -> None:
        super().perform(effect)
        if isinstance(effect, WritePromise) and self._deliver is not None:
            self._hand_in(self._life, PromiseWritten(effect.promise, self.image.counter))


class ChecksFenceEarly(Disk):
    """Checks the fence when it is asked, not when it writes (against R4)."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._fine: set[int] = set()

    def perform(self, effect: Any) -> None:
        if isinstance(effect, Accept | AdoptHeads) and not super()._fenced(effect.epoch):
            self._fine.add(effect.epoch)
        super().perform(effect)

    def _fenced(self, epoch: Epoch) -> bool:
        return epoch not in self._fine


class AcceptsEarly(Disk):
    """Says that a checkpoint is accepted when it is only queued (against R13)."""

    def perform(self, effect: Any) -> None:
        super().perform(effect)
        if isinstance(effect, Accept) and not self._fenced(effect.epoch) and self._deliver is not None:
            self._hand_in(self._life, Accepted(effect.manifest, effect.epoch, self.image.counter))

    def _apply(self, operation: Operation) -> Event | None:
        event = super()._apply(operation)
        return None if isinstance(operation, Accept) else event


def promise_twice(patch: Patch) -> None:
    """An epoch is promised to several owners (against R1)."""
    honest = Promiser.objection

    def objection(self: Promiser, epoch: int, owner: Owner) -> Reason | None:
        held = self._state.promising
        if held is not None and held.epoch == epoch and held.owner != owner:
            return None
        return honest(self, epoch, owner)

    patch.setattr(Promiser, "objection", objection)


def highest_sequence_wins(patch: Patch) -> None:
    """The claimant chooses the highest sequence, whatever epoch it was accepted in (against R7, T2)."""
    patch.setattr(Head, "order", property(lambda self: (0, self.sequence)))


def serve_at_once(patch: Patch) -> None:
    """The engine is served before a majority has adopted what is restored (against R9, T1)."""
    patch.setattr(Commits, "all_adopted", property(lambda self: self._reign.recovery.holds_all))


def adopt_everything(patch: Patch) -> None:
    """The bulk adoption takes in the heads that are not the chosen ones (against R10)."""
    honest = State.adopt_heads

    def adopt_heads(self: State, epoch: Epoch, exceptions: frozenset[StreamName]) -> None:
        honest(self, epoch, frozenset())

    patch.setattr(State, "adopt_heads", adopt_heads)


def drop_unreadable(patch: Patch) -> None:
    """What cannot be read now is dropped for an older checkpoint (against R8, T13)."""
    patch.setattr(Recovery, "_provably_uncommitted", lambda self, stream: True)


def commit_alone(patch: Patch) -> None:
    """A checkpoint commits as soon as the primary has it (against R14)."""

    def commit_point(self: Progress, stream: StreamName, record: MemberRecord) -> Sequence:
        return Sequence(self.own(stream))

    patch.setattr(Progress, "commit_point", commit_point)


def commit_without_own(patch: Patch) -> None:
    """The primary counts itself before its own acceptance is durable (against R14, T8)."""

    def own(self: Progress, stream: StreamName) -> int:
        return 2**62

    patch.setattr(Progress, "own", own)
    honest = Commits.check

    def check(self: Commits, stream: StreamName) -> None:
        flight = self._reign.window.flights.get(stream)
        if flight is not None and flight.manifest is not None and stream in self._state.heads:
            flight.stored = True
        honest(self, stream)

    patch.setattr(Commits, "check", check)


def amnesia(patch: Patch) -> None:
    """An empty disk passes for the old one (against R20, T9)."""

    def replace_disk(self: DiskFaults, node: Node) -> None:
        image = Image(node.disk.image.incarnation)
        image.record, image.founded = node.disk.image.record, node.disk.image.founded
        node.disk.replace(image)

    patch.setattr(DiskFaults, "replace_disk", replace_disk)


def lend_twice(patch: Patch) -> None:
    """A lender promises another owner while its lease runs (against R24)."""
    honest = Promiser.objection

    def objection(self: Promiser, epoch: int, owner: Owner) -> Reason | None:
        reason = honest(self, epoch, owner)
        return None if reason is Reason.LEASE else reason

    patch.setattr(Promiser, "objection", objection)
    patch.setattr(Lender, "blocks", lambda self, owner, now: False)


def forget_leases(patch: Patch) -> None:
    """A restarted lender does not wait for what it may have lent (against R24)."""
    honest = Lender.__init__

    def init(self: Lender, *args: Any) -> None:
        honest(self, *args)
        self.owner = None

    patch.setattr(Lender, "__init__", init)


def lease_from_answer(patch: Patch) -> None:
    """The holder counts the lease from the answer's arrival, not from the question (against R24)."""
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


def report_suspended(patch: Patch) -> None:
    """Commits are reported without the lease (against R25)."""
    patch.setattr(Reign, "holds_lease", property(lambda self: self.state.owns(self.epoch)))


def forget_early(patch: Patch) -> None:
    """A tombstone is forgotten when a majority has it (against R23, T18)."""
    honest = Commits.forget_tombstones

    def forget_tombstones(self: Commits) -> None:
        record = self._reign.membership.record
        heads = self._tombstones
        done = {
            s for s, head in heads.items() if self._reign.progress.commit_point(s, record) >= head.sequence
        }
        acked = Progress.acked
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Progress, "acked", lambda p, r, s: 2**62 if s in done else acked(p, r, s))
            honest(self)

    patch.setattr(Commits, "forget_tombstones", forget_tombstones)


def change_at_once(patch: Patch) -> None:
    """A new incarnation takes its place without the joint record (against R27)."""

    def replace(self: Membership, member: Member, incarnation: Incarnation) -> None:
        old = self.record.members
        new = tuple(Member(each.node, incarnation) if each == member else each for each in old)
        self._propose(MemberRecord(self.record.version + 1, new))

    patch.setattr(Membership, "_replace", replace)


class Tooth(NamedTuple):
    """A broken rule, within how many seeds it must be found, and which kind of fault is favoured for it."""

    rule: str
    break_it: Callable[[Patch], None] | type[Disk]
    seeds_max: int = 10
    favoured: str = ""


TEETH = [
    Tooth("R1", promise_twice, 20, "duel"),
    Tooth("R2", PromisesEarly),
    Tooth("R4", ChecksFenceEarly),
    Tooth("R7", highest_sequence_wins, 20, "comeback"),
    Tooth("R8", drop_unreadable, 30, "lag_behind"),
    Tooth("R9", serve_at_once),
    Tooth("R10", adopt_everything),
    Tooth("R13", AcceptsEarly),
    Tooth("R14", commit_alone),
    Tooth("R14", commit_without_own),
    Tooth("R20", amnesia),
    Tooth("R23", forget_early),
    Tooth("R24", lend_twice, 20, "usurp"),
    Tooth("R24", forget_leases, 30, "usurp"),
    Tooth("R24", lease_from_answer, 30, "usurp"),
    Tooth("R25", report_suspended),
    Tooth("R27", change_at_once),
]


@pytest.mark.parametrize("tooth", TEETH, ids=lambda tooth: f"{tooth.rule}-{tooth.break_it.__name__}")
def test_broken_rule_is_found(tooth: Tooth, monkeypatch: Patch) -> None:
    """Some promise is seen to be broken within the stated number of seeds."""
    disk: type[Disk] = Disk
    if isinstance(tooth.break_it, type):
        disk = tooth.break_it
    else:
        tooth.break_it(monkeypatch)
    changes: dict[str, object] = {"favoured": tooth.favoured} if tooth.favoured else {}
    runs = (run_seed(seed, disk_type=disk, changes=changes) for seed in range(tooth.seeds_max))
    assert any(outcome.violation for outcome in runs), f"{tooth.rule} is broken, and nobody sees it"
