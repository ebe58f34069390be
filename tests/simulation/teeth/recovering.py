"""R7-R11 broken: what a claimant chooses, holds and adopts, how it keeps trying, and for how long (R25)."""

from __future__ import annotations

import math

import pytest

from replicator.core.backup import Backup
from replicator.core.claim import Claimant
from replicator.core.commit import Commits
from replicator.core.handover import Handover
from replicator.core.messages import Heartbeat
from replicator.core.phase import Phase
from replicator.core.primary import Primary
from replicator.core.progress import Progress
from replicator.core.promise import Promiser
from replicator.core.quorum import ReplicaId
from replicator.core.recovery import ANY_ORDER, Lack, Recovery
from replicator.core.reign import Reign
from replicator.core.report import Report
from replicator.core.state import State
from replicator.core.tenure import Tenure
from replicator.core.window import Window
from replicator.model import Digest, Epoch, Head, Manifest, NodeId, Owner, StreamName

Patch = pytest.MonkeyPatch


def highest_sequence_wins(patch: Patch) -> None:
    """The claimant chooses the highest sequence, whatever epoch it was accepted in (T2)."""
    patch.setattr(Head, "order", property(lambda self: (0, self.sequence)))


def heed_strangers(patch: Patch) -> None:
    """The claimant chooses from what stores hold that are no members' by the newest record, too (I10)."""
    patch.setattr("replicator.core.recovery.is_named", lambda replica, record: True)


def drop_unreadable(patch: Patch) -> None:
    """What cannot be read now is dropped for an older checkpoint (T13)."""
    patch.setattr(Recovery, "_provably_uncommitted", lambda self, stream: True)


def drop_accepted(patch: Patch) -> None:
    """A head that the own store has been asked to accept is dropped for an older one all the same."""
    honest = Recovery.on_fetched

    def on_fetched(self: Recovery, stream: StreamName, digest: Digest, manifest: Manifest | None) -> None:
        honest(self, stream, digest, manifest)
        if stream in self._lacking:
            self._lacking[stream].is_accepting = False

    patch.setattr(Recovery, "on_fetched", on_fetched)


def recall_the_abandoned(patch: Patch) -> None:
    """A late promise brings back what the operator has abandoned."""
    honest = Recovery.add_report

    def add_report(self: Recovery, report: Report) -> None:
        for lack in self._lacking.values():
            lack.below = ANY_ORDER
        honest(self, report)

    patch.setattr(Recovery, "add_report", add_report)


def abandon_the_adopted(patch: Patch) -> None:
    """What may be adopted already is abandoned in the same epoch, where nothing older can take its place."""
    patch.setattr(Lack, "is_bound", property(lambda self: False))


def withhold_the_dropped(patch: Patch) -> None:
    """A stream whose unreadable head is dropped while others are served is withheld all the same."""
    honest = Recovery._give_up

    def _give_up(self: Recovery, stream: StreamName) -> None:
        withheld = self.unavailable.get(stream)
        honest(self, stream)
        if withheld is not None:
            self.unavailable.setdefault(stream, withheld)

    patch.setattr(Recovery, "_give_up", _give_up)


def ask_the_whole_only(patch: Patch) -> None:
    """Who has told that its copy is rotten is not asked for what is left of it, nor once it is mended."""
    honest = Recovery._sources
    patch.setattr(Recovery, "_sources", lambda self, stream: [s for s in honest(self, stream) if not s[0]])


def drain_for_ever(patch: Patch) -> None:
    """What was in flight is waited for, over a bump too, though it has rotted and never will commit."""
    honest = Primary.claim_above

    def claim_above(self: Primary, reason: str) -> None:
        if self.phase is Phase.SERVING:
            honest(self, reason)

    patch.setattr(Primary, "claim_above", claim_above)


def wait_for_rot(patch: Patch) -> None:
    """What rots after its adoption is waited for in its own epoch, for ever."""
    patch.setattr(Recovery, "rotten", property(lambda self: []))


