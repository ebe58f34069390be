"""The publisher by itself: whose turn it is, what may leave, and which thread it leaves from (R12, R16)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from replicator.core.events import Event, Published, Sent, StoreFailed
from replicator.model import Epoch, Generation, Incarnation, NodeId, Payload, Sequence, StreamName
from replicator.settings import Settings
from replicator.worker import publisher as module
from replicator.worker.publisher import IN_CALL_PARTS_MAX, Publisher, Task
from tests.worker.memory_store import MemoryStore
from tests.worker.nodes import wait_until
from tests.worker.payloads import noise

MIB = 2**20
PEERS = {NodeId(name): ("127.0.0.1", 7400 + 10 * number) for number, name in enumerate("ab")}
NINE = Epoch(9)


class Store(MemoryStore):
    """Keeps who was to wait for it."""

    def __init__(self) -> None:
        super().__init__(NodeId("a"), Incarnation(bytes(16)))
        self.waits: list[bool] = []

    def put_chunks(self, *args: Any, wait: bool = True) -> None:
        self.waits.append(wait)
        super().put_chunks(*args, wait=wait)


class Rig:
    """A publisher with a socket that is the test's, whose thread is the test's too, until `start`."""

    def __init__(self) -> None:
        self.store, self.events = Store(), list[Event]()
        self.sent = 0
        self.on_send: Callable[[], object] = lambda: None
        self.publisher = Publisher(
            Settings(node=NodeId("a"), peers=PEERS), self.store.incarnation, self.store, cast(Any, self)
        )
        self.publisher._deliver = self.events.append
        self._thread, self.publisher._thread = self.publisher._thread, threading.current_thread()
        self._handle = 0

    def send(self, frames: object) -> None:
        """A message leaves."""
        self.sent += 1
        self.on_send()

    def start(self) -> None:
        """Have the publisher's own thread run."""
        self.publisher._thread = self._thread
        self.publisher.start(self.events.append)

    def publish(self, content: bytes | Payload, stream: str = "", epoch: Epoch = NINE) -> int:
        """Publish that, of a stream of its own if none is named; its handle."""
        self._handle += 1
        payload = content if isinstance(content, Payload) else Payload({"": content})
        name, sequence = StreamName(stream or f"stream {self._handle}"), Sequence(self._handle)
        self.publisher.publish(Task(self._handle, name, Generation(1), epoch, sequence, payload))
        return self._handle

    def queue(self, *contents: bytes) -> None:
        """Publish those while the store is crowded: they wait for the thread."""
        self.store.gate.clear()
        for content in contents:
            self.publish(content)
        self.store.gate.set()

    def step(self) -> None:
        """The thread's next task."""
        assert self.publisher._large or self.publisher._small, "nothing waits"
        assert self.publisher._step()

    def published(self) -> list[int]:
        """The handles, in their order."""
        return [event.handle for event in self.events if isinstance(event, Published)]

    def stands_at(self, epoch: Epoch, index: int) -> Sent:
        """Wait until it stands still, with so much sent at least; with how much."""

        def found() -> list[Sent]:
            told = [event for event in self.events if isinstance(event, Sent)]
            return [event for event in told if event.epoch == epoch and event.publish_index >= index]

        wait_until(found, "standing still")
        return found()[0]

    def close(self) -> None:
        """Nothing to close: it is the socket's."""

    def end(self) -> None:
        """End the publisher."""
        self.publisher._thread = self._thread
        self.publisher.close()


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """One that does not stand still for long."""
    monkeypatch.setattr(module, "STALLED_S", 0.01)
    made = Rig()
    yield made
    made.end()


def fails() -> None:
    """What nobody foresaw."""
    raise KeyError("nobody foresaw it")


def test_one_thread_at_a_time_has_the_socket(rig: Rig) -> None:
    """What comes while something waits for the thread waits behind it, and so does what comes while that is
    at work: a socket is not for two."""
    rig.queue(b"first")
    rig.publish(b"second")
    assert not rig.sent
    rig.step()
    rig.step()
    assert rig.published() == [1, 2]
    rig.queue(b"third")
    within: list[tuple[int, int]] = []

    def comes_between() -> None:
        rig.on_send = lambda: None
        before = rig.sent
        rig.publish(b"fourth")
        within.append((before, rig.sent))

    rig.on_send = comes_between
    rig.step()
    assert within == [(3, 3)]
    rig.step()
    assert rig.published() == [1, 2, 3, 4]


def test_small_ones_keep_their_order(rig: Rig) -> None:
    """None goes before another because it came later."""
    rig.queue(b"first", b"second", b"third")
    for _ in range(3):
        rig.step()
    assert rig.published() == [1, 2, 3]


