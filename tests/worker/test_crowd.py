"""Many fetches from one source over a slow link, in virtual time: they share its credit (R18)."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence as Ordered
from types import SimpleNamespace
from typing import Any, cast

import pytest

from replicator.codec.chunking import digest_of, seal
from replicator.codec.frames import WantChunks
from replicator.core.effects import Fetch
from replicator.core.events import Event, Fetched
from replicator.model import (
    Buffer,
    Chunk,
    Codec,
    Digest,
    Epoch,
    Generation,
    Incarnation,
    Manifest,
    NodeId,
    Part,
    Sequence,
    StreamName,
)
from replicator.settings import Settings
from replicator.worker import repairer as module
from replicator.worker.fetch import ATTEMPTS_MAX
from replicator.worker.pace import BURST_S
from replicator.worker.patience import PATIENCE_S
from replicator.worker.repairer import Repairer
from replicator.worker.serving import REQUESTS_PER_PEER_MAX

ASKER, FIRST, SECOND = NodeId("a"), NodeId("b"), NodeId("c")
PEERS = {node: ("127.0.0.1", 7400 + 10 * number) for number, node in enumerate((ASKER, FIRST, SECOND))}
MB, MIB, CHUNK_BYTES = 10**6, 2**20, 2**18
CONTENT = bytes(CHUNK_BYTES)  # chunks stand for their sizes: digests are not what is tested
QUEUE_MESSAGES = 32  # what both ends of a connection hold
STEP_S = 0.002
AT_ONCE = 16


class _TurnOver(Exception):
    """The repairer would sleep now."""


class _Node:
    """A repairer whose threads, sockets, store and clock are the test's."""

    def __init__(self, world: _World, name: NodeId) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.chunks: set[bytes] = set()
        self.manifests: dict[Digest, Manifest] = {}
        self.inbox: deque[tuple[NodeId, Ordered[Buffer]]] = deque()
        self.links: dict[NodeId, deque[tuple[float, Ordered[Buffer]]]] = {peer: deque() for peer in PEERS}
        self.free_at = 0.0  # when its link has sent what it was given
        self.sent_bytes = 0
        self.start()

    def start(self) -> None:
        """Begin with empty queues."""
        settings = Settings(node=self.name, peers=PEERS)
        self.repairer = Repairer(
            settings, Incarnation(bytes(16)), cast(Any, self), cast(Any, self), lambda: self.world.published
        )
        self.repairer._deliver = self.world.deliver
        self.inbox.clear()
        for link in self.links.values():
            link.clear()

    def turn(self) -> None:
        """One round of the repairer's loop, and the arrival of what it has sent."""
        self.turns = 0
        with pytest.raises(_TurnOver):
            self.repairer._run()
        for to, link in self.links.items():
            while link and link[0][0] <= self.world.now:
                self.world.nodes[to].inbox.append((self.name, link.popleft()[1]))

    def restart(self) -> None:
        """What was in its queues is lost."""
        self.repairer.close()
        self.start()

    # ── the sockets ──

    def close(self) -> None:
        """Nothing is held."""

    def wait(self, *_: object) -> None:
        """Let one turn pass."""
        if self.turns:
            raise _TurnOver
        self.turns += 1

    def can_send(self, to: NodeId) -> bool:
        """Whether there is room in the queue."""
        return len(self.links[to]) < QUEUE_MESSAGES

    def send_frames(self, to: NodeId, frames: Ordered[Buffer]) -> bool:
        """Queue for the link, which takes its time."""
        if not self.can_send(to):
            return False
        size = sum(len(frame) for frame in frames)
        self.free_at = max(self.free_at, self.world.now) + size / self.world.bytes_per_s
        self.links[to].append((self.free_at, [memoryview(frame) for frame in frames]))
        self.sent_bytes += size
        return True

    def receive_frames(self) -> Iterator[tuple[NodeId, Ordered[Buffer]]]:
        """What has arrived."""
        while self.inbox:
            yield self.inbox.popleft()

    # ── the store ──

    def read_manifest(self, _: StreamName, digest: Digest) -> Manifest | None:
        """The manifest of that digest."""
        return self.manifests.get(digest)

    def read_chunk(self, digest: Digest) -> bytes | None:
        """The content that all chunks have."""
        return CONTENT if digest in self.chunks else None

    def missing(self, chunks: Iterable[Chunk]) -> list[Chunk]:
        """Those that are not here."""
        return [chunk for chunk in chunks if chunk.stored_digest not in self.chunks]

    def put_chunks(self, *args: Any) -> None:
        """Keep what was fetched."""
        self.chunks.update(chunk.stored_digest for chunk, _ in args[-1])


