"""R1-R6 broken: promises, the fence, probes and claims; and how reports are asked for and told (R10, R16)."""

from __future__ import annotations

import math
from typing import Any

import pytest

from replicator.core import effects
from replicator.core.claim import Claimant
from replicator.core.effects import Accept, AdoptHeads, WritePromise
from replicator.core.events import PromiseWritten
from replicator.core.messages import Claim, Reason, Refusal
from replicator.core.progress import Follower
from replicator.core.promise import Promiser
from replicator.core.quorum import quorum_sets
from replicator.core.report import Pages, _Answer
from replicator.core.state import State
from replicator.model import Epoch, Head, NodeId, Owner, Process, Promise
from tests.simulation.disk import Disk
from tests.simulation.world import World

Patch = pytest.MonkeyPatch


def promise_twice(patch: Patch) -> None:
    """An epoch is promised to several owners."""
    honest = Promiser.objection

    def objection(self: Promiser, epoch: int, owner: Owner, *word: Any) -> Reason | None:
        held = self._state.promising
        if held is not None and held.epoch == epoch and held.owner != owner:
            return None
        return honest(self, epoch, owner, *word)

    patch.setattr(Promiser, "objection", objection)


def go_on_after_restart(patch: Patch) -> None:
    """A process started again passes for the one before it (T15)."""
    patch.setattr(World, "new_process", lambda self, node: Process(node.encode().ljust(16, b"\0")))


class PromisesEarly(Disk):
    """Answers a promise before it is durable."""

    def perform(self, effect: Any) -> None:
        super().perform(effect)
        if isinstance(effect, WritePromise) and self._deliver is not None:
            self._hand_in(self._life, PromiseWritten(effect.promise, self.image.counter))


def tell_old_heads(patch: Patch) -> None:
    """The heads told with a promise are those of the moment it was asked for (T7)."""
    ask, tell = Promiser.promise, Promiser._tell

    def promise(self: Promiser, epoch: int, owner: Owner) -> None:
        self.heads_then = dict(self._state.heads)  # type: ignore[attr-defined]
        ask(self, epoch, owner)

    def _tell(self: Promiser, node: NodeId, claim: Claim) -> None:
        now = self._state.heads
        self._state.heads = getattr(self, "heads_then", now)
        tell(self, node, claim)
        self._state.heads = now

    patch.setattr(Promiser, "promise", promise)
    patch.setattr(Promiser, "_tell", _tell)


def promise_the_past(patch: Patch) -> None:
    """A lower epoch than the promised one is promised."""
    honest = Promiser.objection

    def objection(self: Promiser, epoch: int, owner: Owner, *word: Any) -> Reason | None:
        reason = honest(self, epoch, owner, *word)
        return None if reason is Reason.PROMISED else reason

    def write_promise(self: State, promise: Promise) -> None:
        self.saw_epoch(promise.epoch)
        self.promising = promise
        self.emit(effects.WritePromise(promise))

    patch.setattr(Promiser, "objection", objection)
    patch.setattr(State, "write_promise", write_promise)


def refuse_silently(patch: Patch) -> None:
    """A refusal does not tell what is promised, so a deposed primary learns nothing."""

    def refuse(self: Promiser, node: NodeId, epoch: int, reason: Reason) -> None:
        self._state.send(node, Refusal(epoch, None, reason))

    patch.setattr(Promiser, "refuse", refuse)


class ChecksFenceEarly(Disk):
    """Checks the fence when it is asked, not when it writes (T6)."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._fine: set[int] = set()

    def perform(self, effect: Any) -> None:
        if isinstance(effect, Accept | AdoptHeads) and not super()._fenced(effect.epoch):
            self._fine.add(effect.epoch)
        super().perform(effect)

    def _fenced(self, epoch: Epoch) -> bool:
        return epoch not in self._fine


def claim_unasked(patch: Patch) -> None:
    """A granted replica claims without having asked whether a majority would promise (T28)."""
    honest = Claimant._probe

    def _probe(self: Claimant) -> None:
        record = self._state.record
        if record is not None:
            self._would.update(replica for each in quorum_sets(record) for replica in each)
        honest(self)

    patch.setattr(Claimant, "_probe", _probe)


def see_no_epoch(patch: Patch) -> None:
    """The next epoch is one above the own promise, whatever exists elsewhere."""
    patch.setattr(State, "saw_epoch", lambda self, epoch: None)


def mix_claims(patch: Patch) -> None:
    """Pages that came for one claim count as the beginning of the answer to the next."""
    patch.setattr(Pages, "begin", lambda self: None)


def report_less(patch: Patch) -> None:
    """A promise leaves a head out."""
    honest = Promiser._tell

    def _tell(self: Promiser, node: NodeId, claim: Claim) -> None:
        heads = self._state.heads
        self._state.heads = dict(list(heads.items())[:-1])
        honest(self, node, claim)
        self._state.heads = heads

    patch.setattr(Promiser, "_tell", _tell)


def tell_anew(patch: Patch) -> None:
    """Each page of a promise is of the heads as they are when it is asked for."""
    honest = Promiser._pages_for

    def _pages_for(self: Promiser, claim: Claim) -> list[tuple[Head, ...]]:
        self._told = None
        return honest(self, claim)

    patch.setattr(Promiser, "_pages_for", _pages_for)


def ask_for_all_pages(patch: Patch) -> None:
    """Everything that a replica has to tell is under way at once, and elections queue behind it."""
    patch.setattr("replicator.core.report.PAGES_ASKED_MAX", 1_000_000)
    patch.setattr(_Answer, "came", lambda self, *_: setattr(self, "asked_max", 1_000_000))


def tell_again_and_again(patch: Patch) -> None:
    """What a follower lacks is told with every interval, whether the last telling may be there or not."""
    patch.setattr(Follower, "answered", property(lambda self: math.inf, lambda self, _: None), raising=False)


def ask_impatiently(patch: Patch) -> None:
    """What has not come is asked for again at a fixed interval, however slow the link is."""
    patch.setattr("replicator.core.patience.PATIENCE", 0)
    patch.setattr("replicator.core.patience.DOUBLINGS_MAX", 0)
