"""The repairer by itself: whose answers count, for which fetch, and what it keeps in mind (R18, R28)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence as Ordered
from types import SimpleNamespace
from typing import Any, cast

import pytest

from replicator.adapters.zeromq import MESSAGES_PER_TURN
from replicator.codec.chunking import digest_of, seal
from replicator.codec.compression import compress
from replicator.codec.frames import (
    REPLY_BYTES_MAX,
    HaveChunks,
    HaveManifest,
    Repair,
    RepairMessage,
    WantChunks,
    WantManifest,
    decode_repair,
    encode_repair,
)
from replicator.core.effects import CancelFetch, Fetch
from replicator.core.events import Event, Fetched, FetchFailed
from replicator.model import (
    Buffer,
    Chunk,
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
from replicator.worker.patience import PATIENCE_S
from replicator.worker.repairer import Repairer
from tests.worker.payloads import noise

A, B, C = (NodeId(name) for name in "abc")
PEERS = {node: ("127.0.0.1", 7400 + 10 * number) for number, node in enumerate((A, B, C))}
ORDERS = StreamName("orders")


def checkpoint(*contents: bytes, stream: StreamName = ORDERS) -> tuple[Manifest, list[bytes]]:
    """Of one part, a chunk each: the manifest, and the chunks as they are stored."""
    made = [compress(memoryview(content), digest_of(content)) for content in contents]
    parts = (Part("", tuple(chunk for chunk, _ in made)),)
    manifest = seal(stream, Generation(1), Epoch(1), Sequence(1), parts)
    return manifest, [bytes(stored) for _, stored in made]


def digests(manifest: Manifest) -> tuple[bytes, ...]:
    """Of its chunks, as stored."""
    return tuple(chunk.stored_digest for part in manifest.parts for chunk in part.chunks)


class Rig:
    """A repairer whose thread, sockets, store and clock are the test's."""

    def __init__(self) -> None:
        self.now = 1.0
        self.events: list[Event] = []
        self.sent: list[tuple[NodeId, Repair]] = []
        self.chunks: dict[bytes, bytes] = {}
        self.rotten: set[bytes] = set()
        self.manifests: dict[bytes, Manifest] = {}
        self.inbox: deque[tuple[NodeId | None, Ordered[Buffer]]] = deque()
        self.timeouts: list[float] = []
        self._turns, self._number = 0, 0
        this = cast(Any, self)
        settings = Settings(node=A, peers=PEERS, cluster="test")
        self.repairer = Repairer(settings, Incarnation(bytes(16)), this, this, lambda: 0)
        self.repairer._deliver = self.events.append

    def fetch(self, manifest: Manifest, *sources: NodeId, known: bool = True, verify: bool = False) -> None:
        """Order it, of those sources (b if none is named), and have the first request sent."""
        self._number += 1
        given, digest = manifest if known else None, Digest(manifest.digest)
        order = Fetch(self._number, StreamName(manifest.stream), digest, given, sources or (B,), verify)
        self.repairer.order(order)
        self.turn()

    def turn(self) -> None:
        """One round of its loop."""
        self._turns = 1
        with pytest.raises(StopIteration):
            self.repairer._run()

    def hear(
        self,
        node: NodeId,
        job: int,
        message: RepairMessage,
        chunks: Iterable[bytes] = (),
        key: NodeId | None = None,
    ) -> None:
        """A peer says that."""
        frames = encode_repair(Repair(1, "test", node, bytes(16), job, message), list(chunks))
        self.inbox.append((key, [memoryview(frame) for frame in frames]))
        self.turn()

    @property
    def asked(self) -> list[tuple[NodeId, RepairMessage]]:
        """Whom, for what."""
        return [(to, header.message) for to, header in self.sent]

    @property
    def ended(self) -> list[type[Event]]:
        """How the fetches have ended."""
        return [type(event) for event in self.events]

    def job(self, index: int = -1) -> int:
        """The number of a request."""
        return self.sent[index][1].job

    def fall_silent(self) -> None:
        """Let so much time pass that nobody is waited for any longer."""
        for _ in range(ATTEMPTS_MAX + 1):
            self.now += PATIENCE_S
            self.turn()

    # ── the sockets ──

    def close(self) -> None:
        """Nothing is held."""

    def wait(self, bell: int, timeout_s: float, senders: object) -> None:
        """Let one turn pass."""
        if not self._turns:
            raise StopIteration
        self._turns -= 1
        self.timeouts.append(timeout_s)

    def can_send(self, to: NodeId) -> bool:
        """There is always room."""
        return True

    def send_frames(self, to: NodeId, frames: Ordered[Buffer]) -> bool:
        """Keep what is sent."""
        self.sent.append((to, decode_repair([memoryview(frame) for frame in frames])[0]))
        return True

    def receive_frames(self) -> Iterator[tuple[NodeId | None, Ordered[Buffer]]]:
        """What has come, as much of it as the real ones give at a time."""
        for _ in range(min(MESSAGES_PER_TURN, len(self.inbox))):
            yield self.inbox.popleft()

    # ── the store ──

    def read_manifest(self, _: StreamName, digest: Digest) -> Manifest | None:
        """The manifest of that digest."""
        return self.manifests.get(digest)

    def read_chunk(self, digest: Digest) -> bytes | None:
        """The chunk, unless it is rotten."""
        return None if digest in self.rotten else self.chunks.get(digest)

    def missing(self, chunks: Iterable[Chunk]) -> list[Chunk]:
        """Those that are not here; of what is rotten nobody knows."""
        return [chunk for chunk in chunks if chunk.stored_digest not in self.chunks]

    def put_chunks(self, *args: Any) -> None:
        """Keep what was fetched."""
        for chunk, content in args[-1]:
            self.chunks[chunk.stored_digest] = bytes(content)
            self.rotten.discard(chunk.stored_digest)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    made = Rig()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: made.now))
    yield made
    made.repairer.close()


