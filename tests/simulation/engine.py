"""A simulated engine: takes tenures, submits checkpoints that form a hash chain, deletes, resigns.

As the link does, it keeps one payload per stream with the worker; further ones are dropped here, which
is what latest-wins comes to. It reads the lease word as a real engine does, by its machine's clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from replicator.core.effects import (
    Abort,
    Commit,
    Effect,
    EndTenure,
    HeldByAll,
    Release,
    SetLease,
    Standby,
    StartTenure,
    StoredLocally,
    Supersede,
)
from replicator.core.events import DeleteAsked, EngineReady, ResignAsked, StartedWithout, Submitted
from replicator.model import Digest, Epoch, Head, NodeId, Sequence, StreamName
from tests.simulation.checkers import Violation
from tests.simulation.data import report_rot
from tests.simulation.history import Content
from tests.simulation.image import chunk_digests

if TYPE_CHECKING:
    from tests.simulation.node import Node

FILLERS = (b"", b"", b"x" * 96, b"x" * 96 + b"y" * 96, b"".join(bytes([letter]) * 96 for letter in b"uvwxyz"))
STEPS = (1, 1, 1, 2, 2, 9)  # from one sequence to the next
REREAD_S = 0.2
MEND_TIMEOUT_S = 2.0  # as the worker's
ROOM_CHANCE = 0.05  # of a deletion whenever the engine works on a stream while its disk is full
SUBMIT_WITHIN_S = 5.0


class Line(Struct):
    """What the engine knows of one stream."""

    sequence: int = 0
    newest: Content | None = None
    in_flight: int = 0
    deleted: bool = False


class Engine:
    """The engine of one machine."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.is_there = False
        self.epoch = Epoch(0)  # of the running tenure; 0: none
        self.lease_words: dict[Epoch, float] = {}
        self.lines: dict[StreamName, Line] = {}
        self.given_up: set[StreamName] = set()  # what the tenure began without for want of a readable head
        self.unread: set[StreamName] = set()  # what it has not got yet of what the tenure restores
        self.unreleased: set[int] = set()
        self.rests = False
        self._round = 0

    @property
    def is_active(self) -> bool:
        """What `tenure.active` says."""
        word = self.lease_words.get(self.epoch, 0.0)
        return bool(self.epoch) and self.node.clock.local(self.node.world.now) < word

    def worker_died(self, *, power: bool) -> None:
        """The worker is gone: its tenure with it. The engine may notice late: the lease word stays as it
        was, unless the power went, or the lease of a node that stands alone, which has no end."""
        self.epoch = Epoch(0)
        self._round += 1
        for handle in sorted(self.unreleased):
            self.node.world.history.outcomes.setdefault(handle, "unknown")
        self.unreleased.clear()
        if power or not self.node.config.peers:
            self.lease_words.clear()
        if power:
            self.is_there = False

    def set_there(self, there: bool) -> None:
        """The engine process ends, or is back."""
        if self.is_there != there:
            self.is_there = there
            self.node.deliver(EngineReady(ready=there))

    def resign(self, successor: NodeId | None = None, if_able: bool = False) -> None:
        """Ask the worker to end the tenure, if there is one; an operator says *if_able*."""
        if self.epoch:
            self.node.deliver(ResignAsked(successor, if_able))

    # ── what the worker says ──

    def perform(self, effect: Effect) -> None:
        """Take an effect that is meant for the engine."""
        world, name = self.node.world, self.node.name
        match effect:
            case StartTenure():
                self._start(effect)
            case EndTenure(epoch, _):
                self.lease_words.pop(epoch, None)
                if epoch == self.epoch:
                    self._end(self.unreleased)
            case SetLease(epoch, deadline):
                if deadline:
                    self.lease_words[epoch] = deadline
                else:
                    self.lease_words.pop(epoch, None)
            case Commit(handle):
                self._finish(handle, "committed")
            case Supersede(handle):
                self._finish(handle, "superseded")
            case Abort(handle):
                self._finish(handle, "aborted")
            case Release(handle):
                if handle not in self.unreleased:
                    raise Violation("I12", f"{name} releases payload {handle} twice or never had it")
                self.unreleased.discard(handle)
            case StoredLocally() | HeldByAll() | Standby():
                pass
            case _:
                raise AssertionError(f"{effect} is not for {name}'s engine at {world.now}")

    def _finish(self, handle: int, outcome: str) -> None:
        if not handle:
            return
        outcomes = self.node.world.history.outcomes
        if outcomes.get(handle, "unknown") != "unknown":
            raise Violation("R17a", f"payload {handle} was {outcomes[handle]} and is now {outcome}")
        outcomes[handle] = outcome
        for line in self.lines.values():
            if line.in_flight == handle:
                line.in_flight = 0

    def _end(self, handles: set[int]) -> None:
        self.epoch = Epoch(0)
        self._round += 1
        for handle in sorted(handles):
            self.node.world.history.outcomes.setdefault(handle, "unknown")

    def _start(self, effect: StartTenure) -> None:
        world = self.node.world
        restored = {StreamName(head.stream): world.history.content_of(head) for head in effect.heads}
        world.tenure_started(self.node, effect, restored)
        if effect.unchanged:
            self._check_unchanged(restored)
        else:
            self.lines = {}
            for head in effect.heads:
                content = restored[StreamName(head.stream)]
                line = Line(head.sequence, content, deleted=head.tombstone)
                self.lines[StreamName(head.stream)] = line
        self.epoch = effect.epoch
        self.given_up.clear()
        self._round += 1
        heads = {StreamName(head.stream): head for head in effect.heads}
        gone = {head.stream for head in effect.unavailable}
        self.unread = set(heads)
        for stream in world.streams:
            if stream in heads:
                self._read(self._round, heads[stream])
            elif stream not in gone:
                self._plan(stream)

    def _check_unchanged(self, restored: dict[StreamName, Content]) -> None:
        history = self.node.world.history
        for stream, content in restored.items():
            line = self.lines.get(stream)
            if line is None or line.newest is None or not history.keeps(line.newest, content):
                raise Violation("R11", f"{self.node.name}: unchanged, yet {stream} is not what it had")

    def _read(self, round_: int, head: Head, waited_s: float = 0.0) -> None:
        """Read a restored head as the link would, and go on from it. When it turns out rotten the replica
        is told, and mends it from the others; it is read again a little later (R22), and then given up."""
        node, stream = self.node, StreamName(head.stream)
        if round_ != self._round:
            return
        retained = node.disk.image.streams.get(stream, ())
        manifest = next((one.manifest for one in retained if one.manifest.digest == head.digest), None)
        payload = node.disk.image.payload(manifest) if manifest is not None else None
        node.world.check("restored", node, head, manifest, payload)
        if payload is None and manifest is not None and not head.tombstone:
            bad = [digest for digest in chunk_digests(manifest) if digest in node.disk.image.damaged]
            node.later(0.0, report_rot, node, Digest(bad[0]))
            if waited_s < MEND_TIMEOUT_S:
                node.later(REREAD_S, self._read, round_, head, waited_s + REREAD_S)
                return
            self.given_up.add(stream)
            node.deliver(StartedWithout(self.epoch, stream, Digest(head.digest)))
            self.lines[stream] = Line(head.sequence)  # what an engine begins anew, though it should not (R8)
        self.unread.discard(stream)
        self._plan(stream)

    # ── what the engine does ──

    def begin(self, stream: StreamName) -> None:
        """Work on one more stream in the tenure that there is."""
        if self.epoch:
            self._plan(stream)

    def _plan(self, stream: StreamName) -> None:
        world = self.node.world
        mean_s = world.submit_mean_s * world.paces[stream]
        delay = min(0.01 + world.random.expovariate(1.0) * mean_s, SUBMIT_WITHIN_S)
        world.schedule(delay, self._work, self._round, stream)

    def _work(self, round_: int, stream: StreamName) -> None:
        if round_ != self._round or not self.epoch:
            return
        self._plan(stream)
        line = self.lines.setdefault(stream, Line())
        makes_room = self.node.disk.full and not line.deleted  # a deletion waits for nothing then (R21)
        if self.rests or not self.is_there or not self.node.is_running or (line.in_flight and not makes_room):
            return
        random = self.node.world.random
        sequence = Sequence(line.sequence + random.choice(STEPS))
        chance = max(self.node.world.delete_chance, ROOM_CHANCE if makes_room else 0.0)
        deletes = not line.deleted and random.random() < chance
        if line.in_flight and not deletes:
            return
        self.submit(stream, sequence, random.choice(FILLERS), deletes=deletes)

    def submit(self, stream: StreamName, sequence: Sequence, filler: bytes, *, deletes: bool) -> None:
        """Submit a checkpoint that builds on the newest one, or delete the stream."""
        world, history, epoch = self.node.world, self.node.world.history, self.epoch
        line, handle = self.lines.setdefault(stream, Line()), world.next_handle()
        line.sequence = sequence
        line.newest = history.create(handle, stream, epoch, sequence, line.newest, filler, tombstone=deletes)
        line.in_flight, line.deleted = handle, deletes
        self.unreleased.add(handle)
        world.trace.add(world.now, self.node.name, "delete" if deletes else "submit", (stream, sequence))
        if deletes:
            self.node.deliver(DeleteAsked(epoch, stream, sequence, handle))
        else:
            size = len(history.payloads[line.newest])
            self.node.deliver(Submitted(epoch, stream, sequence, handle, size))
        world.submitted(self.node, handle)
