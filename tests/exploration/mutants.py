"""Broken rules: substitutions made from outside, each with the world in which the search must find it.

The core has no switch for any of them. Found means: a promise is seen to be broken on some path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from replicator.core.commit import Commits
from replicator.core.effects import Accept, Effect, WritePromise
from replicator.core.events import Accepted, PromiseWritten
from replicator.core.messages import Claim
from replicator.core.progress import Progress
from replicator.core.promise import Promiser
from replicator.core.recovery import Recovery
from replicator.model import (
    Head,
    Incarnation,
    MemberRecord,
    NodeId,
    Owner,
    Promise,
    Sequence,
    StreamName,
)
from tests.exploration.machine import Machine
from tests.simulation.disk import Disk
from tests.simulation.teeth.fencing import promise_twice
from tests.simulation.teeth.publishing import commit_without_own

Patch = pytest.MonkeyPatch


def promise_early(patch: Patch) -> None:
    """A promise is told before it is durable (against R2)."""
    honest = Machine._perform

    def perform(self: Machine, effect: Effect) -> None:
        honest(self, effect)
        if isinstance(effect, WritePromise):
            self._inbox.append(PromiseWritten(effect.promise, 0))

    patch.setattr(Machine, "_perform", perform)


def heads_before_promise(patch: Patch) -> None:
    """The heads that are told with a promise are those from before it was durable (against R2, T7)."""
    honest_claim, honest_written = Promiser.on_claim, Promiser.on_promise_written

    def on_claim(self: Promiser, node: NodeId, owner: Owner, claim: Claim) -> None:
        self._before = dict(self._state.heads)  # type: ignore[attr-defined]
        honest_claim(self, node, owner, claim)

    def on_promise_written(self: Promiser, promise: Promise) -> None:
        now, self._state.heads = self._state.heads, getattr(self, "_before", self._state.heads)
        honest_written(self, promise)
        self._state.heads = now

    patch.setattr(Promiser, "on_claim", on_claim)
    patch.setattr(Promiser, "on_promise_written", on_promise_written)


def fence_checked_early(patch: Patch) -> None:
    """The fence is not checked again when the write is done (against R4, T6)."""
    patch.setattr(Disk, "_fenced", lambda self, epoch: False)


def highest_sequence_wins(patch: Patch) -> None:
    """The claimant chooses the highest sequence, whatever epoch it was accepted in (against R7, T2)."""
    honest = Recovery._choose

    def choose(self: Recovery, stream: StreamName, *args: Any, **named: Any) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Head, "order", property(lambda head: (0, head.sequence)))
            honest(self, stream, *args, **named)

    patch.setattr(Recovery, "_choose", choose)


def drop_unreadable(patch: Patch) -> None:
    """What cannot be read now is dropped for an older checkpoint (against R8, T13)."""
    patch.setattr(Recovery, "_provably_uncommitted", lambda self, stream: True)


def serve_at_once(patch: Patch) -> None:
    """The engine is served before a majority has adopted what is restored (against R9, T1)."""
    patch.setattr(Commits, "all_adopted", property(lambda self: self._reign.holds_all))


def accept_early(patch: Patch) -> None:
    """A checkpoint is acknowledged when its acceptance is only queued (against R13)."""
    honest = Machine._perform

    def perform(self: Machine, effect: Effect) -> None:
        honest(self, effect)
        if isinstance(effect, Accept):
            self._inbox.append(Accepted(effect.manifest, effect.epoch, 0))

    patch.setattr(Machine, "_perform", perform)


def commit_alone(patch: Patch) -> None:
    """A checkpoint commits as soon as the primary has it (against R14)."""

    def commit_point(self: Progress, stream: StreamName, record: MemberRecord) -> Sequence:
        return Sequence(self.own(stream))

    patch.setattr(Progress, "commit_point", commit_point)


def forget_disks(patch: Patch) -> None:
    """An empty disk passes for the old one (against R20, T9)."""

    def wipe(self: Machine, incarnation: Incarnation) -> None:
        old = self.disk.image
        self.disk.image = type(old)(old.incarnation)
        self.disk.image.record, self.disk.image.founded = old.record, old.founded

    patch.setattr(Machine, "_do_wipe", wipe)


def forget_early(patch: Patch) -> None:
    """A tombstone is forgotten when a majority has it (against R23, T18)."""
    honest = Commits.forget_tombstones

    def forget_tombstones(self: Commits) -> None:
        progress, record = self._reign.progress, self._reign.membership.record
        done = {
            s for s, head in self._tombstones.items() if progress.commit_point(s, record) >= head.sequence
        }
        acked = Progress.acked
        self._ripe.update(dict.fromkeys(done))
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Progress, "acked", lambda p, r, s: 2**62 if s in done else acked(p, r, s))
            honest(self)

    patch.setattr(Commits, "forget_tombstones", forget_tombstones)


class Mutant(NamedTuple):
    """A broken rule, the world that shows it, and within how many states."""

    rule: str
    break_it: Callable[[Patch], None]
    world: str
    states_max: int = 150_000


MUTANTS = [
    Mutant("R1", promise_twice, "duel"),
    Mutant("R2", promise_early, "slow-words"),
    Mutant("R2", heads_before_promise, "slow-both"),
    Mutant("R4", fence_checked_early, "slow-disks"),
    Mutant("R7", highest_sequence_wins, "comeback"),
    Mutant("R8", drop_unreadable, "rot"),
    Mutant("R9", serve_at_once, "takeover"),
    Mutant("R13", accept_early, "slow-disks"),
    Mutant("R14", commit_alone, "takeover"),
    Mutant("R14", commit_without_own, "slow-disks"),
    Mutant("R20", forget_disks, "amnesia"),
    Mutant("R23", forget_early, "deletion"),
]
