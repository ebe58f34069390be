"""R12-R19 broken: from a submission to its commit, and repair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from replicator.core import effects
from replicator.core.arrivals import Arrivals
from replicator.core.backup import Backup
from replicator.core.commit import Commits
from replicator.core.effects import Accept
from replicator.core.events import Accepted, Event, ManifestReceived
from replicator.core.heartbeat import Heartbeats
from replicator.core.messages import Ack, CommitPoint
from replicator.core.points import Points
from replicator.core.progress import Follower, Progress
from replicator.core.quorum import ReplicaId, quorum_sets
from replicator.core.reign import Reign
from replicator.core.state import State
from replicator.core.window import Flight, Window
from replicator.engine.backlog import Backlog
from replicator.model import (
    Digest,
    Epoch,
    Generation,
    Manifest,
    MemberRecord,
    NodeId,
    Position,
    Sequence,
    StreamName,
)
from tests.simulation.disk import Disk, Operation

Patch = pytest.MonkeyPatch


def not_itself(patch: Patch) -> None:
    """The primary broadcasts a checkpoint and does not store it itself."""

    def published(self: Window, handle: int, manifest: Manifest, publish_index: int) -> Flight | None:
        accept = State.accept
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(State, "accept", lambda state, manifest, epoch: None)
            flight = honest(self, handle, manifest, publish_index)
        assert State.accept is accept
        return flight

    honest = Window.published
    patch.setattr(Window, "published", published)


class AcceptsEarly(Disk):
    """Says that a checkpoint is accepted when it is only queued."""

    def perform(self, effect: Any) -> None:
        super().perform(effect)
        if isinstance(effect, Accept) and not self._fenced(effect.epoch) and self._deliver is not None:
            self._hand_in(self._life, Accepted(effect.manifest, effect.epoch, self.image.counter))

    def _apply(self, operation: Operation) -> Event | None:
        event = super()._apply(operation)
        return None if isinstance(operation, Accept) else event


def commit_alone(patch: Patch) -> None:
    """A checkpoint commits as soon as the primary has it."""

    def commit_point(self: Progress, stream: StreamName, record: MemberRecord) -> Sequence:
        return Sequence(self.own(stream))

    patch.setattr(Progress, "commit_point", commit_point)


def commit_without_own(patch: Patch) -> None:
    """The primary counts itself before its own acceptance is durable (T8)."""

    def own(self: Progress, stream: StreamName) -> int:
        return 2**62

    patch.setattr(Progress, "own", own)
    honest, honest_bulk = Commits.check, Commits.count_bulk

    def count_bulk(self: Commits) -> None:
        self._reign.has_adopted = True
        honest_bulk(self)

    def check(self: Commits, stream: StreamName) -> None:
        flight = self._reign.window.flights.get(stream)
        if flight is not None and flight.manifest is not None and stream in self._state.heads:
            flight.stored = True
        honest(self, stream)

    patch.setattr(Commits, "count_bulk", count_bulk)
    patch.setattr(Commits, "check", check)


def count_old_acks(patch: Patch) -> None:
    """Acknowledgments of other epochs count."""
    honest = Commits.on_ack

    def on_ack(self: Commits, replica: ReplicaId, message: Ack) -> None:
        honest(self, replica, Ack(self._reign.epoch, message.acks))

    patch.setattr(Commits, "on_ack", on_ack)


def count_the_silent_out(patch: Patch) -> None:
    """With acks=all a member that has yet to speak in the epoch is not waited for."""

    def up(self: Reign) -> list[Follower]:
        recent = self.state.now - self.state.config.lease_s
        return [each for each in self.progress.followers.values() if each.heard_at >= recent]

    patch.setattr(Reign, "up", property(up))


def forget_in_silence(patch: Patch) -> None:
    """A follower that forgets a deletion and has not heard that it has committed tells nobody of it."""
    honest = State.forget

    def forget(self: State, stream: StreamName, generation: Generation, sequence: Sequence) -> None:
        told = len(self.effects)
        honest(self, stream, generation, sequence)
        self.effects[told:] = [each for each in self.effects[told:] if not isinstance(each, effects.Standby)]

    patch.setattr(State, "forget", forget)


def trust_hints(patch: Patch) -> None:
    """A commit point is taken for what is held here, whatever its position (T3)."""
    honest = Points.take

    def take(self: Points, point: CommitPoint) -> None:
        head = self._state.heads.get(StreamName(point.stream))
        honest(self, CommitPoint(point.stream, head.generation, head.position) if head else point)

    patch.setattr(Points, "take", take)


def wait_for_the_slowest(patch: Patch) -> None:
    """The window counts what the slowest member has not taken."""

    def quorum_value(value: Callable[[ReplicaId], float], record: MemberRecord) -> float:
        return min(value(replica) for each in quorum_sets(record) for replica in each)

    patch.setattr("replicator.core.window.quorum_value", quorum_value)


def keep_what_left_secret(patch: Patch) -> None:
    """How much has left is told at the end of a checkpoint only, which may never come."""
    patch.setattr(Window, "sent", lambda self, epoch, publish_index: None)
    honest = Window.published

    def published(self: Window, handle: int, manifest: Manifest, publish_index: int) -> Flight | None:
        self.publish_index = max(self.publish_index, publish_index)
        return honest(self, handle, manifest, publish_index)

    patch.setattr(Window, "published", published)


def replace_in_flight(patch: Patch) -> None:
    """A newer checkpoint takes the place of the one in flight, which never runs to its commit (T20)."""
    honest = Window.submit

    def submit(self: Window, flight: Flight) -> None:
        self.flights.pop(flight.stream, None)
        honest(self, flight)

    patch.setattr(Window, "submit", submit)


def give_back_at_once(patch: Patch) -> None:
    """A payload is given back while it goes out for the second time."""

    def release(self: Window, flight: Flight) -> None:
        if flight.handle:
            self._state.emit(effects.Release(flight.handle))

    patch.setattr(Window, "_release", release)


def publish_the_adopted(patch: Patch) -> None:
    """What was adopted in an epoch and rots goes out in it again, as another one of the same order."""
    patch.setattr(Flight, "is_of", lambda self, epoch: True)


def take_without_bound(patch: Patch) -> None:
    """An engine may submit more than its backlog holds."""
    no_bound = property(lambda self: 2**62, lambda self, value: None)
    patch.setattr(Backlog, "bytes_max", no_bound, raising=False)


def call_it_superseded(patch: Patch) -> None:
    """What is in flight at the end of a tenure is given an outcome."""
    honest = Window.close

    def close(self: Window, reason: str) -> None:
        for flight in self.flights.values():
            if flight.handle and flight.manifest is not None:
                place = Position(self.epoch, flight.sequence)
                self._state.emit(effects.Supersede(flight.handle, flight.stream, place))
        honest(self, reason)

    patch.setattr(Window, "close", close)


def leave_holes(patch: Patch) -> None:
    """A follower is not told what it lacks."""

    def _tell_lacking(self: Heartbeats, follower: Follower) -> None:
        return None

    patch.setattr(Heartbeats, "_tell_lacking", _tell_lacking)


def fetch_without_bound(patch: Patch) -> None:
    """Everything that is lacking is fetched at once."""

    def fetch(
        self: State,
        stream: StreamName,
        digest: Digest,
        manifest: Manifest | None,
        sources: tuple[NodeId, ...],
        **how: bool,
    ) -> bool:
        self._fetches_begun += 1
        self.fetching[stream] = effects.Fetch(self._fetches_begun, stream, digest, manifest, sources, **how)
        self.emit(self.fetching[stream])
        return True

    patch.setattr(State, "fetch", fetch)


def take_late_ends(patch: Patch) -> None:
    """The end of a cancelled fetch is taken for that of the one in its place."""

    def end_fetch(self: State, stream: StreamName, _: int) -> Digest | None:
        fetch = self.fetching.pop(stream, None)
        return fetch.digest if fetch is not None else None

    patch.setattr(State, "end_fetch", end_fetch)


def fetch_what_is_coming(patch: Patch) -> None:
    """What is on its way is fetched besides."""
    patch.setattr(Arrivals, "is_coming", lambda *_: False)


def accept_stale(patch: Patch) -> None:
    """What is not newer than the head is accepted over it, by the core and by the disk."""
    on_manifest, accept = Backup.on_manifest, Disk._accept

    def core(self: Backup, event: ManifestReceived) -> None:
        head = self._state.heads.pop(StreamName(event.manifest.stream), None)
        on_manifest(self, event)
        if head is not None:
            self._state.heads[StreamName(head.stream)] = head

    def disk(self: Disk, effect: Accept) -> Event:
        stream, epoch = StreamName(effect.manifest.stream), effect.epoch
        newest = self.image.newest(stream)
        if newest is not None and epoch == self.image.promised_epoch:
            self.image.streams[stream] = (newest._replace(accepted_epoch=Epoch(epoch - 1)),)
        return accept(self, effect)

    patch.setattr(Backup, "on_manifest", core)
    patch.setattr(Disk, "_accept", disk)