class _World:
    """The asker and its sources; as the core does, it fetches so many streams at once, failed ones again."""

    def __init__(self, bytes_per_s: float) -> None:
        self.now = 1.0
        self.bytes_per_s = bytes_per_s
        self.done: dict[StreamName, float] = {}
        self.failed: Counter[StreamName] = Counter()
        self.active: set[StreamName] = set()
        self._last = 0
        self.published = 0  # heard by everybody
        self.is_published = False  # all the time
        self.waiting: deque[Fetch] = deque()
        self.nodes = {name: _Node(self, name) for name in PEERS}
        self.asker = self.nodes[ASKER]

    def want(
        self,
        name: str,
        size: int,
        *sources: NodeId,
        known: bool = False,
        urgent: bool = False,
        verify: bool = True,
        content: str = "",
    ) -> Manifest:
        """Have a checkpoint of that size fetched, which all sources hold; *known*: its manifest is here.

        Those of one *content* are of the same chunks.
        """
        digests = [digest_of(f"{content or name} {number}".encode()) for number in range(size // CHUNK_BYTES)]
        chunks = [Chunk(digest, CHUNK_BYTES, digest, CHUNK_BYTES, Codec.NONE) for digest in digests]
        parts = (Part("", tuple(chunks)),)
        manifest = seal(StreamName(name), Generation(1), Epoch(1), Sequence(1), parts)
        for source in sources:
            self.nodes[source].chunks.update(digests)
            self.nodes[source].manifests[Digest(manifest.digest)] = manifest
        given = manifest if known else None
        self._last += 1
        digest = Digest(manifest.digest)
        self.waiting.append(Fetch(self._last, StreamName(name), digest, given, sources, verify, urgent))
        return manifest

    def deliver(self, event: Event) -> None:
        """A fetch has ended."""
        stream = StreamName(cast(Any, event).stream)
        self.active.remove(stream)
        if isinstance(event, Fetched):
            self.done[stream] = self.now
        else:
            self.failed[stream] += 1

    def run(self, until: Callable[[], object], seconds: float) -> None:
        """Let time pass until that is so; it must be so within that time."""
        deadline = self.now + seconds
        while not until():
            assert self.now < deadline, (len(self.done), self.failed)
            while self.waiting and len(self.active) < AT_ONCE:
                order = self.waiting.popleft()
                self.active.add(StreamName(order.stream))
                self.asker.repairer.order(order)
            self.published += self.is_published
            for node in self.nodes.values():
                if node.alive:
                    node.turn()
            self.now += STEP_S


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[_World]:
    """A cluster on a link of 10 MB/s."""
    world = _World(10 * MB)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: world.now))
    monkeypatch.setattr(module, "verify", lambda *_: None)
    yield world
    for node in world.nodes.values():
        node.repairer.close()


def test_a_slow_link_brings_everything_once(world: _World) -> None:
    """No fetch loses its patience with a source that is busy with the others, so nothing is sent twice."""
    size = 32 * 8 * MIB
    for number in range(32):
        world.want(str(number), 8 * MIB, FIRST)
    world.run(lambda: len(world.done) == 32, 1.05 * size / world.bytes_per_s)
    assert not world.failed
    assert size <= world.nodes[FIRST].sent_bytes < 1.01 * size


def test_a_huge_fetch_leaves_the_others_their_share(world: _World) -> None:
    """It was first, and the small ones are through when each has had its turns."""
    world.want("huge", 64 * MIB, FIRST)
    world.run(lambda: len(world.asker.chunks) >= 16, 2.0)
    for number in range(7):
        world.want(str(number), 2 * MIB, FIRST)
    world.run(lambda: len(world.done) == 7, 1.1 * (4 + 8 * 2 + 4) * MIB / world.bytes_per_s)
    assert "huge" not in world.done
    world.run(lambda: "huge" in world.done, 64 * MIB / world.bytes_per_s)
    assert not world.failed