def test_a_fetch_that_is_cancelled_asks_and_tells_nothing_more(rig: Rig) -> None:
    """What comes for it all the same is not stored."""
    manifest, stored = checkpoint(b"content")
    rig.fetch(manifest)
    rig.repairer.order(CancelFetch(ORDERS))
    rig.hear(B, rig.job(), HaveChunks(digests(manifest), ()), stored)
    rig.fall_silent()
    assert (len(rig.sent), rig.events, rig.chunks) == (1, [], {})


def test_a_manifest_that_is_here_is_not_asked_for(rig: Rig) -> None:
    """What the core does not know the store may."""
    manifest, _ = checkpoint(b"content")
    rig.manifests[manifest.digest] = manifest
    rig.fetch(manifest, known=False)
    assert rig.asked == [(B, WantChunks(digests(manifest)))]


def test_r28_a_peer_is_who_its_key_says(rig: Rig) -> None:
    """It answers for nobody else."""
    manifest, stored = checkpoint(b"content")
    rig.fetch(manifest, B, C)
    rig.hear(B, rig.job(), HaveChunks(digests(manifest), ()), stored, key=C)
    assert (rig.repairer.counters["refused"], rig.chunks) == (1, {})
    rig.hear(B, rig.job(), HaveChunks(digests(manifest), ()), stored, key=B)
    assert rig.ended == [Fetched]


def test_only_who_was_asked_answers(rig: Rig) -> None:
    """Another peer's word with the same number is nobody's answer."""
    manifest, stored = checkpoint(b"content")
    rig.fetch(manifest, B, C)
    rig.hear(C, rig.job(), HaveChunks(digests(manifest), ()), stored)
    assert not rig.events
    rig.hear(B, rig.job(), HaveChunks(digests(manifest), ()), stored)
    assert rig.ended == [Fetched]