def test_small_ones_without_end_hold_no_large_one_up(rig: Rig) -> None:
    """One comes with each that leaves; the large one's messages have their turn all the same."""
    rig.queue(b"small", noise(MIB))
    rig.on_send = lambda: rig._handle < 50 and rig.publish(b"another")
    for _ in range(3):
        rig.step()
    assert 2 in rig.published()


def test_r16_what_follows_small_ones_is_allowed_anew(rig: Rig) -> None:
    """They take an index that the large one's message would have had: the next may not be allowed."""
    rig.publisher.allow(NINE, 2)
    rig.start()
    large = rig.publish(noise(4 * MIB))
    rig.stands_at(NINE, 2)
    small = rig.publish(b"small")
    rig.publisher.allow(NINE, 3)
    assert rig.stands_at(NINE, 3).publish_index == 3
    assert (rig.published(), rig.sent) == ([small], 3)
    rig.publisher.allow(NINE, 100)
    wait_until(lambda: large in rig.published(), "the large one")


def test_r16_an_allowance_never_falls(rig: Rig) -> None:
    """One that comes late, of the same epoch or of an older one, takes nothing back."""
    rig.publisher.allow(NINE, 1)
    rig.publisher.allow(NINE, 0)
    rig.publisher.allow(Epoch(8), 0)
    assert rig.publish(b"small") in rig.published()
    assert rig.publish(b"too many") not in rig.published()


def test_an_allowance_of_a_newer_epoch_ends_what_waits(rig: Rig) -> None:
    """It does not go on as what nobody has allowed anything would."""
    rig.publisher.allow(Epoch(8), 1)
    rig.start()
    rig.publish(noise(4 * MIB), epoch=Epoch(8))
    rig.stands_at(Epoch(8), 1)
    rig.publisher.allow(NINE, 5)
    wait_until(lambda: not rig.publisher._is_busy, "the end of it")
    assert (rig.published(), rig.sent) == ([], 1)


def test_r16_the_thread_waits_for_the_store_and_the_caller_does_not(rig: Rig) -> None:
    """What the store's queue has no room for holds up the publisher's thread alone."""
    rig.start()
    rig.publish(b"in the call")
    rig.queue(b"by the thread")
    wait_until(lambda: rig.published() == [1, 2], "both")
    assert rig.store.waits == [False, True]


@pytest.mark.parametrize("count", [IN_CALL_PARTS_MAX, IN_CALL_PARTS_MAX + 1])
def test_very_many_parts_are_not_published_in_the_call(rig: Rig, count: int) -> None:
    """However small: each has its price."""
    rig.publish(Payload({str(number): b"x" for number in range(count)}, is_mapping=True))
    assert bool(rig.published()) == (count == IN_CALL_PARTS_MAX)


def test_r21_a_failure_in_the_call_makes_the_replica_faulty_and_not_the_caller(rig: Rig) -> None:
    """Whatever fails: nothing of it is the caller's fault."""
    rig.on_send = fails
    rig.publish(b"small")
    assert [type(event) for event in rig.events] == [StoreFailed]


def test_r21_nothing_is_published_when_the_thread_has_failed(rig: Rig) -> None:
    """Its socket is closed; what comes waits, and the replica is faulty."""
    rig.on_send = fails
    rig.start()
    rig.publish(noise(MIB))
    rig.publisher._thread.join()
    rig.publish(b"small")
    assert rig.sent == 1
    assert [type(event) for event in rig.events] == [StoreFailed]


def test_what_was_published_lately_is_known_within_bounds(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of so many streams as there may be: those whose turn it was least lately are forgotten first."""
    monkeypatch.setattr(module, "RECENT_MAX", 2)
    for stream in ("a", "b", "a", "c"):
        rig.publish(stream.encode() * 100, stream)

    def costs(stream: str) -> bool:
        before = rig.publisher.counters["sent_bytes"]
        rig.publish(stream.encode() * 100, stream)
        return rig.publisher.counters["sent_bytes"] > before

    assert [costs("a"), costs("c"), costs("b")] == [False, False, True]


def test_helpers_work_a_bounded_way_ahead(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing may leave, they hold no more than that beyond the first message."""
    monkeypatch.setattr(module, "LOOK_AHEAD_BYTES_MAX", 2 * MIB)
    later, taken = rig.publisher._later, list[int]()

    def counted(pack: Any, views: list[memoryview]) -> Any:
        taken.append(sum(map(len, views)))
        return later(pack, views)

    monkeypatch.setattr(rig.publisher, "_later", counted)
    rig.publisher.allow(NINE, 0)
    rig.start()
    rig.publish(noise(16 * MIB))
    rig.stands_at(NINE, 0)
    assert MIB < sum(taken) <= 5 * MIB
