"""One won epoch at its primary: the parts that its heartbeats and its commits share."""

from __future__ import annotations

import math

from replicator.core.lease import Holder
from replicator.core.membership import Membership
from replicator.core.progress import Follower, Progress
from replicator.core.recovery import Recovery
from replicator.core.report import Report
from replicator.core.state import State
from replicator.core.window import Window
from replicator.model import Epoch, Head, MemberRecord, NodeId, StreamName


class Reign:
    """From the promises of a majority to whatever ends the epoch."""

    def __init__(
        self,
        state: State,
        window: Window,
        epoch: Epoch,
        record: MemberRecord,
        reports: dict[NodeId, Report],
    ) -> None:
        self.state = state
        self.window = window
        self.epoch = epoch
        self.begun_at = state.now
        self.serving = False
        self.has_adopted = False  # the own bulk adoption is durable
        self.wants_room = False  # the own store has refused for want of room what is needed to go on (R21)
        self.outrun_since = math.inf  # something waits for the own disk, and for no other
        state.record = record
        state.write_record(record, epoch, True)
        self.holder = Holder(state.config, state.id)
        self.progress = Progress(state, epoch, record)
        self.roomless: dict[StreamName, Head] = {}  # chosen heads for which no majority has room (R21)
        self.membership = Membership(state, self.progress, epoch)
        self.recovery = Recovery(state, epoch, record, reports)
        self.holder.count(record)

    @property
    def record(self) -> MemberRecord:
        record = self.state.record
        assert record is not None
        return record

    @property
    def withheld(self) -> dict[StreamName, Head]:
        """The chosen heads that a tenure starts without: unreadable, or without room on a majority (R8)."""
        chosen = self.recovery.chosen
        return {s: h for s, h in self.roomless.items() if s in chosen} | self.recovery.unavailable

    @property
    def holds_all(self) -> bool:
        """Whether every chosen head that is not withheld is accepted here in the epoch."""
        return self.recovery.lacking <= self.withheld.keys()

    @property
    def is_late(self) -> bool:
        """Whether all that can be heard of the others' disks has been heard by now."""
        return self.state.now - self.begun_at > self.state.config.claim_timeout_s

    @property
    def lacks_room(self) -> bool:
        """Whether the own disk has no room for what is needed to go on. So full that it can take no record at
        all it refuses no bulk adoption, but leaves it unanswered until there is room (R21)."""
        return self.wants_room or (self.state.full and self.is_late and not self.has_adopted)

    @property
    def is_outrun(self) -> bool:
        """Whether the own disk holds up for long what needs no other one, or is known to hang: what would
        show that it does may never have left, or have been lost on its way."""
        return self.state.hangs or self.state.now - self.outrun_since > self.state.config.lapse_max_s

    @property
    def up(self) -> list[Follower]:
        """Whoever has been heard within a lease, and in the epoch's first one those who have yet to speak."""
        recent = self.state.now - self.state.config.lease_s
        return [f for f in self.progress.followers.values() if max(f.heard_at, self.begun_at) >= recent]

    @property
    def holds_lease(self) -> bool:
        """Whether a majority lends it now and nothing else is promised, or about to be (R24)."""
        return self.state.now < self.holder.deadline and self.state.owns(self.epoch)

    def is_starved(self, since: float = -math.inf) -> bool:
        """Whether what is in flight finds no room on a majority's disks, of all or of those heard *since*
        then, under a lease that holds (R21)."""
        if not (self.serving and self.holds_lease) or self.window.empty:
            return False
        lies_here = not self.state.full or all(f.stored for f in self.window.flights.values())
        return not (lies_here and self.progress.has_room(self.record, since))

    def head(self, stream: StreamName) -> Head | None:
        """What every follower should hold: the chosen head if it is held here, once serving the own one.

        A chosen head that is not held here yet may still be dropped (R8); if anybody had adopted it in
        this epoch by then, a later claim would choose it above what was served instead.
        """
        if not self.serving:
            return self.recovery.chosen.get(stream) if self.recovery.holds(stream) else None
        head = self.state.heads.get(stream)
        return head if head is not None and head.accepted_epoch == self.epoch else None
