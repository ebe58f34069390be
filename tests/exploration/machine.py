"""One machine of a small world: a real core, the simulator's disk, an engine, and what it ever sent.

A machine takes one input and is then another machine; it sees nothing of the others. What it sends travels
as numbers into the world's `Registry`. What a machine can see to be broken by itself it raises:
the promises I1, I2, I5 and I7, and any exception of the core (I12).
"""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Any

from msgspec import structs

from replicator.core import effects, events, messages
from replicator.core.config import Config
from replicator.core.events import Event, Received
from replicator.core.replica import Replica
from replicator.model import (
    Digest,
    Epoch,
    Incarnation,
    Manifest,
    MemberRecord,
    NodeId,
    Process,
    Sequence,
    StreamName,
)
from tests.exploration import snapshot
from tests.exploration.registry import Happened, Input, Packet, Registry, Violation
from tests.simulation.disk import Disk, PutChunks

START_S = 100.0
LONG_S = 1.2  # longer than any lease: what passes at a machine that waits for nothing


class Engine:
    """What the engine of one machine knows: its tenure, and per stream where it stands."""

    def __init__(self) -> None:
        self.epoch = 0
        self.lines: dict[StreamName, tuple[int, bytes, bool]] = {}  # sequence, content, deleted
        self.handles: dict[int, bytes] = {}


