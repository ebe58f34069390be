"""A driver whose core says what the test tells it to, with fakes of all that it drives."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

from replicator.addresses import Address
from replicator.codec.frames import decode_envelope, encode_envelope
from replicator.core.effects import Effect
from replicator.core.events import Event
from replicator.core.messages import PROTOCOL_VERSION, Envelope, Message
from replicator.core.replica import Replica, ReplicaStatus
from replicator.errors import CheckpointUnreadable
from replicator.link.lease import LeaseWords
from replicator.link.messages import ToEngine, ToWorker
from replicator.model import Buffer, Epoch, Head, Incarnation, NodeId, Owner, Payload, Role, StreamName
from replicator.settings import Settings
from replicator.worker.driver import Driver, Parts
from replicator.worker.inbox import Inbox, Loaded
from replicator.worker.mesh import Mesh
from replicator.worker.standby import Standbys
from replicator.worker.status import Census
from replicator.worker.tenancy import Tenancy

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
ID = bytes(16)
MessageT = TypeVar("MessageT")


class Clock:
    """Goes on only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeCore:
    """Notes every event and its instant; answers with what *react* gives."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.instants: list[float] = []
        self.react: Callable[[Event], list[Effect]] = lambda event: []
        self.deadline = float("inf")
        self.role = Role.BACKUP
        self.can_lead = True
        self.is_behind = False
        self.counter = 7
        self.streams: dict[Any, Any] = {}
        self.lacking: dict[NodeId, int | None] = {}
        self.withheld: list[StreamName] = []

    def handle(self, event: Event, now: float) -> list[Effect]:
        self.events.append(event)
        self.instants.append(now)
        return self.react(event)

    def counters(self, to: NodeId) -> tuple[int, Incarnation, int]:
        return self.counter, Incarnation(ID), 5

    def status(self) -> ReplicaStatus:
        return {
            "role": "backup",
            "epoch": 3,
            "owner": B,
            "lease_s": 0.0,
            "active": False,
            "waiting_for": "",
            "changing": False,
            "full": False,
            "hangs": False,
            "heads": {stream: head for stream, (head, _) in self.streams.items()},
            "committed": {stream: known for stream, (_, known) in self.streams.items() if known is not None},
            "lacking": self.lacking,
            "withheld": self.withheld,
        }


class FakeControl:
    """Keeps what is sent; *arrive* puts frames there to be received."""

    sockets: Iterable[object] = ()

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.sent: list[tuple[NodeId, Envelope]] = []
        self.waiting: list[tuple[NodeId | None, bytes]] = []
        self.cost_s = 0.0  # what receiving one frame takes
        self.mended: list[float] = []
        self.closed: list[tuple[NodeId, Address]] = []  # ports that cannot be connected to

    def unconnected(self) -> list[tuple[NodeId, Address]]:
        return self.closed

    def send(self, to: NodeId, frame: bytes) -> bool:
        self.sent.append((to, decode_envelope(frame)))
        return True

    def receive(self) -> Iterator[tuple[NodeId | None, bytes]]:
        while self.waiting:
            self._clock.now += self.cost_s
            yield self.waiting.pop(0)

    def mend(self, now: float) -> None:
        self.mended.append(now)

    def close(self) -> None:
        pass


class FakeElector:
    """Notes what it is asked for."""

    tick_interval_s = 0.02
    stood_at = 999.0

    def __init__(self) -> None:
        self.leader: NodeId | None = None
        self.ticks = 0
        self.received: list[tuple[NodeId, bytes]] = []
        self.electable: list[bool] = []
        self.behind = False
        self.transfers: list[NodeId | None] = []

    def tick(self, now: float) -> None:
        self.ticks += 1

    def receive(self, node: NodeId, payload: bytes) -> None:
        self.received.append((node, payload))

    def transfer(self, to: NodeId | None) -> None:
        self.transfers.append(to)

    def set_electable(self, electable: bool) -> None:
        self.electable.append(electable)

    def set_behind(self, behind: bool) -> None:
        self.behind = behind

    def close(self) -> None:
        pass


class FakeStore:
    """Notes the effects it is to perform."""

    def __init__(self) -> None:
        self.performed: list[Effect] = []
        self.head_sizes: dict[str, int] = {}

    def perform(self, effect: Any) -> None:
        self.performed.append(effect)

    def head_bytes(self, stream: str) -> int:
        return self.head_sizes.get(stream, 0)

    def writing_s(self) -> float:
        return 0.0

    def usage(self) -> dict[str, int]:
        return {"streams": 1}

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the driver must not call {name}")


class FakeData:
    """Notes the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # readable: a publication has come
        self.sockets = (self.bell,)
        self.has_room = True
        self.mended: list[float] = []

    def receive(self) -> Iterator[None]:
        self.calls.append(("receive",))
        os.eventfd_read(self.bell)
        yield None

    def mend(self, now: float) -> None:
        self.mended.append(now)

    def publish(self, *arguments: Any) -> None:
        self.calls.append(("publish", *arguments))

    def allow_publish(self, *arguments: Any) -> None:
        self.calls.append(("allow", *arguments))

    def abandon_publications(self) -> None:
        self.calls.append(("abandon",))

    def fetch(self, *arguments: Any) -> None:
        self.calls.append(("fetch", *arguments))

    def cancel_fetch(self, *arguments: Any) -> None:
        self.calls.append(("cancel", *arguments))

    def usage(self) -> dict[str, int]:
        return {"published": 2}

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the driver must not call {name}")


