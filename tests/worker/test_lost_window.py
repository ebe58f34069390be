"""A window lost in the midst of a checkpoint: the real publisher, window and backup go on (R16, R18)."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any, cast

import pytest

from replicator.adapters.zeromq import PublishSocket
from replicator.core.config import Config
from replicator.core.effects import AllowPublish, Send
from replicator.core.events import Durable, Event, Published, Received, Sent
from replicator.core.messages import Heartbeat, HeartbeatAnswer, Progress
from replicator.core.replica import Replica
from replicator.core.state import State
from replicator.core.window import Window
from replicator.model import (
    Epoch,
    Generation,
    Incarnation,
    Member,
    MemberRecord,
    NodeId,
    Owner,
    Payload,
    Process,
    Promise,
    Sequence,
)
from replicator.settings import Settings
from replicator.worker import publisher
from replicator.worker.publisher import Publisher, Task
from tests.worker.memory_store import MemoryStore
from tests.worker.nodes import DEADLINE_S, ORDERS
from tests.worker.payloads import noise

MIB = 2**20
WINDOW, MESSAGES = 4, 12
A, B = (Owner(name, name.encode() * 16, b"p" * 16) for name in "ab")
RECORD = MemberRecord(1, (Member("a", A.incarnation), Member("b", B.incarnation)))


class Deaf:
    """A socket whose subscriber is gone: whatever is sent is lost, and counted."""

    def __init__(self) -> None:
        self.lost = 0

    def send(self, frames: object) -> None:
        self.lost += 1

    def close(self) -> None:
        """Nothing to close."""


def remembered(me: Owner, peer: str) -> tuple[Config, Durable, Process]:
    """What a core of *me* starts from, of a cluster of two that has promised *a* the first epoch."""
    node, incarnation = NodeId(me.node), Incarnation(me.incarnation)
    config = Config(node=node, peers=frozenset({NodeId(peer)}), window_frames_max=WINDOW)
    durable = Durable(
        "c", node, incarnation, Promise(1, A), RECORD, Epoch(1), True, (), {}, counter=1, remembered={}
    )
    return config, durable, Process(me.process)


class Primary:
    """The publisher's thread and the window, as a control thread would drive them."""

    def __init__(self) -> None:
        self.socket, self.events = Deaf(), queue.SimpleQueue[Event]()
        peers = {NodeId(name): ("127.0.0.1", ord(name) * 10) for name in "ab"}
        settings = Settings(node=NodeId("a"), peers=peers, window_bytes_max=WINDOW * MIB)
        store = MemoryStore(NodeId("a"), Incarnation(A.incarnation))
        socket = cast(PublishSocket, self.socket)
        self.publisher = Publisher(settings, store.incarnation, store, socket)
        self.state = State(*remembered(A, "b"), 0.0, lambda: 0.5)
        self.window = Window(self.state)
        self.publisher.start(self.events.put)
        self.window.open(Epoch(1), frozenset())
        self.perform()

    def perform(self) -> None:
        """Do what the window wants."""
        for effect in self.state.effects:
            if isinstance(effect, AllowPublish):
                self.publisher.allow(effect.epoch, effect.publish_index)
        self.state.effects = []


@pytest.fixture
def primary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Primary]:
    """One that does not wait long."""
    monkeypatch.setattr(publisher, "STALLED_S", 0.01)
    made = Primary()
    yield made
    made.publisher.close()


def beat(primary: Primary, backup: Replica, question: int) -> None:
    """One heartbeat to the backup, and its answer."""
    told = Heartbeat(1, question, 0.3, None, primary.window.publish_index, ())
    who = NodeId("a"), Incarnation(A.incarnation), Process(A.process)
    for effect in backup.handle(Received(*who, 1, 0, told), 0.06 * question):
        message: Any = effect.message if isinstance(effect, Send) else None
        if isinstance(message, HeartbeatAnswer | Progress):
            seen = message.seen_index if isinstance(message, HeartbeatAnswer) else message.publish_index
            primary.window.progress((NodeId("b"), Incarnation(B.incarnation)), seen, RECORD)
    primary.perform()


def test_a_checkpoint_of_which_every_message_is_lost_is_published(primary: Primary) -> None:
    """The only backup gets none of three windows of messages. Each time it hears what has left, finds that it
    has missed it, and says so: the publication comes to its end, and what is lacking is fetched after it."""
    backup = Replica(*remembered(B, "a"), 0.0, lambda: 0.5)
    payload = Payload({"": noise(MESSAGES * MIB)})
    primary.publisher.publish(Task(1, ORDERS, Generation(1), Epoch(1), Sequence(1), payload))
    told, question = set[int](), 0
    while not isinstance(event := primary.events.get(timeout=DEADLINE_S), Published):
        assert isinstance(event, Sent)
        told.add(event.publish_index)
        primary.window.sent(event.epoch, event.publish_index)
        for _ in range(2):
            beat(primary, backup, question := question + 1)
    assert sorted(told) == list(range(WINDOW, primary.socket.lost, WINDOW))
    assert event.publish_index == primary.socket.lost >= MESSAGES