class Machine:
    """The state of one machine. Only `apply` changes it, and the explorer only changes copies."""

    def __init__(
        self, registry: Registry, config: Config, disk: Disk, at_once: tuple[type, ...], in_packets: bool
    ) -> None:
        self.registry = registry
        self.in_packets = in_packets  # whether what one step sends to one peer arrives together
        self.config = config
        self.at_once = at_once  # effects that this disk does without a delay
        self.disk = disk
        self.core: Replica | None = None
        self.urgent: list[Any] = []
        self.payload: list[Any] = []
        self.fetches: dict[StreamName, effects.Fetch] = {}
        self.engine = Engine()
        self.starts = 0
        self.now = START_S
        self.sent: dict[NodeId, frozenset[int]] = {}
        self.heard: frozenset[int] = frozenset()  # packets that have arrived
        self.accepted: dict[tuple[str, int], int] = {}  # by stream and epoch: the newest sequence
        self.happened: list[Happened] = []
        self._inbox: deque[Event] = deque()
        self._outbox: dict[NodeId, list[Event]] = {}
        self._image: bytes | None = None  # of the core, once it was asked for

    # ── copies ──

    def copy(self) -> Machine:
        """An independent machine in the same state."""
        other = Machine.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.disk = Disk(self.disk.node, self.disk.image.incarnation, self.disk.random, self.disk.schedule)
        other.disk.image = self.disk.image.copy()
        other.disk._transfers = {stream: dict(each) for stream, each in self.disk._transfers.items()}
        other.core = snapshot.copy(self.core, {}) if self.core is not None else None
        other.engine = snapshot.copy(self.engine, {})
        other.urgent, other.payload = list(self.urgent), list(self.payload)
        other.fetches, other.sent = dict(self.fetches), dict(self.sent)
        other._image = None
        other.accepted, other.happened, other._inbox, other._outbox = dict(self.accepted), [], deque(), {}
        return other

    def key(self) -> bytes:
        """The same 16 bytes for equal states, others for others."""
        image = self.disk.image
        disk = (
            image.incarnation, image.promise, image.record, image.record_epoch, image.founded,
            sorted((stream, each) for stream, each in image.streams.items()),
            sorted(image.committed.items()), sorted(image.chunks), sorted(image.damaged),
            sorted((stream, sorted(each.items())) for stream, each in self.disk._transfers.items()),
        )  # fmt: skip
        engine = (self.engine.epoch, sorted(self.engine.lines.items()), sorted(self.engine.handles.items()))
        if self._image is None:
            self._image = snapshot.encode(snapshot.image(self.core, {}) if self.core is not None else None)
        own = (
            self._image,
            disk,
            [(type(each).__name__, each) for each in (*self.urgent, *self.payload)],
            sorted(self.fetches.items()),
            engine,
            self.starts,
            self.now,
            sorted((to, sorted(each)) for to, each in self.sent.items()),
            sorted(self.heard),
            sorted(self.accepted.items()),
        )
        return hashlib.blake2b(snapshot.encode(own), digest_size=16).digest()

    # ── inputs ──

    def apply(self, given: Input) -> None:
        """Let one thing happen; what the core then asks for is done, but for what the disk delays."""
        getattr(self, f"_do_{given.verb}")(given.subject)
        for to, packet in self._outbox.items():
            self._put_on_wire(to, tuple(packet))
        self._outbox.clear()

    def _do_start(self, _: object) -> None:
        self.starts += 1
        process = Process(f"{self.config.node}/{self.starts}".encode().ljust(16, b"\0"))
        self.core = Replica(self.config, self.disk.durable("explored"), process, self.now, lambda: 0.5)
        self._handle(events.EngineReady(True))

    def _do_crash(self, written: int) -> None:
        """The process dies; the first *written* of the queued writes have become durable, untold."""
        for operation in (self.urgent or self.payload)[:written]:
            self._write(operation)
        self.core = None
        self.urgent, self.payload, self.fetches = [], [], {}
        self.disk._transfers = {}
        self.engine = Engine()

    def _do_wipe(self, incarnation: bytes) -> None:
        """While the machine is down another disk is put in, an empty one."""
        self.disk.image = type(self.disk.image)(incarnation)  # type: ignore[arg-type]
        self.accepted = {}

    def _do_rot(self, stream: StreamName) -> None:
        """The chunk of the stream's head cannot be read any longer."""
        newest = self.disk.image.newest(stream)
        assert newest is not None
        self.disk.image.damaged.update(digest for digest in _chunks(newest.manifest))
        if self.core is not None:
            self._handle(events.HeadRotten(stream, Digest(newest.manifest.digest)))

    def _do_deliver(self, number: int) -> None:
        """A packet arrives. Whether it ever does, when, and after what else is the network's choice."""
        self.heard |= {number}
        self._take(number)

    def _do_again(self, number: int) -> None:
        """A packet that has arrived before arrives again."""
        self._take(number)

    def _take(self, number: int) -> None:
        for event in self.registry.packets[number]:
            if isinstance(event, events.ManifestReceived):
                self._put(event.manifest, event.epoch)
            self._handle(event)

    def _do_bare(self, number: int) -> None:
        """A publication whose chunk was lost."""
        self.heard |= {number}
        self._handle(self.registry.packets[number][0])

    def _do_sync(self, queue: str) -> None:
        self._finish_write(self.payload if queue == "payload" else self.urgent)
        self._handle(None)

    def _do_tick(self, _: object) -> None:
        """Time passes at this machine: to its core's deadline, or for long."""
        assert self.core is not None
        self.now = round(max(self.now, min(self.core.deadline, self.now + LONG_S)) + 1e-6, 6)
        self._handle(events.Tick())

    def _do_grant(self, _: object) -> None:
        self._handle(events.Granted())

    def _do_revoke(self, _: object) -> None:
        self._handle(events.Revoked())

    def _do_resign(self, _: object) -> None:
        self._handle(events.ResignAsked())

    def _do_submit(self, stream: StreamName) -> None:
        self._submit(stream, False)

    def _do_delete(self, stream: StreamName) -> None:
        self._submit(stream, True)

    def _do_fetched(self, subject: tuple[StreamName, Manifest]) -> None:
        stream, manifest = subject
        effect = self.fetches.pop(stream)
        self._put(manifest, Epoch(self.disk.image.promised_epoch))
        self._handle(events.Fetched(effect.number, stream, manifest))

    def _do_unfetched(self, stream: StreamName) -> None:
        effect = self.fetches.pop(stream)
        self._handle(events.FetchFailed(effect.number, stream))

    def _submit(self, stream: StreamName, deletes: bool) -> None:
        engine = self.engine
        sequence, parent, _ = engine.lines.get(stream, (0, None, False))
        handle = len(engine.handles) + 1  # of this process; never used again
        place = f"{stream}/{engine.epoch}/{sequence + 1}/{self.config.node}/{self.starts}"
        content = engine.handles[handle] = self.registry.create(parent, place, deletes)
        engine.lines[stream] = (sequence + 1, content, deletes)
        position = (Epoch(engine.epoch), stream, Sequence(sequence + 1), handle)
        self._handle(events.DeleteAsked(*position) if deletes else events.Submitted(*position, 1))

    # ── the core and what it asks for ──

    def _handle(self, event: Event | None) -> None:
        if event is not None:
            self._inbox.append(event)
        while True:
            while self._inbox:
                one = self._inbox.popleft()
                assert self.core is not None
                try:
                    wanted = self.core.handle(one, self.now)
                except Exception as exc:
                    raise Violation(f"I12: the core failed on {type(one).__name__}: {exc!r}") from exc
                for effect in wanted:
                    self._perform(effect)
            queue = self.urgent or self.payload
            if not queue or not isinstance(queue[0], self.at_once):
                return
            self._finish_write(queue)

    def _perform(self, effect: effects.Effect) -> None:
        match effect:
            case effects.Send(to, message):
                self._send(to, message)
            case effects.WritePromise() | effects.WriteRecord():
                self.urgent.append(effect)
            case (
                effects.Accept() | effects.AdoptHeads() | effects.MarkCommitted() | effects.ForgetTombstone()
            ):
                self.payload.append(effect)
            case effects.Publish():
                self._publish(effect)
            case effects.Fetch(_, stream):
                self.fetches[stream] = effect
            case effects.CancelFetch(stream):
                self.fetches.pop(stream, None)
            case effects.StartTenure():
                self._start_tenure(effect)
            case effects.EndTenure():
                self.engine.epoch = 0
            case effects.Commit(handle, stream, _, position):
                content = self.engine.handles[handle]
                self._tell("commit", self._epoch(), (stream, position.sequence, content, self._record()))

    def _tell(self, what: str, epoch: int, subject: Any) -> None:
        self.happened.append(Happened(what, epoch, subject))

    def _record(self) -> MemberRecord:
        assert self.core is not None
        record = self.core._state.record
        assert record is not None
        return record

    def _epoch(self) -> int:
        assert self.core is not None
        reign = self.core._primary.reign
        assert reign is not None
        return reign.epoch

    # ── messages and publications ──

    def _send(self, to: NodeId, message: messages.Message) -> None:
        self._check_sent(to, message)
        assert self.core is not None
        me = self.core._state.me
        received = Received(NodeId(me.node), Incarnation(me.incarnation), Process(me.process), 0, 0, message)
        if self.in_packets:
            self._outbox.setdefault(to, []).append(received)
        else:
            self._put_on_wire(to, (received,))

    def _put_on_wire(self, to: NodeId, packet: Packet) -> None:
        self.sent[to] = self.sent.get(to, frozenset()) | {self.registry.number(packet)}

    def _check_sent(self, to: NodeId, message: messages.Message) -> None:
        """I1 and I5, at the instant at which the words leave."""
        image = self.disk.image
        match message:
            case messages.Promised(epoch):
                promise = image.promise
                if promise is None or (promise.epoch, promise.owner.node) != (epoch, to):
                    raise Violation(f"I1: {self.config.node} tells a promise of epoch {epoch} it has not")
            case messages.HeartbeatAnswer(epoch) | messages.Adopted(epoch) | messages.MembersAccepted(epoch):
                if image.promised_epoch < epoch:
                    raise Violation(f"I1: {self.config.node} answers in epoch {epoch}, not durable here")
            case messages.Ack(epoch, acks):
                for acked in acks:
                    kept = [one.manifest for one in image.streams.get(StreamName(acked.stream), ())]
                    if not any(one.digest == acked.digest and image.has_all(one) for one in kept):
                        raise Violation(f"I5: {self.config.node} acknowledges {acked.sequence}, not durable")
                if image.promised_epoch < epoch:
                    raise Violation(f"I1: {self.config.node} acknowledges in epoch {epoch}")
            case messages.Heartbeat(epoch) | messages.Adopt(epoch):
                assert self.core is not None
                self._tell("word", epoch, bytes(self.core._state.me.process))

    def _publish(self, effect: effects.Publish) -> None:
        """Broadcast at once: what the publisher delays, the network delays as well."""
        assert self.core is not None
        manifest = self.registry.seal(effect, self.engine.handles[effect.handle])
        me = self.core._state.me
        self._tell("name", effect.epoch, (effect.stream, effect.sequence, manifest.digest))
        for peer in sorted(self.config.peers):
            self._put_on_wire(
                peer,
                (
                    events.ManifestReceived(
                        NodeId(me.node), self.disk.image.incarnation, Epoch(effect.epoch), manifest
                    ),
                ),
            )
        self._put(manifest, Epoch(effect.epoch))
        self._inbox.append(events.Published(effect.handle, manifest, Epoch(effect.epoch), 1))

    def _put(self, manifest: Manifest, epoch: Epoch) -> None:
        chunks = tuple((digest, b"") for digest in _chunks(manifest))
        if chunks:
            stream, sequence = StreamName(manifest.stream), Sequence(manifest.sequence)
            self.payload.append(PutChunks(stream, epoch, sequence, chunks))

    # ── the engine ──

    def _start_tenure(self, effect: effects.StartTenure) -> None:
        image, registry = self.disk.image, self.registry
        restored: dict[StreamName, bytes] = {}
        for head in effect.heads:
            newest = image.newest(StreamName(head.stream))
            if newest is None or newest.manifest.digest != head.digest or not image.readable(newest.manifest):
                raise Violation(f"I7: {self.config.node} restores {head.stream}, which it cannot read")
            restored[StreamName(head.stream)] = registry.contents[head.digest]
        self._tell("tenure", effect.epoch, (effect, restored, self._record()))
        self.engine.epoch = effect.epoch
        if not effect.unchanged:
            self.engine.lines = {
                StreamName(head.stream): (head.sequence, restored[StreamName(head.stream)], head.tombstone)
                for head in effect.heads
            }

    # ── the disk ──

    def _finish_write(self, queue: list[Any]) -> None:
        event = self._write(queue.pop(0))
        if event is not None:
            self._inbox.append(structs.replace(event, counter=0) if hasattr(event, "counter") else event)

    def _write(self, operation: Any) -> Event | None:
        """One write becomes durable; I1 and I2 are judged by what it changes."""
        image = self.disk.image
        promised = image.promised_epoch
        orders = {stream: _order(image, stream) for stream in image.streams}
        event = self.disk._apply(operation)
        if image.promised_epoch < promised:
            raise Violation(f"I1: the promise of {self.config.node} falls from {promised}")
        for stream in image.streams:
            before, after = orders.get(stream, (-1, -1)), _order(image, stream)
            if after < before:
                raise Violation(f"I2: {stream} falls from {before} to {after} at {self.config.node}")
            if after > before:
                if after[0] < promised:
                    raise Violation(f"I2: {self.config.node} accepts in {after[0]}, promised {promised}")
                self.accepted[stream, after[0]] = max(after[1], self.accepted.get((stream, after[0]), 0))
        return event


def _order(image: Any, stream: StreamName) -> tuple[int, int]:
    newest = image.newest(stream)
    return (newest.accepted_epoch, newest.manifest.sequence)


def _chunks(manifest: Manifest) -> list[Digest]:
    return [Digest(chunk.stored_digest) for part in manifest.parts for chunk in part.chunks]