class FakeLoader:
    """Loads when the test says so; heads in *rotten* cannot be read."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Epoch | None, Head]] = []
        self.rotten: set[str] = set()

    def load(self, epoch: Epoch | None, heads: Iterable[Head]) -> None:
        self.jobs.extend((epoch, head) for head in heads)

    def drop(self) -> None:
        self.jobs = [job for job in self.jobs if job[0] is None]

    def drop_standbys(self) -> None:
        self.jobs = [job for job in self.jobs if job[0] is not None]

    def results(self) -> Iterator[Loaded]:
        """The results of all that is queued."""
        while self.jobs:
            epoch, head = self.jobs.pop(0)
            if head.stream in self.rotten:
                yield Loaded(epoch, head, None, str(CheckpointUnreadable("rotten")))
            else:
                yield Loaded(epoch, head, Payload({"": head.stream.encode()}))


class FakeEnd:
    """The link: keeps what the engine is told, and *say* is what the engine says."""

    sources = ()

    def __init__(self) -> None:
        self.told: list[ToEngine] = []
        self.waiting: list[tuple[ToWorker, list[memoryview]]] = []

    def send(self, message: ToEngine, parts: Iterable[Buffer] = ()) -> None:
        self.told.append(message)

    def receive(self) -> Iterator[tuple[ToWorker, list[memoryview]]]:
        while self.waiting:
            yield self.waiting.pop(0)

    def all(self, kind: type[MessageT]) -> list[MessageT]:
        """All messages of a kind that the engine was told."""
        return [message for message in self.told if isinstance(message, kind)]

    def close(self, linger_s: float = 0) -> None:
        pass


class Bench:
    """A driver on the bench, node ``a`` of three."""

    def __init__(self, **settings: Any) -> None:
        ports = {A: ("127.0.0.1", 7400), B: ("127.0.0.1", 7410), C: ("127.0.0.1", 7420)}
        self.settings = Settings(**{"node": A, "peers": ports, "data_dir": Path("/nowhere"), **settings})
        self.clock = Clock()
        self.core = FakeCore()
        self.control = FakeControl(self.clock)
        self.elector = FakeElector()
        self.store = cast(Any, FakeStore())
        self.data = cast(Any, FakeData())
        self.end = FakeEnd()
        self.loader = cast(Any, FakeLoader())
        self.inbox = Inbox()
        self.words = LeaseWords.create()
        me, core = Owner(A, ID, ID), cast(Replica, self.core)
        self.mesh = Mesh(self.control, "replicator", me, frozenset((B, C)), core)
        deliver = self.inbox.deliver
        self.standbys = Standbys(self.end, self.loader, deliver, self.core.status)
        acks = self.settings.acks
        self.tenancy = Tenancy(self.end, self.words, self.loader, deliver, self.standbys, acks)
        self.census = Census(self.settings, core, self.elector, self.store, self.data, self.mesh)
        parts = Parts(
            self.settings, self.inbox, self.end, self.store, self.data, self.mesh, self.elector, core,
            self.tenancy, self.standbys, self.census,
        )  # fmt: skip
        self.driver = Driver(parts, self.clock)

    def turn(self) -> None:
        """One turn that does not sleep; frames and link messages that wait are received in it."""
        self.inbox.post(self.driver._receive_mesh)
        self.inbox.post(self.driver._receive_link)
        self.driver._turn()

    def load(self) -> None:
        """Have everything loaded that is queued."""
        for result in self.loader.results():
            self.inbox.deliver((result,))
        self.turn()

    def arrive(self, message: Message, node: NodeId = B, key: NodeId | None = B, **changes: Any) -> None:
        """Have a message arrive from a peer, in an envelope that is right but for *changes*."""
        fields = {"version": PROTOCOL_VERSION, "cluster": "replicator", "recipient": ID, **changes}
        first = (fields["version"], fields["cluster"], node)
        envelope = Envelope(*first, ID, ID, 1, 2, message, fields["recipient"])
        self.control.waiting.append((key, encode_envelope(envelope)))

    def emit(self, *effects: Effect) -> None:
        """Have the core want these effects."""
        self.core.react = lambda event: list(effects)
        self.driver._handle(_NOTHING)
        self.core.react = lambda event: []

    def close(self) -> None:
        os.close(self.data.bell)
        self.inbox.close()
        self.words.close()


_NOTHING: Any = object()


def head(stream: str = "orders", sequence: int = 1, tombstone: bool = False) -> Head:
    """A head of epoch 3."""
    return Head(stream, 1, 3, sequence, 4, bytes([sequence]) * 32, tombstone)
