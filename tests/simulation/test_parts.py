"""The simulator's own parts do what they say: the disk above all, by which the core is judged."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random

import pytest

from replicator.core.effects import (
    Accept,
    AdoptHeads,
    ForgetTombstone,
    MarkCommitted,
    Publish,
    WritePromise,
)
from replicator.core.events import (
    Accepted,
    AcceptRefused,
    Event,
    HeadsAdopted,
    PromiseWritten,
    StoreFailed,
    StoreRoom,
    Why,
)
from replicator.model import (
    Digest,
    Epoch,
    Generation,
    Incarnation,
    Manifest,
    NodeId,
    Owner,
    Position,
    Promise,
    Sequence,
    StreamName,
)
from tests.simulation.clock import Clock
from tests.simulation.data import build_manifest, cut_chunks
from tests.simulation.disk import Disk
from tests.simulation.network import Network, Weather

STREAM = StreamName("orders")
OWNER = Owner("n1", bytes(16), bytes(16))


class Queue:
    """Virtual time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._count = 0

    def schedule(self, delay: float, function: Callable[..., None], *args: object) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now + delay, self._count, function, args))

    def run(self) -> None:
        while self._queue:
            self.now, _, function, args = heapq.heappop(self._queue)
            function(*args)


class Bench:
    """A disk with its completions."""

    def __init__(self, seed: int = 0) -> None:
        self.queue = Queue()
        self.events: list[Event] = []
        self.disk = Disk(NodeId("n1"), Incarnation(bytes(16)), Random(seed), self.queue.schedule)
        self.disk.open(self.events.append)

    def promise(self, epoch: int) -> None:
        self.disk.perform(WritePromise(Promise(epoch, OWNER)))

    def put(self, sequence: int, epoch: int = 1, *, chunks: bool = True, tombstone: bool = False) -> Manifest:
        pieces = [] if tombstone else cut_chunks(f"{sequence} in {epoch}".encode())
        place = (STREAM, Generation(1), Epoch(epoch), Sequence(sequence))
        manifest = build_manifest(Publish(1, *place, tombstone=tombstone), pieces)
        if chunks:
            self.disk.put_chunks(STREAM, Epoch(epoch), Sequence(sequence), pieces)
        self.disk.perform(Accept(manifest, Epoch(epoch)))
        return manifest

    def run(self) -> list[Event]:
        """Everything that completes."""
        self.queue.run()
        events, self.events[:] = list(self.events), []
        return events


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.promise(1)
    bench.run()
    return bench


def test_promises_overtake_payload_and_fence_it(bench: Bench) -> None:
    """An acceptance that waits while a higher promise is written is refused when its turn comes (R4)."""
    bench.put(1)  # its chunks are the batch that runs already; the acceptance waits
    bench.promise(2)
    promised, refused = bench.run()
    assert isinstance(promised, PromiseWritten)
    assert isinstance(refused, AcceptRefused)
    assert refused.why is Why.FENCED


def test_completions_come_when_durable_and_in_order(bench: Bench) -> None:
    """What is handed in is on the disk, and counters grow."""
    manifests = [bench.put(sequence) for sequence in (1, 2, 3)]
    assert bench.disk.image.newest(STREAM) is None
    events = bench.run()
    assert [event.manifest for event in events if isinstance(event, Accepted)] == manifests
    assert [event.counter for event in events if isinstance(event, Accepted)] == [2, 3, 4]


@pytest.mark.parametrize("seed", range(20))
def test_crash_loses_what_is_not_synced(seed: int) -> None:
    """After a crash a prefix of what was asked is there, and nothing is completed afterwards."""
    bench = Bench(seed)
    bench.promise(1)
    bench.put(1)
    bench.disk.crash()
    assert bench.run() == []
    image = bench.disk.image
    newest = image.newest(STREAM)
    assert newest is None or (image.promise is not None and image.readable(newest.manifest))


def test_refusals(bench: Bench) -> None:
    """Stale, incomplete and full are told apart, and nothing changes."""
    bench.put(2)
    bench.put(1)
    bench.put(3, chunks=False)
    bench.disk.set_full(True)
    bench.put(4)
    bench.put(5, tombstone=True)
    events = bench.run()
    refused = [event.why for event in events if isinstance(event, AcceptRefused)]
    # The disk is full before the queue is written: only a tombstone has room.
    assert StoreRoom(full=True) in events
    assert refused == [Why.FULL, Why.FULL, Why.FULL, Why.FULL]
    bench.disk.set_full(False)
    bench.put(4)
    bench.put(6, chunks=False)
    bench.put(6)
    events = bench.run()
    assert [event.why for event in events if isinstance(event, AcceptRefused)] == [Why.STALE, Why.INCOMPLETE]


def test_bulk_adoption_spares_exceptions(bench: Bench) -> None:
    """All heads but the exceptions are raised to the epoch; fenced it is not answered at all (R10)."""
    bench.put(1)
    bench.promise(2)
    bench.run()
    bench.disk.perform(AdoptHeads(Epoch(2), frozenset({STREAM})))
    assert isinstance(bench.run()[0], HeadsAdopted)
    newest = bench.disk.image.newest(STREAM)
    assert newest is None or newest.accepted_epoch == 1
    bench.disk.perform(AdoptHeads(Epoch(1), frozenset()))
    assert bench.run() == []


