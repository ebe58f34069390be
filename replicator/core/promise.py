"""The promiser: every replica's answer to probes and claims (R1-R6, R24).

A promise is durable before it is told, and the heads told with it are read afterwards (R2, T7). A probe
that only a lease stands against is parked and answered when the lease ends or is given back (R11).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from msgspec import Struct

from replicator.core.lease import Lender
from replicator.core.messages import (
    HEADS_PER_PAGE,
    Claim,
    Probe,
    ProbeAnswer,
    Promised,
    Reason,
    Refusal,
)
from replicator.core.quorum import is_named
from replicator.core.report import digest_of, page_digest
from replicator.core.state import State
from replicator.model import Head, Incarnation, NodeId, Owner, Promise, Role


class Told(Struct, frozen=True):
    """The heads that go with a promise, in pages that are all of one instant, once it was durable."""

    epoch: int
    nonce: int
    pages: list[tuple[Head, ...]]


class Promiser:
    """Gives promises, each once and durably, and tells the heads that go with them.

    *lease_until(owner)* is the instant before which this replica may promise nothing to *owner*;
    *give_way(owner)* ends, or for itself suspends, what this replica does in an epoch of its own before
    it promises a higher one.
    """

    def __init__(
        self,
        state: State,
        lender: Lender,
        lease_until: Callable[[Owner], float],
        give_way: Callable[[Owner, str], None],
    ) -> None:
        self._state = state
        self._lender = lender
        self.lease_until = lease_until
        self._give_way = give_way
        self._claims: dict[NodeId, tuple[Owner, Claim]] = {}
        self._parked: dict[NodeId, tuple[Owner, Probe]] = {}  # wait for the lease to end
        self._told: Told | None = None  # what the claimant may ask for more pages of
        self._reported_epoch = 0
        self._reported: set[bytes] = set()

    # ── what may be promised ──

    def objection(self, epoch: int, owner: Owner, word: Probe | Claim | None = None) -> Reason | None:
        """Why *epoch* may not be promised to *owner* now; None if it may (R1, R3, R20, R24, T21).

        If the owner's *word* knows a newer member record than this replica, it cannot be said that it is no
        member.
        """
        state = self._state
        held = state.promising
        if held == Promise(epoch, owner):
            return None  # the very same again, whatever this replica's record says of the owner
        # A joining replica promises like the others; it is the claimant's record that does not count it.
        if state.role is not Role.JOINING and not (state.may_promise and self._counts(owner, word)):
            return Reason.NOT_MEMBER
        if held is not None and epoch <= held.epoch:
            return Reason.PROMISED
        if not state.reaches(epoch):
            return Reason.JUMP
        if state.now < self.lease_until(owner):
            return Reason.LEASE
        return None

    def _counts(self, owner: Owner, word: Probe | Claim | None) -> bool:
        state, replica = self._state, (NodeId(owner.node), Incarnation(owner.incarnation))
        told = (word.record_epoch, word.record_version) if word is not None else (0, 0)
        return state.record_order < told or is_named(replica, state.record)

    def promise(self, epoch: int, owner: Owner) -> None:
        """Queue a promise that nothing stands against; told when it is durable."""
        self._give_way(owner, f"promised epoch {epoch} to {owner.node}")
        self._state.write_promise(Promise(epoch, owner))

    # ── probes ──

    def on_probe(self, node: NodeId, owner: Owner, probe: Probe) -> None:
        """Say whether a claim would be promised; park it if only a lease stands against it (R5, R11)."""
        state = self._state
        reason = self.objection(state.epoch_seen + 1, owner, probe)
        self._parked.pop(node, None)
        if reason is Reason.LEASE:
            self._parked[node] = (owner, probe)
        self._answer(node, probe.nonce, reason)

    def _answer(self, node: NodeId, nonce: int, reason: Reason | None) -> None:
        state = self._state
        record = state.record if state.founded else None
        what = (record, state.record_epoch if record else 0, state.can_lead and not state.full)
        state.send(node, ProbeAnswer(nonce, reason is None, state.epoch_seen, reason, *what))

    def release_parked(self) -> None:
        """Answer the parked probes against which nothing stands any longer."""
        for node, (owner, probe) in list(self._parked.items()):
            reason = self.objection(self._state.epoch_seen + 1, owner, probe)
            if reason is not Reason.LEASE:
                del self._parked[node]
                self._answer(node, probe.nonce, reason)

    @property
    def deadline(self) -> float:
        """When the next parked probe is due."""
        if not self._parked:
            return math.inf
        return min(self.lease_until(owner) for owner, _ in self._parked.values())

    # ── claims ──

    def on_claim(self, node: NodeId, owner: Owner, claim: Claim) -> None:
        """Promise or refuse. The very same claim again is told the same again (R1)."""
        state = self._state
        promise = Promise(claim.epoch, owner)
        reason = self.objection(claim.epoch, owner, claim)
        if reason is not None:
            self.refuse(node, claim.epoch, reason)
            return
        if state.promise == promise == state.promising:
            self._tell(node, claim)
            return
        self._claims[node] = (owner, claim)
        self.promise(claim.epoch, owner)

    def refuse(self, node: NodeId, epoch: int, reason: Reason) -> None:
        """Refuse, and let the asker learn what is promised (R3)."""
        self._state.send(node, Refusal(epoch, self._state.promise, reason, self._state.full))

    def on_promise_written(self, promise: Promise) -> None:
        """The promise is durable: it may be told, with the heads as they are now (R2)."""
        for node, (owner, claim) in list(self._claims.items()):
            if promise == Promise(claim.epoch, owner):
                del self._claims[node]
                self._tell(node, claim)

    def _tell(self, node: NodeId, claim: Claim) -> None:
        """Tell the page that is asked for; the first, if there are not as many as the claimant believes."""
        state = self._state
        if state.record is None:
            return
        pages = self._pages_for(claim)
        index = claim.page if claim.page < len(pages) else 0
        what = (state.record, state.record_epoch, self._lender.echo(state.now))
        state.send(node, Promised(claim.epoch, claim.nonce, index, len(pages), pages[index], *what))

    def _pages_for(self, claim: Claim) -> list[tuple[Head, ...]]:
        """The heads in pages: those of the first time for as long as the claim is the same.

        What has changed since then was accepted in the epoch of the claim, or has rotted.
        """
        told = self._told
        if told is None or (told.epoch, told.nonce) != (claim.epoch, claim.nonce):
            heads = tuple(self._state.heads.values())
            pages = [heads[i : i + HEADS_PER_PAGE] for i in range(0, len(heads), HEADS_PER_PAGE)] or [()]
            told = self._told = Told(claim.epoch, claim.nonce, pages)
            self.remember_report(claim.epoch, digest_of(map(page_digest, pages)))
        return told.pages

    def on_heads_adopted(self) -> None:
        """The claimant has referred to what it was told, so it has every page of it: the heads may go."""
        self._told = None

    def remember_report(self, epoch: int, digest: bytes) -> None:
        """Note what was reported, so that a bulk adoption can refer to it (R10)."""
        if epoch != self._reported_epoch:
            self._reported_epoch = epoch
            self._reported.clear()
        self._reported.add(digest)

    def has_reported(self, epoch: int, digest: bytes) -> bool:
        """Whether this process has reported heads of that digest in that epoch."""
        return epoch == self._reported_epoch and digest in self._reported