def test_no_request_is_kept_in_mind_for_ever(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one that was answered, though it be with nothing; and not more than so many."""
    manifest, stored = checkpoint(b"one", b"two")
    rig.fetch(manifest)
    for digest, content in zip(digests(manifest), stored, strict=True):
        rig.hear(B, rig.job(), HaveChunks((digest,), ()), [content])
    assert rig.ended == [Fetched]
    other, _ = checkpoint(b"other", stream=StreamName("other"))
    rig.fetch(other)
    rig.hear(B, rig.job(), HaveChunks((), ()))
    assert not rig.repairer._asked
    monkeypatch.setattr(module, "ASKED_MAX", 2)
    for number in range(3):
        rig.fetch(checkpoint(b"%d" % number, stream=StreamName(str(number)))[0])
    assert list(rig.repairer._asked) == [rig.job(-2), rig.job(-1)]


def test_manifests_of_unanswered_fetches_are_few(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest ones: the next fetch of such a stream asks for the chunks at once. What the sources have
    said that they lack is asked for anew."""
    monkeypatch.setattr(module, "MANIFESTS_MAX", 1)
    made = [checkpoint(b"%d" % number, stream=StreamName(str(number)))[0] for number in range(3)]
    for manifest in made[:2]:
        rig.fetch(manifest)
        rig.fall_silent()
    rig.fetch(made[2])
    rig.hear(B, rig.job(), HaveChunks((), digests(made[2])))
    assert rig.ended == [FetchFailed] * 3
    rig.sent.clear()
    for manifest in made:
        rig.fetch(manifest, known=False)
    assert [type(message) for _, message in rig.asked] == [WantManifest, WantChunks, WantManifest]


def test_a_newer_checkpoint_has_its_own_manifest(rig: Rig) -> None:
    """That of the older one, whose fetch nobody has answered, is of no use."""
    older, _ = checkpoint(b"older")
    newer, _ = checkpoint(b"newer")
    rig.fetch(older)
    rig.fall_silent()
    rig.fetch(newer)
    assert rig.asked[-1] == (B, WantChunks(digests(newer)))


def test_r22_what_is_rotten_is_asked_for_though_it_is_there(rig: Rig) -> None:
    """Who verifies has read it: that there is something of that name does not count."""
    manifest, stored = checkpoint(b"content")
    rig.chunks[digests(manifest)[0]] = b"rot"
    rig.rotten.add(digests(manifest)[0])
    rig.fetch(manifest, verify=True)
    assert rig.asked == [(B, WantChunks(digests(manifest)))]
    rig.hear(B, rig.job(), HaveChunks(digests(manifest), ()), stored)
    assert rig.ended == [Fetched]
    assert list(rig.chunks.values()) == stored


@pytest.mark.parametrize("known", [True, False])
def test_a_late_no_is_no_answer_to_the_newer_fetch(rig: Rig, known: bool) -> None:
    """The source may have got it since: what it is asked anew it answers anew."""
    manifest, stored = checkpoint(b"content")
    absent = HaveChunks((), digests(manifest)) if known else HaveManifest(manifest.digest, None)
    rig.fetch(manifest, known=known)
    rig.fetch(manifest, known=known)
    assert len(rig.sent) == 2
    rig.hear(B, rig.job(0), absent)
    assert not rig.events
    if not known:
        rig.hear(B, rig.job(), HaveManifest(manifest.digest, manifest))
    rig.hear(B, rig.job(), HaveChunks(digests(manifest), ()), stored)
    assert rig.ended == [Fetched]


def test_who_gives_something_else_is_as_good_as_without_it(rig: Rig) -> None:
    """Another manifest, or bytes that are not the chunk's: the next source is asked at once."""
    manifest, _ = checkpoint(b"content")
    other, _ = checkpoint(b"other")
    rig.fetch(manifest, B, C, known=False)
    rig.hear(B, rig.job(), HaveManifest(other.digest, other))
    assert rig.asked[-1] == (C, WantManifest(ORDERS, manifest.digest))
    rig.hear(C, rig.job(), HaveManifest(manifest.digest, manifest))
    rig.fetch(manifest, C, B)
    rig.hear(C, rig.job(), HaveChunks(digests(manifest), ()), [b"something else"])
    assert rig.asked[-1:] == [(B, WantChunks(digests(manifest)))]
    assert not rig.chunks


def test_nobody_is_silent_while_his_answer_may_be_waiting(rig: Rig) -> None:
    """This node stood still, and so much has come meanwhile that one turn does not get through."""
    manifest, stored = checkpoint(b"content")
    rig.fetch(manifest)
    junk = encode_repair(Repair(1, "test", B, bytes(16), 1, HaveManifest(bytes(32), None)))
    rig.inbox.extend([(None, [memoryview(frame) for frame in junk])] * (MESSAGES_PER_TURN - 1))
    rig.now += 2 * PATIENCE_S
    rig.inbox.append(rig.inbox[0])
    rig.turn()
    rig.hear(B, rig.job(), HaveChunks(digests(manifest), ()), stored)
    assert (len(rig.sent), rig.ended) == (1, [Fetched])


def test_nobody_sleeps_while_there_may_be_credit_for_more(rig: Rig) -> None:
    """A turn asks for one request's worth of each fetch; the next comes at once, until there is no more."""
    manifest, _ = checkpoint(b"content")
    rig.fetch(manifest)
    rig.turn()
    rig.turn()
    assert [bool(timeout_s) for timeout_s in rig.timeouts[-2:]] == [False, True]


def test_a_request_is_answered_to_its_end_before_the_next(rig: Rig) -> None:
    """However many answers that takes: who asks counts on their order. The same manifest is given once."""
    contents = [noise(REPLY_BYTES_MAX, seed) for seed in range(3)]
    names = [digest_of(content) for content in contents]
    rig.chunks = dict(zip(names, contents, strict=True))
    manifest, _ = checkpoint(b"content")
    serving = rig.repairer._serving
    assert serving.add(B, 1, WantChunks(tuple(names[:2])))
    assert serving.add(B, 2, WantManifest(ORDERS, manifest.digest))
    assert serving.add(B, 3, WantManifest(ORDERS, manifest.digest))
    assert serving.add(B, 4, WantChunks((names[2],)))
    while serving.peers:
        serving.serve()
    assert [header.job for _, header in rig.sent] == [1, 1, 3, 4]