def test_acceptance_drops_the_other_branch(bench: Bench) -> None:
    """Records that are not older than what is accepted in a newer epoch are dropped (R10)."""
    for sequence in (1, 2, 3):
        bench.put(sequence)
        bench.run()
    bench.promise(2)
    bench.run()
    manifest = bench.put(2, epoch=2)
    bench.run()
    retained = bench.disk.image.streams[STREAM]
    assert [one.manifest.sequence for one in retained] == [1, 2]
    assert retained[-1].manifest == manifest


def test_retention_keeps_the_committed_and_one_older(bench: Bench) -> None:
    """Older checkpoints go when a newer one is known committed, with their chunks (R23)."""
    for sequence in (1, 2, 3, 4):
        bench.put(sequence)
        bench.run()
    bench.disk.perform(MarkCommitted(STREAM, Generation(1), Position(1, 3)))
    bench.run()
    image = bench.disk.image
    assert [one.manifest.sequence for one in image.streams[STREAM]] == [2, 3, 4]
    assert len(image.chunks) == 3


def test_marks_of_a_stream_that_is_begun_anew_are_newer(bench: Bench) -> None:
    """It counts from 1 again, in a later epoch: the old mark goes with what it names, or gives way (R23)."""
    image = bench.disk.image
    for told, left in ((1000, set()), (999, {STREAM})):
        bench.put(1000, tombstone=True)
        bench.disk.perform(MarkCommitted(STREAM, Generation(1), Position(1, told)))
        bench.promise(2)
        bench.run()
        bench.put(1, epoch=2)
        bench.run()
        assert image.committed.keys() == left
        for sequence in (2, 3, 4):
            bench.disk.perform(MarkCommitted(STREAM, Generation(1), Position(2, sequence - 1)))
            bench.put(sequence, epoch=2)
        bench.run()
        assert [one.manifest.sequence for one in image.streams[STREAM]] == [2, 3, 4]
        image.streams.clear()
        image.committed.clear()
        image.promise = Promise(Epoch(1), OWNER)


def test_forgetting_takes_only_the_tombstone_it_names(bench: Bench) -> None:
    """A stream begun anew is not forgotten with its old tombstone (I11)."""
    bench.put(1, tombstone=True)
    bench.disk.perform(ForgetTombstone(STREAM, Generation(1), Sequence(2)))
    bench.run()
    assert STREAM in bench.disk.image.streams
    bench.disk.perform(ForgetTombstone(STREAM, Generation(1), Sequence(1)))
    bench.run()
    assert STREAM not in bench.disk.image.streams


def test_failed_sync_stops_everything(bench: Bench) -> None:
    """After a failed sync nothing is written or answered until the store is opened again (R21)."""
    bench.disk.fails_next = True
    bench.put(1)
    assert [type(event) for event in bench.run()] == [StoreFailed]
    bench.put(2)
    assert bench.run() == []
    assert STREAM not in bench.disk.image.streams


def test_damage_makes_a_head_unreadable(bench: Bench) -> None:
    """Rot shows when it is read, and in what the next process finds."""
    manifest = bench.put(1)
    bench.run()
    assert bench.disk.damage(STREAM)
    assert bench.disk.image.payload(manifest) is None
    assert not bench.disk.durable("c").heads[0].readable


def test_clock_goes_on_at_its_rate() -> None:
    """Local and true time are each other's inverse, and a change of rate is no step."""
    clock = Clock(1.01, 50.0)
    assert clock.true(clock.local(10.0)) == pytest.approx(10.0)
    before = clock.local(10.0)
    clock.change_rate(10.0, 0.99)
    assert clock.local(10.0) == pytest.approx(before)
    clock.reboot(10.0, 1.0)
    assert clock.local(10.0) == pytest.approx(1.0)


def test_network_cuts_one_direction_and_keeps_order() -> None:
    """A cut direction loses everything, also what is under way; links keep order unless told otherwise."""
    queue, arrived = Queue(), list[tuple[NodeId, NodeId, bytes]]()
    network = Network(Random(0), queue.schedule, lambda *frame: arrived.append(frame))
    network.watch(lambda: queue.now)
    a, b = NodeId("a"), NodeId("b")
    for number in range(50):
        network.send(a, b, bytes([number]))
    queue.run()
    assert [frame for _, _, frame in arrived] == [bytes([number]) for number in range(50)]
    network.send(a, b, b"under way")
    network.cut([(a, b)])
    network.send(b, a, b"back")
    queue.run()
    assert arrived[50:] == [(b, a, b"back")]
    assert not network.connected(a, b)
    network.mend([(a, b)])
    assert network.connected(a, b)


def test_storms_lose_repeat_and_reorder() -> None:
    """Every kind of bad weather is to be seen in what arrives."""
    queue, arrived = Queue(), list[bytes]()
    network = Network(Random(1), queue.schedule, lambda _a, _b, frame: arrived.append(frame))
    network.watch(lambda: queue.now)
    network.weather = Weather(loss=0.2, duplicate=0.2, reorder=0.5)
    sent = [bytes([number]) for number in range(200)]
    for frame in sent:
        network.send(NodeId("a"), NodeId("b"), frame)
    queue.run()
    assert set(arrived) < set(sent)
    assert len(arrived) > len(set(arrived))
    assert arrived != sorted(arrived)


def test_digests_are_of_content() -> None:
    """The same bytes are the same chunk."""
    (left, _), (right, _) = cut_chunks(b"x" * 192)
    assert left == right
    assert isinstance(left, bytes)
    assert Digest(left) != cut_chunks(b"y")[0][0]
