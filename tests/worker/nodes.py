"""Data paths of a few nodes on loopback, each with a dumb store and a list of the events delivered."""

from __future__ import annotations

import itertools
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import zmq

from replicator.adapters.curve import Keys
from replicator.adapters.store import LmdbStore
from replicator.adapters.zeromq import Transport
from replicator.addresses import PORTS_PER_NODE, Address
from replicator.core import effects
from replicator.core.events import Event, Fetched, FetchFailed, ManifestReceived, Published, Seen
from replicator.model import (
    Digest,
    Epoch,
    Generation,
    Head,
    Incarnation,
    Manifest,
    NodeId,
    Payload,
    Sequence,
    StreamName,
)
from replicator.settings import Settings
from replicator.worker.datapath import DataPath
from tests.worker.memory_store import MemoryStore
from tests.worker.payloads import noise

DEADLINE_S = 10.0
POLL_MS = 5
LARGE_WINDOW = 10**6
ORDERS, WARM_UP = StreamName("orders"), StreamName("warm-up")

_E = TypeVar("_E", bound=Event)


def wait_until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Return as soon as *condition* is true; fail if it never is."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true"
        time.sleep(0.002)


def free_addresses(count: int) -> list[Address]:
    """Loopback addresses whose three ports are free, outside the range the kernel itself gives out."""
    found: list[Address] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(20_000, 32_000, PORTS_PER_NODE)
        if ("127.0.0.1", port) in found:
            continue
        try:
            for offset in range(PORTS_PER_NODE):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port + offset))
        except OSError:
            continue
        found.append(("127.0.0.1", port))
    return found


