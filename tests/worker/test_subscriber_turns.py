"""The subscriber with sockets and a thread that are the test's: its queue, and what it tells (R16)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

from replicator.adapters.zeromq import SubscribeSockets
from replicator.codec.frames import Publication, encode_publication
from replicator.core.events import Event, Seen, Tick
from replicator.model import Epoch, Incarnation, NodeId
from replicator.settings import Settings
from replicator.worker.subscriber import (
    IN_CALL_BYTES_MAX,
    QUEUE_MESSAGES_MAX,
    SEEN_FRAMES_MAX,
    Subscriber,
)
from tests.worker.memory_store import MemoryStore

B, C = NodeId("b"), NodeId("c")


class Sockets:
    """What has come, as many messages as a test says."""

    def __init__(self) -> None:
        self.messages: list[tuple[NodeId, list[memoryview]]] = []

    def receive(self) -> Iterator[tuple[NodeId, list[memoryview]]]:
        """What is left of it stays."""
        while self.messages:
            yield self.messages.pop(0)

    def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
def sockets() -> Sockets:
    return Sockets()


@pytest.fixture
def subscriber(sockets: Sockets, told: list[Event]) -> Iterator[Subscriber]:
    store = MemoryStore(NodeId("a"), Incarnation(bytes(16)))
    subscriber = Subscriber(Settings(), store, cast(SubscribeSockets, cast(Any, sockets)))
    subscriber._deliver = told.append
    yield subscriber
    subscriber.close()


def message(node: NodeId, index: int, epoch: int = 1, cluster: str = "replicator") -> list[memoryview]:
    """A publication without chunks and without a manifest."""
    header = Publication(1, cluster, node, bytes(16), epoch, index, "s", 0, 1, (), None)
    return [memoryview(frame) for frame in encode_publication(header, ())]


def step(subscriber: Subscriber) -> None:
    """What the thread does with one message."""
    seen = subscriber._take(subscriber._queue[0])
    if seen is not None:
        subscriber._note(seen)
    subscriber._finish()


def test_no_more_is_received_than_there_is_room_for(
    subscriber: Subscriber, sockets: Sockets, told: list[Event]
) -> None:
    """The rest stays with the sockets, and is received when the queue has nearly run out; that is told once.
    All that was received counts as heard."""
    large = [memoryview(bytes(IN_CALL_BYTES_MAX + 1))]
    sockets.messages = [(B, large)] * (QUEUE_MESSAGES_MAX + 3)
    list(subscriber.receive())
    assert (len(subscriber._queue), subscriber.heard) == (QUEUE_MESSAGES_MAX, QUEUE_MESSAGES_MAX)
    assert not subscriber.has_room
    found = []
    for _ in range(QUEUE_MESSAGES_MAX):
        step(subscriber)
        found.append((subscriber.has_room, told.count(Tick())))
    assert found == [(False, 0)] * (QUEUE_MESSAGES_MAX - 2) + [(True, 1)] * 2
    list(subscriber.receive())
    assert subscriber.heard == QUEUE_MESSAGES_MAX + 3


def test_several_messages_of_one_publisher_are_told_at_once(
    subscriber: Subscriber, told: list[Event]
) -> None:
    """And of each publisher, in each epoch: two may publish in the same one, of whom one is a zombie."""
    came = [(B, index, 1) for index in range(1, 2 * SEEN_FRAMES_MAX + 2)] + [(C, 7, 1), (C, 8, 2)]
    for node, index, epoch in came:
        subscriber._queue.append((node, message(node, index, epoch)))
        step(subscriber)
    subscriber._say()
    indices = (SEEN_FRAMES_MAX, 2 * SEEN_FRAMES_MAX, 2 * SEEN_FRAMES_MAX + 1)
    assert told == [
        *(Seen(B, Epoch(1), index) for index in indices),
        Seen(C, Epoch(1), 7),
        Seen(C, Epoch(2), 8),
    ]
