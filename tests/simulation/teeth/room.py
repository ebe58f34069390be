"""R11, R21 and R22 broken where disks are full: who leads, what waits for room, and what does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from replicator.core.backup import Backup
from replicator.core.claim import Claimant
from replicator.core.commit import Commits
from replicator.core.handover import Handover
from replicator.core.progress import Follower, Progress
from replicator.core.recovery import Recovery
from replicator.core.reign import Reign
from replicator.core.state import State
from replicator.core.window import Window
from replicator.model import Head, MemberRecord, StreamName
from tests.simulation.teeth.endings import go_on_despite

Patch = pytest.MonkeyPatch


def stay_though_full(patch: Patch) -> None:
    """A primary whose disk is full keeps the leadership that others could use."""
    go_on_despite(patch, "the disk is full")


def lead_with_room_alone(patch: Patch) -> None:
    """Nobody leads whose disk is full, so nobody does when all are."""
    honest = State.can_lead

    def can_lead(self: State) -> bool:
        return bool(honest.fget(self)) and not self.full  # type: ignore[attr-defined]

    patch.setattr(State, "can_lead", property(can_lead))


def claim_though_full(patch: Patch) -> None:
    """A full node claims, whoever else has room."""
    patch.setattr(Claimant, "_leaves_it", lambda self: False)


def hand_over_to_the_full(patch: Patch) -> None:
    """A primary with room follows the elector to a node that would have to give leadership back."""

    def _is_no_worse(self: Handover, follower: Follower) -> bool:
        return True

    patch.setattr(Handover, "_is_no_worse", _is_no_worse)


def bump_the_starved(patch: Patch) -> None:
    """An active tenure is suspended for a higher epoch until what is in flight finds room."""

    def has_room(self: Progress, record: MemberRecord, since: float) -> bool:
        return True

    patch.setattr(Progress, "has_room", has_room)


def wait_to_delete(patch: Patch) -> None:
    """A deletion waits behind what waits for the room that it would make."""
    patch.setattr(Window, "overtake", lambda self: None)


def await_the_adoption(patch: Patch) -> None:
    """A disk that leaves the bulk adoption unanswered, full or hanging, keeps its node waiting for it."""
    patch.setattr(Reign, "lacks_room", property(lambda self: self.wants_room))
    patch.setattr(Reign, "is_outrun", False)


def lead_though_hanging(patch: Patch) -> None:
    """A primary whose disk hangs keeps the leadership that others could use."""
    patch.setattr(Reign, "is_outrun", False)


def lead_though_told_to_hang(patch: Patch) -> None:
    """What the store says of a disk that hangs means nothing: only what others have acknowledged does."""
    patch.setattr(State, "disk_hangs", lambda self, hangs: None)


def claim_though_hanging(patch: Patch) -> None:
    """A node whose own promise is not written in time tries again for as long as the elector names it."""
    patch.setattr(Claimant, "_time_out", lambda self: self.stop("for the test", self.bumping))


def hold_up_the_others(patch: Patch) -> None:
    """No tenure starts while one stream finds no room on a majority's disks."""
    patch.setattr(Commits, "withhold_the_roomless", lambda self: None)


def withhold_the_slow(patch: Patch) -> None:
    """A stream is withheld that a backup is about to hold, because the disk where it lies is full."""

    def may_hold(self: Progress, chosen: Head, record: MemberRecord, at: float) -> bool:
        return not self._state.full and self.has_room(record, at)

    patch.setattr(Progress, "may_hold", may_hold)


def drain_without_room(patch: Patch) -> None:
    """What a higher epoch finds no room for keeps the tenure suspended."""
    go_on_despite(patch, "no majority has room for what was in flight")


def refuse_what_is_here(patch: Patch) -> None:
    """A full backup does not adopt a head that it holds."""
    _fetch_unless(patch, lambda state, theirs: state.full and not theirs.tombstone)


def fetch_nothing_though_some_would_fit(patch: Patch) -> None:
    """A disk that has refused a large checkpoint is not mended of any."""
    _fetch_unless(patch, State.lacks_room_for)


def _fetch_unless(patch: Patch, is_refused: Callable[[State, Head], bool]) -> None:
    honest = Backup._is_to_fetch

    def _is_to_fetch(self: Backup, stream: StreamName, theirs: Head, epoch: int) -> bool:
        return not is_refused(self._state, theirs) and honest(self, stream, theirs, epoch)

    patch.setattr(Backup, "_is_to_fetch", _is_to_fetch)


def fetch_without_room(patch: Patch) -> None:
    """What finds no room is fetched again and again."""
    honest_tick, honest_retry = Backup.tick, Recovery.retry

    def tick(self: Backup) -> None:
        self._no_room.clear()
        honest_tick(self)

    def retry(self: Recovery) -> None:
        for lack in self._lacking.values():
            lack.waits_for_room = False
        honest_retry(self)

    patch.setattr(Backup, "tick", tick)
    patch.setattr(Recovery, "retry", retry)