class Node:
    """One data path; `events` has what it delivered."""

    def __init__(
        self, settings: Settings, keys: Keys | None = None, store: MemoryStore | LmdbStore | None = None
    ) -> None:
        self.settings = settings
        self.name = settings.node
        incarnation = store.durable().incarnation if store else Incarnation(os.urandom(16))
        self.store = store if isinstance(store, MemoryStore) else MemoryStore(self.name, incarnation)
        self.events: list[Event] = []
        self._changed = threading.Condition()
        self._numbers = itertools.count(1)
        self.transport = Transport(settings, keys) if settings.peers else None
        self.path = DataPath(settings, incarnation, store or self.store, self.transport)
        self.path.start(self._deliver)
        self._closed = False
        self._control = threading.Thread(target=self._receive)  # a worker's control thread does it
        self._control.start()

    def _receive(self) -> None:
        poller = zmq.Poller()
        for subscribed in self.path.sockets:
            poller.register(subscribed, zmq.POLLIN)
        while not self._closed:
            if not self.path.has_room:
                time.sleep(POLL_MS / 1000)
            elif poller.poll(POLL_MS):
                list(self.path.receive())

    def _deliver(self, event: Event) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def all(self, kind: type[_E]) -> list[_E]:
        """All events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def wait_for(self, kind: type[_E], match: Callable[[_E], bool] = lambda event: True) -> _E:
        """The first event of that kind that matches, when it has come."""
        with self._changed:
            came = self._changed.wait_for(lambda: any(map(match, self.all(kind))), DEADLINE_S)
            assert came, f"no {kind.__name__} among {self.events!r:.2000}"
            return next(filter(match, self.all(kind)))

    def start(
        self, handle: int, stream: StreamName, epoch: Epoch, sequence: Sequence, payload: Payload | None
    ) -> None:
        """Begin to publish."""
        self.path.publish(effects.Publish(handle, stream, Generation(1), epoch, sequence), payload)

    def publish(
        self,
        payload: Payload | bytes | None,
        sequence: int = 1,
        *,
        epoch: int = 1,
        stream: StreamName = ORDERS,
        accept: bool = True,
    ) -> Published:
        """Publish, wait until it is published, and make it the head here."""
        if isinstance(payload, bytes):
            payload = Payload({"": payload})
        handle = len(self.events) * 1000 + sequence
        self.path.allow_publish(Epoch(epoch), LARGE_WINDOW)
        self.start(handle, stream, Epoch(epoch), Sequence(sequence), payload)
        published = self.wait_for(Published, lambda event: event.handle == handle)
        if accept:
            self.store.accept(published.manifest)
        return published

    def fetch(
        self,
        stream: StreamName,
        digest: Digest | bytes,
        *sources: NodeId,
        manifest: Manifest | None = None,
        verify: bool = False,
    ) -> int:
        """Begin a fetch and return its number."""
        number = next(self._numbers)
        self.path.fetch(effects.Fetch(number, stream, Digest(digest), manifest, sources, verify))
        return number

    def restore(self, manifest: Manifest, is_wanted: Callable[[], bool] = lambda: True) -> Payload:
        """What `DataPath.restore` gives for the head of that manifest."""
        return self.path.restore(
            Head(
                manifest.stream,
                manifest.generation,
                manifest.epoch,
                manifest.sequence,
                manifest.epoch,
                manifest.digest,
            ),
            is_wanted,
        )

    def received(self, digest: Digest | bytes) -> ManifestReceived:
        """The event of that manifest, when it has come."""
        return self.wait_for(ManifestReceived, lambda event: event.manifest.digest == digest)

    def leave(self) -> None:
        """End the control thread."""
        self._closed = True
        self._control.join()

    def close(self) -> None:
        """End everything."""
        self.store.gate.set()
        self.leave()
        self.path.close()
        if self.transport:
            self.transport.close()


def make_settings(count: int, **changes: object) -> list[Settings]:
    """The settings of *count* nodes n1, n2, … on loopback."""
    names = [NodeId(f"n{number}") for number in range(1, count + 1)]
    peers = dict(zip(names, free_addresses(count), strict=True))
    return [Settings(node=name, peers=peers, cluster="test", **changes) for name in names]  # type: ignore[arg-type]


def connect(publisher: Node, *others: Node) -> None:
    """Publish tombstones of a stream of their own until every other node has got a new one."""
    first = max((event.epoch for event in publisher.all(Published)), default=Epoch(1))
    start = len(publisher.events)
    deadline = time.monotonic() + DEADLINE_S

    def has_new(node: Node) -> bool:
        manifests = [event.manifest for event in node.all(ManifestReceived)]
        return any(found.stream == WARM_UP and found.sequence > start for found in manifests)

    while not all(map(has_new, others)):
        assert time.monotonic() < deadline, "the subscribers do not connect"
        publisher.publish(None, len(publisher.events) + 1, epoch=first, stream=WARM_UP)
        time.sleep(0.005)


def fetch(
    node: Node, manifest: Manifest, *sources: NodeId, known: bool = False, verify: bool = False
) -> Fetched | FetchFailed:
    """Fetch a checkpoint and return how it ended."""
    given = manifest if known else None
    number = node.fetch(StreamName(manifest.stream), manifest.digest, *sources, manifest=given, verify=verify)
    ended: list[Fetched | FetchFailed] = []

    def has_ended() -> bool:
        events = [event for event in node.events if isinstance(event, Fetched | FetchFailed)]
        ended.extend(event for event in events if event.number == number)
        return bool(ended)

    wait_until(has_ended, "the fetch's end")
    return ended[0]


def bring(
    node: Node, manifest: Manifest, *sources: NodeId, known: bool = False, verify: bool = False
) -> Fetched:
    """Fetch until it succeeds, as the core does: a connection may just be under way."""
    deadline = time.monotonic() + DEADLINE_S
    while not isinstance(end := fetch(node, manifest, *sources, known=known, verify=verify), Fetched):
        assert time.monotonic() < deadline, "the fetch never succeeds"
    return end


def publish_half(primary: Node, backup: Node, epoch: Epoch) -> None:
    """Begin a large checkpoint, of which two of four messages may leave, and have come to the backup."""
    primary.path.allow_publish(epoch, 2)
    primary.start(5, ORDERS, epoch, Sequence(1), Payload({"": noise(2**22)}))
    backup.wait_for(Seen, lambda event: event.epoch == epoch and event.publish_index == 2)


@contextmanager
def running(count: int, keys: list[Keys] | None = None, **changes: object) -> Iterator[list[Node]]:
    """*count* nodes, those behind the first subscribed to it."""
    nodes: list[Node] = []
    try:
        for number, settings in enumerate(make_settings(count, **changes)):
            nodes.append(Node(settings, keys[number] if keys else None))
        connect(nodes[0], *nodes[1:])
        yield nodes
    finally:
        for node in nodes:
            node.close()
