"""The window: what the engine has submitted and the cluster has not yet committed (R12, R16, R17).

Per stream one checkpoint is in flight and runs to its commit (T20), or gives way to a deletion where no
majority has room for it (R21); at most one waits, and a newer one replaces it. How far publications may run
ahead is set by the fastest majority, never by the slowest.
"""

from __future__ import annotations

from msgspec import Struct

from replicator.core import effects
from replicator.core.messages import Acked
from replicator.core.quorum import ReplicaId, quorum_value
from replicator.core.state import State
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


class Flight(Struct):
    """One submitted checkpoint on its way. *stored* is set by the primary's own durable acceptance;
    *replaces* are the handles of older ones that gave way to it while they waited."""

    handle: int
    stream: StreamName
    sequence: Sequence
    tombstone: bool
    manifest: Manifest | None = None
    stored: bool = False
    replaces: tuple[int, ...] = ()
    early: dict[ReplicaId, Acked] = {}  # acknowledgments that came before the manifest was known

    def is_of(self, epoch: Epoch) -> bool:
        """Whether it was published in *epoch*, rather than before a bump and adopted since."""
        return self.manifest is not None and self.manifest.epoch == epoch


class Window:
    """In-flight and waiting checkpoints of one primary, over all its epochs of a tenure."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.epoch = Epoch(0)
        self.flights: dict[StreamName, Flight] = {}
        self._waiting: dict[StreamName, Flight] = {}
        # Comes while the rest is to end; the engine's credit bounds it.
        self._held: list[Flight] | None = None
        self._draining = False
        self._sequences: dict[StreamName, Sequence] = {}
        self.publish_index = 0
        self._seen: dict[ReplicaId, int] = {}
        self._allowed = 0
        self._dropped: frozenset[StreamName] = frozenset()
        # Payloads that are being read to be published; whether they are needed after that.
        self._going_out: dict[int, bool] = {}

    @property
    def empty(self) -> bool:
        """Whether all that was taken, and is not held back, has committed."""
        return not self.flights and not self._waiting

    # ── epochs ──

    def open(self, epoch: Epoch, dropped: frozenset[StreamName]) -> None:
        """A new epoch: publications count from 1 again, and what is still in flight goes out again (R11).

        Of *dropped* streams the head that lies here is no ancestor of what comes (R8).
        """
        self.epoch = epoch
        self._dropped = dropped
        self.publish_index = 0
        self._seen.clear()
        self._allowed = self._state.config.window_frames_max
        self._state.emit(effects.AllowPublish(epoch, self._allowed))
        self._let_go()
        for flight in self.flights.values():
            if not flight.stored:  # a stored one is a head, and commits by its adoption
                self.publish(flight)

    def close(self, reason: str) -> None:
        """The tenure is over: every outcome still open is unknown (R17a)."""
        state = self._state
        self._let_go()
        for flight in (*self.flights.values(), *self._waiting.values(), *(self._held or ())):
            self._release(flight)
            for handle in (*flight.replaces, flight.handle):
                state.emit(effects.Abort(handle, reason))
        self.flights.clear()
        self._waiting.clear()
        self._forget_tenure()

    # ── submissions ──

    def hold(self, on: bool) -> None:
        """Hold back what is submitted from now on, until all before has committed; or take it after all."""
        if on != (self._held is not None) and not self._draining:
            held, self._held = self._held or (), [] if on else None
            for flight in held:
                self.submit(flight)

    def drain(self) -> None:
        """Only what was taken before is to commit still, however much comes (R11)."""
        self.hold(True)
        self._draining = True

    def drained(self, reason: str) -> None:
        """The tenure ends in good order, and with it what was held back: the next one gives the same
        positions to contents of its own (I4), and begins deleted streams anew, in a higher epoch."""
        held = self._held or ()
        self._forget_tenure()
        for flight in held:
            self.refuse(flight, reason)

    def _forget_tenure(self) -> None:
        self._held, self._draining = None, False
        self._sequences.clear()

    def submit(self, flight: Flight) -> None:
        """Take a checkpoint: publish it, or let it wait, replacing an older one that waits (R17)."""
        state, stream = self._state, flight.stream
        if self._held is not None:
            self._held.append(flight)
            return
        head = state.heads.get(stream) if stream not in self._dropped else None
        newest = max(self._sequences.get(stream, 0), head.sequence if head is not None else 0)
        if flight.sequence <= newest:
            self.refuse(flight, f"sequence {flight.sequence} is not above {newest}")
            return
        self._sequences[stream] = flight.sequence
        if stream not in self.flights:
            self.flights[stream] = flight
            self.publish(flight)
            return
        replaced = self._waiting.get(stream)
        if replaced is not None:
            flight.replaces = (*replaced.replaces, replaced.handle)
            self._release(replaced)
        self._waiting[stream] = flight

    def overtake(self) -> None:
        """What is in flight finds no room: a deletion of its stream need not wait behind it, and makes some
        (R21). Nothing overtakes a deletion, so that something commits however much comes (T20)."""
        for stream, waiting in list(self._waiting.items()):
            flight = self.flights[stream]
            if waiting.tombstone and not flight.tombstone and flight.manifest is not None:
                self._release(flight)
                waiting.replaces = (*flight.replaces, flight.handle, *waiting.replaces)
                self.flights[stream] = self._waiting.pop(stream)
                self.publish(waiting)

    def pass_by(self, stream: StreamName, sequence: Sequence) -> None:
        """That sequence and all below it are used up in this tenure."""
        self._sequences[stream] = max(self._sequences.get(stream, sequence), sequence)

    def refuse(self, flight: Flight, reason: str) -> None:
        """Take nothing: this checkpoint has no outcome in this tenure."""
        self._state.emit(effects.Abort(flight.handle, reason))
        self._release(flight)

    def _release(self, flight: Flight) -> None:
        """The payload is not needed any longer; an operator's tombstone (handle 0) has none. One that is
        going out, for the second time then, is kept as it is until it has: else others would get something
        else under the same position (I4)."""
        if flight.handle in self._going_out:
            self._going_out[flight.handle] = False
        elif flight.handle:
            self._state.emit(effects.Release(flight.handle))

    def _let_go(self) -> None:
        """Nothing goes out any longer of what was published in an older epoch, or before the end."""
        going_out, self._going_out = self._going_out, {}
        for handle in (each for each, is_needed in going_out.items() if not is_needed):
            self._state.emit(effects.Release(handle))

    def publish(self, flight: Flight) -> None:
        """Broadcast a flight, or broadcast it again: in the same epoch the same checkpoint, which others may
        hold and acknowledge, and the own store may tell of, meanwhile."""
        state = self._state
        if flight.handle in self._going_out:
            return
        if flight.handle:
            self._going_out[flight.handle] = True
        if not flight.is_of(self.epoch):
            flight.manifest = None
        head = state.heads.get(flight.stream)
        generation = head.generation + (1 if head.tombstone else 0) if head is not None else 1
        state.emit(
            effects.Publish(
                flight.handle,
                flight.stream,
                Generation(generation),
                self.epoch,
                flight.sequence,
                flight.tombstone,
            )
        )

    def flight(self, stream: StreamName, digest: Digest) -> Flight | None:
        """The stream's flight, if that is what was published of it."""
        flight = self.flights.get(stream)
        published = flight.manifest if flight is not None else None
        return flight if published is not None and published.digest == digest else None

    def published(self, handle: int, manifest: Manifest, publish_index: int) -> Flight | None:
        """The broadcast is out: the primary accepts it itself, fenced like everybody (R12, T8)."""
        self.sent(self.epoch, publish_index)
        if self._going_out.pop(handle, True) is False:
            self._state.emit(effects.Release(handle))
        flight = self.flights.get(StreamName(manifest.stream))
        if flight is None or flight.handle != handle or flight.sequence != manifest.sequence:
            return None
        flight.manifest = manifest
        self._state.accept(manifest, self.epoch)
        return flight

    def stored(self, manifest: Manifest) -> Flight | None:
        """The primary's own acceptance is durable."""
        flight = self.flight(StreamName(manifest.stream), Digest(manifest.digest))
        if flight is not None:
            flight.stored = True
            self._state.emit(effects.StoredLocally(flight.handle))
        return flight

    def accept_again(self) -> None:
        """What could not be accepted, or has rotted and could not be mended, for want of room is asked of the
        own store again, which says what it lacks."""
        for flight in self.flights.values():
            head = self._state.heads.get(flight.stream)
            is_rotten = head is not None and not head.readable and flight.is_of(self.epoch)
            if flight.manifest is not None and (is_rotten or not flight.stored):
                self._state.accept(flight.manifest, self.epoch)

    def committed(
        self, flight: Flight, generation: Generation, position: Position, holders: tuple[NodeId, ...]
    ) -> None:
        """Report the commit, supersede what gave way to it, and let the next one fly (R14, R17)."""
        state, stream = self._state, flight.stream
        del self.flights[stream]
        state.emit(effects.Commit(flight.handle, stream, generation, position, holders))
        for handle in flight.replaces:
            state.emit(effects.Supersede(handle, stream, position))
        self._release(flight)
        waiting = self._waiting.pop(stream, None)
        if waiting is not None:
            self.flights[stream] = waiting
            self.publish(waiting)

    # ── pace (R16) ──

    def sent(self, epoch: Epoch, publish_index: int) -> None:
        """So much has left: heartbeats tell it, and a backup that did not get it all says so (R18)."""
        if epoch == self.epoch:
            self.publish_index = max(self.publish_index, publish_index)

    def progress(self, replica: ReplicaId, publish_index: int, record: MemberRecord) -> None:
        """A backup has taken publications: the window moves with the fastest majority."""
        self._seen[replica] = max(self._seen.get(replica, 0), publish_index)
        me, seen = self._state.id, self._seen
        taken = quorum_value(lambda r: 2**62 if r == me else seen.get(r, 0), record)
        allowed = int(min(taken, 2**61)) + self._state.config.window_frames_max
        if allowed > self._allowed:
            self._allowed = allowed
            self._state.emit(effects.AllowPublish(self.epoch, allowed))