def test_what_a_source_has_lost_is_asked_again_while_it_answers_others(world: _World) -> None:
    """It restarts with some fetches' requests in its queue: answers to younger ones do not hide that."""
    world.want("first", MIB, FIRST)  # a source that has never answered is asked for little
    world.run(lambda: world.done.pop(StreamName("first"), None), 1.0)
    for number in range(3):
        world.want(f"lost {number}", MIB // 2, FIRST, known=True)
    source = world.nodes[FIRST]
    world.run(lambda: source.inbox or source.links[ASKER], 1.0)
    source.restart()
    lost_at = world.now
    world.want("long", 64 * MIB, FIRST)
    world.run(lambda: len(world.done) == 3, PATIENCE_S + 8 * MIB / world.bytes_per_s)
    assert "long" not in world.done
    assert min(world.done.values()) - lost_at >= PATIENCE_S
    assert not world.failed


def test_a_dead_source_holds_nobody_up_for_longer_than_one_fetch(world: _World) -> None:
    """Who waits for its credit finds out with those that have asked it."""
    world.nodes[FIRST].alive = False
    size = AT_ONCE * MIB
    for number in range(AT_ONCE):
        world.want(str(number), MIB, FIRST, SECOND, known=True)
    seconds = PATIENCE_S * ATTEMPTS_MAX + 1.1 * size / world.bytes_per_s
    world.run(lambda: len(world.done) == AT_ONCE, seconds)
    assert not world.failed
    assert world.nodes[SECOND].sent_bytes < 1.01 * size


@pytest.mark.parametrize("urgent", [False, True], ids=["lagging", "claiming"])
def test_who_lags_leaves_those_who_commit_their_time(world: _World, urgent: bool) -> None:
    """It keeps the pace that is set while it hears publications; what a claim waits for does not."""
    world.bytes_per_s, world.is_published = 1000 * MB, True
    rate, size = Settings().fetch_bytes_per_s, 128 * MIB
    world.want("large", size, FIRST, urgent=urgent)
    began = world.now
    world.run(lambda: world.done, 1.2 * size / rate)
    assert (world.now - began > size / rate - BURST_S) != urgent
    assert not world.failed
    assert world.nodes[FIRST].sent_bytes < 1.01 * size


def test_a_link_slower_than_patience_brings_everything_in_the_end(world: _World) -> None:
    """Each answer of 1 MiB takes 4 s: what comes late teaches how long the next may take."""
    world.bytes_per_s = MB // 4
    world.want("large", 16 * MIB, FIRST)
    size = 0
    while not world.done:
        world.run(lambda: world.done or world.failed, 300.0)
        if world.failed:  # as the core does: nobody has it, and a little later it is tried again
            world.failed.clear()
            world.want("large", 16 * MIB, FIRST)
    size = world.nodes[FIRST].sent_bytes
    assert size < 2 * 16 * MIB


def test_what_comes_too_late_for_a_fetch_is_of_use_to_the_next(world: _World) -> None:
    """The manifest came fast, and says nothing of chunks that take 1 s each: little is asked for twice, and
    the next fetch takes what the failed one has asked for, before its own question could be answered."""
    world.bytes_per_s = MB // 4
    world.want("large", 8 * MIB, FIRST)
    world.run(lambda: world.failed, 2.0)
    world.want("large", 8 * MIB, FIRST)
    world.run(lambda: world.done, 1.3 * 8 * MIB / world.bytes_per_s)
    assert world.nodes[FIRST].sent_bytes < 1.3 * 8 * MIB


def test_what_publications_bring_meanwhile_is_not_asked_for(world: _World) -> None:
    """Chunks that have come in by another way since the fetch has begun are not sent once more."""
    manifest = world.want("large", 64 * MIB, FIRST, verify=False)
    world.run(lambda: len(world.asker.chunks) >= 16, 2.0)
    world.asker.chunks.update(chunk.stored_digest for part in manifest.parts for chunk in part.chunks)
    world.run(lambda: world.done, 1.0)
    assert world.nodes[FIRST].sent_bytes < 16 * MIB


def test_what_piles_up_at_a_source_is_answered_once(world: _World) -> None:
    """No answer gets through for a while, and the same is asked for again and again: it is sent once then."""
    source = world.nodes[FIRST]
    world.want("large", 4 * MIB, FIRST, known=True)
    world.run(lambda: world.done.pop(StreamName("large"), None), 2.0)
    before = source.sent_bytes
    can_send, source.can_send = source.can_send, lambda to: False  # type: ignore[method-assign]
    for _ in range(5):
        world.want("again", 4 * MIB, FIRST, known=True)
        world.run(lambda: world.failed, 30.0)
        world.failed.clear()
    source.can_send = can_send  # type: ignore[method-assign]
    world.run(lambda: not source.repairer._serving.peers and not source.inbox, 10.0)
    assert source.sent_bytes - before < 5 * MIB


def test_a_late_manifest_says_nothing_of_the_newer_one(world: _World) -> None:
    """The stream has moved on: that the source gives the older one does not mean that it lacks the newer."""
    source = world.nodes[FIRST]
    world.want("moving", MIB, FIRST)
    world.run(lambda: source.links[ASKER], 1.0)
    world.want("moving", 2 * MIB, FIRST)
    world.run(lambda: world.done, 5.0)
    assert not world.failed


def test_a_lost_request_teaches_no_patience(world: _World) -> None:
    """A source that was away answers quickly again: when it dies, the next one is asked as soon as ever."""
    world.want("first", CHUNK_BYTES, FIRST, known=True)
    world.run(lambda: world.done, 1.0)
    source = world.nodes[FIRST]
    source.alive = False
    world.want("lost", CHUNK_BYTES, FIRST, SECOND, known=True)
    world.run(lambda: len(world.done) == 2, 3.0)
    world.now += 60.0
    source.restart()
    source.alive = True
    world.want("back", CHUNK_BYTES, FIRST, SECOND, known=True)
    world.run(lambda: len(world.done) == 3, 1.0)
    source.alive = False
    world.want("dead", CHUNK_BYTES, FIRST, SECOND, known=True)
    world.run(lambda: len(world.done) == 4, PATIENCE_S * ATTEMPTS_MAX + 0.5)


def test_streams_that_share_chunks_wait_for_none_of_them(world: _World) -> None:
    """The source sends what several fetches have asked for once: nobody waits for another answer, or is told
    by nobody's patience that none comes."""
    source = world.nodes[FIRST]
    world.want("warm", CHUNK_BYTES, FIRST, known=True)
    world.run(lambda: world.done, 1.0)
    before, began = source.sent_bytes, world.now
    for number in range(AT_ONCE):
        world.want(str(number), CHUNK_BYTES, FIRST, known=True, content="same")
    world.run(lambda: len(world.done) == AT_ONCE + 1, PATIENCE_S - 0.1)
    assert source.sent_bytes - before < (2 + AT_ONCE // 2) * CHUNK_BYTES
    assert world.now - began < PATIENCE_S
    assert not world.failed


def test_what_the_source_lacks_is_told_to_all_who_asked(world: _World) -> None:
    """Several fetches want a chunk that the first source has lost: each asks the second one at once."""
    world.want("warm", CHUNK_BYTES, FIRST, known=True)
    world.run(lambda: world.done, 1.0)
    for number in range(AT_ONCE):
        world.want(str(number), CHUNK_BYTES, FIRST, SECOND, known=True, content="same")
    world.nodes[FIRST].chunks.clear()
    world.run(lambda: len(world.done) == AT_ONCE + 1, PATIENCE_S - 0.1)
    assert not world.failed


def test_a_request_that_is_refused_takes_nothing_from_those_that_wait(world: _World) -> None:
    """As many wait as may, and one more asks for the same: it is for the older ones to be answered."""
    serving = world.nodes[FIRST].repairer._serving
    digests = [bytes([number]) * 32 for number in range(REQUESTS_PER_PEER_MAX)]
    for job, digest in enumerate(digests):
        assert serving.add(ASKER, job, WantChunks((digest, b"x" * 31 + bytes([job % 256]))))
    assert not serving.add(ASKER, 999, WantChunks((digests[0], b"y" * 32)))
    waiting = [message for _, message in serving._waiting[ASKER] if isinstance(message, WantChunks)]
    assert sum(len(message.digests) for message in waiting) == 2 * REQUESTS_PER_PEER_MAX
