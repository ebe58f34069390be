"""The subscriber: what the control thread takes in its call, and what it leaves to a thread (R13, R16)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import pytest
import zmq

from replicator.adapters.zeromq import PUBLICATIONS_PER_TURN
from replicator.core.events import Event, ManifestReceived, Published, Seen, StoreFailed, Tick
from replicator.model import Epoch, NodeId
from replicator.worker.subscriber import IN_CALL_BYTES_MAX, QUEUE_MESSAGES_MAX, Subscriber
from tests.worker.nodes import DEADLINE_S, Node, running, wait_until
from tests.worker.payloads import noise

LARGE = noise(IN_CALL_BYTES_MAX + 1)


class Backup:
    """A backup whose control thread is the test; `told` has what is delivered, and by which thread."""

    def __init__(self, node: Node) -> None:
        node.leave()
        self.node = node
        assert node.path._subscriber is not None
        self.subscriber: Subscriber = node.path._subscriber
        self.told: list[tuple[Event, int]] = []
        self.subscriber._deliver = lambda event: self.told.append((event, get_ident()))
        self._poller = zmq.Poller()
        for socket in node.path.sockets:
            self._poller.register(socket, zmq.POLLIN)

    def receive(self, count: int = 1) -> None:
        """Receive that many messages, as long as there is room."""
        for _ in range(count):
            assert self._poller.poll(int(DEADLINE_S * 1000)), "nothing has come"
            next(self.node.path.receive())

    def sequences(self) -> list[int]:
        """Of the manifests told so far, in their order."""
        return [event.manifest.sequence for event, _ in self.told if isinstance(event, ManifestReceived)]


@contextmanager
def pair() -> Iterator[tuple[Node, Backup]]:
    """A primary, and a backup that receives nothing by itself."""
    with running(2, publish_queue_messages=1000) as (primary, node):
        yield primary, Backup(node)


def publish(primary: Node, sequence: int, content: bytes) -> Published:
    return primary.publish(content, sequence, accept=False)


def test_a_small_publication_is_taken_in_the_control_thread_s_call() -> None:
    """Nobody is woken; it is stored, verified, and told when the call is over."""
    with pair() as (primary, backup):
        published = publish(primary, 1, b"small")
        backup.receive()
        event, thread = backup.told[0]
        assert isinstance(event, ManifestReceived)
        assert event.manifest == published.manifest
        assert thread == get_ident()
        assert backup.node.store.puts[-1] == 1


def test_a_large_publication_is_taken_by_the_thread() -> None:
    """The control thread has heartbeats to answer."""
    with pair() as (primary, backup):
        publish(primary, 1, LARGE)
        backup.receive()
        wait_until(backup.sequences, "the manifest")
        assert get_ident() not in {thread for _, thread in backup.told}


def test_nothing_that_was_taken_of_an_epoch_goes_untold() -> None:
    """Several messages are told of at once, but only of one epoch."""
    with pair() as (_, backup):
        node = NodeId("n0")
        for seen in (Seen(node, Epoch(1), 4), Seen(node, Epoch(1), 5), Seen(node, Epoch(2), 1)):
            backup.subscriber._note(seen)
        backup.subscriber._say()
        assert [event for event, _ in backup.told] == [Seen(node, Epoch(1), 5), Seen(node, Epoch(2), 1)]


def test_a_small_publication_does_not_overtake_a_large_one() -> None:
    """While the thread is at something, also at the last of its queue, whatever comes is queued."""
    with pair() as (primary, backup):
        backup.node.store.is_crowded = lambda: False  # type: ignore[method-assign]
        backup.node.store.gate.clear()  # the thread is at the large one for as long as this is so
        publish(primary, 1, LARGE)
        publish(primary, 2, b"small")
        backup.receive(2)
        assert backup.sequences() == []
        backup.node.store.gate.set()
        wait_until(lambda: backup.sequences() == [1, 2], "both in their order")
        publish(primary, 3, b"small again")
        wait_until(lambda: not backup.subscriber._queue, "the thread's rest")
        backup.receive()
        assert backup.sequences() == [1, 2, 3]
        assert backup.told[-1][1] == get_ident()


def test_r16_a_crowded_store_holds_up_the_thread_and_never_the_control_thread() -> None:
    """What is more than a few messages stays in the socket, and is taken in order when there is room."""
    with pair() as (primary, backup):
        backup.node.store.gate.clear()
        for sequence in range(1, 10):
            publish(primary, sequence, b"%d" % sequence)
        backup.receive(QUEUE_MESSAGES_MAX)
        assert not backup.node.path.has_room
        assert backup.told == []
        backup.node.store.gate.set()
        wait_until(lambda: any(isinstance(event, Tick) for event, _ in backup.told), "the control's waking")
        assert backup.node.path.has_room
        while len(backup.sequences()) < 9:
            if backup.node.path.has_room and backup._poller.poll(10):
                next(backup.node.path.receive())
        assert backup.sequences() == list(range(1, 10))


def test_r16_the_control_thread_never_waits_for_the_store() -> None:
    """Not even if it gets crowded after the look at it."""
    with pair() as (primary, backup):
        backup.node.store.is_crowded = lambda: False  # type: ignore[method-assign]
        backup.node.store.gate.clear()
        publish(primary, 1, b"small")
        backup.receive()
        assert backup.told[0][1] == get_ident()
        assert not backup.node.store.gate.is_set()
        backup.node.store.gate.set()


def test_r16_heartbeats_have_their_turn_after_a_few_publications() -> None:
    """However many have come."""
    with pair() as (primary, backup):
        for sequence in range(1, 2 * PUBLICATIONS_PER_TURN + 1):
            publish(primary, sequence, b"%d" % sequence)
        backup.receive()
        assert len(list(backup.node.path.receive())) <= PUBLICATIONS_PER_TURN
        while len(backup.sequences()) < 2 * PUBLICATIONS_PER_TURN:
            backup.receive()


def test_r16_a_publication_without_a_manifest_is_told_too() -> None:
    """Several at once, the last when nothing more comes; one with a manifest is told with that alone."""
    with pair() as (primary, backup):
        published = publish(primary, 1, noise(6 * 2**20))
        while not backup.sequences():
            backup.receive()
            wait_until(lambda: not backup.subscriber._queue, "the thread's rest")
        manifests = [event for event, _ in backup.told if isinstance(event, ManifestReceived)]
        assert [event.publish_index for event in manifests] == [published.publish_index]
        seen = [event.publish_index for event, _ in backup.told if isinstance(event, Seen)]
        assert seen == sorted(set(seen))
        assert seen[0] < published.publish_index


def test_r21_a_failure_in_the_call_makes_the_replica_faulty_and_not_the_driver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one of the thread does."""
    with pair() as (primary, backup):

        def fail(*_: object) -> None:
            raise RuntimeError("for the test")

        monkeypatch.setattr(backup.node.store, "put_chunks", fail)
        publish_bytes = b"small"
        published = primary.publish(publish_bytes, 1, accept=False)
        assert published.manifest.raw_bytes == len(publish_bytes)
        backup.receive()
        assert [type(event) for event, _ in backup.told] == [StoreFailed]


def test_closing_ends_the_thread_and_closes_the_sockets() -> None:
    """What waits is lost; the sockets are closed by who owns them, after the thread has ended."""
    with pair() as (primary, backup):
        backup.node.store.is_crowded = lambda: True  # type: ignore[method-assign]
        for sequence in (1, 2):
            publish(primary, sequence, LARGE)
        backup.receive(2)
        sockets: list[Any] = list(backup.node.path.sockets)
        backup.node.path.close()
        assert not backup.subscriber._thread.is_alive()
        assert all(socket.closed for socket in sockets)