def heed_the_dropped(patch: Patch) -> None:
    """A dropped head still keeps lower sequences out."""
    patch.setattr(Recovery, "dropped", property(lambda self: frozenset()))


def drain_what_comes(patch: Patch) -> None:
    """What is submitted while a tenure drains prolongs it."""
    patch.setattr(Window, "drain", lambda self: None)


def commit_over_the_unread(patch: Patch) -> None:
    """What a tenure could not be given when it began may be committed over."""
    patch.setattr(Tenure, "without", lambda self, event: None)


def bring_in_vain(patch: Patch) -> None:
    """What was mended is brought at once, however often it was in vain."""
    patch.setattr(Tenure, "may_have", lambda self, stream, head: head is None or head.readable)


def bring_nothing(patch: Patch) -> None:
    """A chosen head that is lacking is not brought here."""
    patch.setattr(Recovery, "step", lambda self: setattr(self, "deadline", math.inf))


def serve_at_once(patch: Patch) -> None:
    """The engine is served before a majority has adopted what is restored (T1)."""
    patch.setattr(Commits, "all_adopted", property(lambda self: self._reign.holds_all))


def adopt_everything(patch: Patch) -> None:
    """The bulk adoption takes in the heads that are not the chosen ones."""
    honest = State.adopt_heads

    def adopt_heads(
        self: State, epoch: Epoch, exceptions: frozenset[StreamName], digest: bytes = b""
    ) -> None:
        honest(self, epoch, frozenset(), digest)

    patch.setattr(State, "adopt_heads", adopt_heads)


def forget_exceptions(patch: Patch) -> None:
    """What an incarnation was told to except is forgotten once another one has spoken for its node."""
    honest = Progress.follow

    def follow(self: Progress, replica: ReplicaId) -> None:
        self._told.pop(replica, None)
        honest(self, replica)

    patch.setattr(Progress, "follow", follow)


def try_once(patch: Patch) -> None:
    """A grant is an edge: what fails once is not tried again."""
    patch.setattr(Claimant, "_retry_at", lambda self: math.inf)


def keep_grants(patch: Patch) -> None:
    """One that cannot lead keeps the leadership that it was given (T17)."""
    patch.setattr(State, "can_lead", property(lambda self: self.may_promise))


def forget_parked(patch: Patch) -> None:
    """A parked probe is never answered."""
    patch.setattr(Promiser, "release_parked", lambda self: None)


def leave_stuck(patch: Patch) -> None:
    """Members stuck at a higher promise are never claimed above."""

    def stuck_for(reign: Reign, seconds: float) -> list[str]:
        return []

    patch.setattr("replicator.core.above.stuck_for", stuck_for)


def deafen_by_bumps(patch: Patch) -> None:
    """Once a higher epoch was thought of, no late promise is taken in the one that goes on."""
    honest = Claimant.bump

    def bump(self: Claimant) -> None:
        self._reigns = False
        honest(self)

    patch.setattr(Claimant, "bump", bump)


def wait_for_the_deaf(patch: Patch) -> None:
    """A granted node waits for every primary that it hears, also for one that hears nobody."""
    honest = Backup.on_heartbeat

    def on_heartbeat(self: Backup, node: NodeId, owner: Owner, message: Heartbeat) -> None:
        honest(self, node, owner, message)
        self._heard_at = self._state.now

    patch.setattr(Backup, "on_heartbeat", on_heartbeat)


def borrow_alone(patch: Patch) -> None:
    """A primary goes on borrowing from those that it hears, however few they are."""
    patch.setattr(Reign, "up", property(lambda self: list(self.progress.followers.values())))


def keep_the_grant(patch: Patch) -> None:
    """A primary that is lent nothing stays named until its lapse has lasted too long."""
    patch.setattr(Handover, "let_try", lambda self, reign, lapsed_since: None)


def lapse_anew(patch: Patch) -> None:
    """Each claim above begins another lapse, so that none is ever too long."""
    honest = Primary.suspend

    def suspend(self: Primary) -> None:
        self._lapsed_since = None
        honest(self)

    patch.setattr(Primary, "suspend", suspend)
