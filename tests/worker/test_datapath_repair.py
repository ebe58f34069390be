"""Repair over real sockets: whatever is lacking is fetched by digest, from whoever has it (R18, R22)."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from replicator.codec.frames import HaveChunks, HaveManifest, Repair, encode_repair
from replicator.core.effects import CancelFetch
from replicator.core.events import Fetched, FetchFailed
from replicator.errors import CheckpointUnreadable
from replicator.model import Digest, Epoch, Manifest, NodeId, Payload, StreamName
from tests.worker.nodes import (
    LARGE_WINDOW,
    ORDERS,
    Node,
    bring,
    connect,
    fetch,
    make_settings,
    running,
    wait_until,
)
from tests.worker.payloads import noise, realistic

MIB = 2**20
N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")


def chunks_of(manifest: Manifest) -> list[Digest]:
    """The stored digests in order."""
    return [Digest(chunk.stored_digest) for part in manifest.parts for chunk in part.chunks]


def brought(node: Node, manifest: Manifest, content: bytes) -> None:
    """Accept what was fetched, and check that it is all there."""
    node.store.accept(manifest)
    assert node.restore(manifest).parts[""] == content


@pytest.mark.parametrize("known", [False, True], ids=["manifest too", "chunks only"])
def test_a_late_joiner_fetches_everything(known: bool) -> None:
    """A node that has heard nothing gets manifest and chunks, and can restore them."""
    content = realistic(8 * MIB)
    settings = make_settings(2)
    primary = Node(settings[0])
    manifest = primary.publish(content, epoch=3).manifest
    late = Node(settings[1])
    try:
        assert bring(late, manifest, N1, known=known).manifest == manifest
        brought(late, manifest, content)
        assert late.path.usage()["fetched_bytes"] == manifest.stored_bytes
        assert primary.path.usage()["served_bytes"] == manifest.stored_bytes
    finally:
        primary.close()
        late.close()


@pytest.mark.parametrize("payload", [b"", None], ids=["empty", "tombstone"])
def test_checkpoints_without_chunks_are_fetched(payload: bytes | None) -> None:
    """The manifest is all there is."""
    with running(2) as (primary, backup):
        manifest = primary.publish(payload).manifest
        assert bring(backup, manifest, N1).manifest == manifest


def test_many_small_chunks_are_fetched() -> None:
    """Parts of a few bytes come in bounded requests."""
    payload = Payload({str(number): noise(60, number) for number in range(1000)}, is_mapping=True)
    with running(2) as (primary, backup):
        manifest = primary.publish(payload).manifest
        backup.store.chunks.clear()
        bring(backup, manifest, N1)
        backup.store.accept(manifest)
        assert backup.restore(manifest).parts == payload.parts


def test_a_slow_subscriber_loses_messages_and_fetches_them() -> None:
    """Its disk takes nothing, its queue runs over, nobody waits for it, and it mends itself (R16)."""
    content = noise(48 * MIB)
    with running(2, publish_queue_messages=2) as (primary, slow):
        slow.store.gate.clear()
        primary.path.allow_publish(Epoch(2), LARGE_WINDOW)
        manifest = primary.publish(content, epoch=2).manifest
        slow.store.gate.set()
        connect(primary, slow)  # until the queue has emptied, new messages are lost as well
        lost = [digest for digest in chunks_of(manifest) if digest not in slow.store.chunks]
        assert lost
        bring(slow, manifest, N1)
        brought(slow, manifest, content)
        assert slow.path.usage()["fetched_bytes"] == len(lost) * 2**18


def test_fetched_chunks_are_stored_whatever_epoch_is_promised() -> None:
    """An old checkpoint that is adopted counts by its digests; the fence is checked when it is accepted."""
    with running(2) as (primary, claimant):
        manifest = primary.publish(noise(MIB), epoch=3).manifest
        claimant.store.chunks.clear()
        claimant.store.promised = 100
        bring(claimant, manifest, N1)
        brought(claimant, manifest, noise(MIB))


def test_rotten_chunks_are_found_and_replaced() -> None:
    """With verify, what is here is read too, and a rotten chunk takes a good one's place (R22)."""
    content = noise(3 * MIB)
    with running(2) as (primary, backup):
        manifest = primary.publish(content).manifest
        bring(backup, manifest, N1)
        rotten, gone = chunks_of(manifest)[3], chunks_of(manifest)[7]
        backup.store.rot(rotten)
        del backup.store.chunks[gone]
        with pytest.raises(CheckpointUnreadable):
            backup.restore(primary.store.heads[ORDERS])
        before = backup.path.usage()["fetched_bytes"]
        bring(backup, manifest, N1, verify=True)
        brought(backup, manifest, content)
        assert backup.path.usage()["fetched_bytes"] - before == 2 * 2**18


def test_rotten_chunks_are_never_served() -> None:
    """A source that finds its chunk rotten says that it has it not, and the next source is asked."""
    content = noise(3 * MIB)
    with running(3) as (primary, second, third):
        manifest = primary.publish(content).manifest
        for node in (second, third):
            bring(node, manifest, N1)
            node.store.accept(manifest)
        third.store.chunks.clear()
        primary.store.rot(chunks_of(manifest)[2])
        second.store.rot(chunks_of(manifest)[5])
        bring(third, manifest, N1, N2)
        brought(third, manifest, content)
        assert chunks_of(manifest)[2] not in primary.store.chunks


def test_a_chunk_that_nobody_has_fails_the_fetch() -> None:
    """The fetch ends, and says so; what did come stays."""
    with running(3) as (primary, second, third):
        manifest = primary.publish(noise(3 * MIB)).manifest
        bring(second, manifest, N1)
        third.store.chunks.clear()
        for node in (primary, second):
            del node.store.chunks[chunks_of(manifest)[2]]
        assert isinstance(fetch(third, manifest, N1, N2, known=True), FetchFailed)
        assert len(third.store.missing(chunk for part in manifest.parts for chunk in part.chunks)) == 1


def test_unknown_checkpoints_fail_at_once() -> None:
    """Sources that know no such manifest, and no sources at all."""
    with running(2) as (_, backup):
        manifest = replace(backup.publish(b"x").manifest, digest=bytes(32))
        assert isinstance(fetch(backup, manifest, N1), FetchFailed)
        assert isinstance(fetch(backup, manifest), FetchFailed)


def test_dead_and_silent_sources_are_passed_over() -> None:
    """One that cannot be reached costs nothing, one that is silent a bounded time."""
    content = noise(3 * MIB)
    with running(3) as (primary, second, third):
        manifest = primary.publish(content).manifest
        third.store.chunks.clear()
        second.close()
        bring(third, manifest, N2, N1)
        brought(third, manifest, content)
        third.store.chunks.clear()
        primary.close()
        assert isinstance(fetch(third, manifest, N2, N1, known=True), FetchFailed)


def test_a_restarted_source_is_asked_again() -> None:
    """A source that ends and comes back within the fetch's patience, or before the next fetch, serves it."""
    content = noise(3 * MIB)
    settings = make_settings(2)
    primary, backup = Node(settings[0]), Node(settings[1])
    try:
        manifest = primary.publish(content).manifest
        store = primary.store
        for _ in range(3):
            primary.close()
            primary = Node(settings[0], store=store)
            backup.store.chunks.clear()
            bring(backup, manifest, N1)
            brought(backup, manifest, content)
        connect(primary, backup)
    finally:
        primary.close()
        backup.close()


def test_a_newer_fetch_of_the_stream_replaces_the_older() -> None:
    """Only the newer one is answered; a cancelled one is answered not at all."""
    nobody = NodeId("n9")  # cannot be reached, so its fetch lasts
    with running(2) as (primary, backup):
        old = primary.publish(noise(3 * MIB), 1).manifest
        new = primary.publish(noise(3 * MIB, seed=2), 2).manifest
        backup.store.chunks.clear()
        backup.fetch(ORDERS, old.digest, nobody)
        backup.fetch(ORDERS, new.digest, N1)
        assert backup.wait_for(Fetched).manifest == new
        backup.fetch(ORDERS, old.digest, nobody)
        backup.path.cancel_fetch(CancelFetch(ORDERS))
        backup.fetch(StreamName("other"), old.digest, N1)
        backup.wait_for(FetchFailed, lambda event: event.stream == "other")
        assert len(backup.all(Fetched)) == len(backup.all(FetchFailed)) == 1


def test_several_streams_are_fetched_side_by_side() -> None:
    """Each stream has its own fetch; they take turns with the source's credit."""
    with running(2) as (primary, backup):
        names = [StreamName(f"stream {number}") for number in range(16)]
        manifests = [primary.publish(noise(MIB, n), stream=name).manifest for n, name in enumerate(names)]
        backup.store.chunks.clear()
        for name, manifest in zip(names, manifests, strict=True):
            backup.fetch(name, manifest.digest, N1)
        wait_until(lambda: len(backup.all(Fetched)) == 16, "all fetches")
        assert not backup.store.missing(c for m in manifests for part in m.parts for c in part.chunks)


def test_wrong_answers_count_as_none() -> None:
    """Another checkpoint's manifest, and chunks whose bytes are not theirs, are refused; others are asked."""
    content = noise(2 * MIB)
    settings = make_settings(3)
    primary, liar, asker = (Node(one) for one in settings)
    try:
        manifest = primary.publish(content).manifest
        other = liar.publish(noise(100), epoch=9).manifest
        asker.store.chunks.clear()
        repairer = liar.path._repairer
        assert repairer is not None
        serving = repairer._serving
        honest = serving.send

        def lie(node: NodeId, job: int, message: object, chunks: list[bytes] | None = None) -> bool:
            if isinstance(message, HaveManifest):
                message = HaveManifest(other.digest, other)
            if isinstance(message, HaveChunks):
                digests = tuple(chunks_of(manifest)[:4])
                message, chunks = HaveChunks(digests, ()), [noise(2**18, seed=9)] * 4
            return honest(node, job, message, chunks)  # type: ignore[arg-type]

        serving.send = lie  # type: ignore[method-assign]
        bring(asker, manifest, N2, N1)
        asker.store.chunks.clear()
        bring(asker, manifest, N2, N1, known=True)
        brought(asker, manifest, content)
        assert asker.path.usage()["dropped"] >= 4
    finally:
        for node in (primary, liar, asker):
            node.close()


def test_strange_repair_messages_are_dropped_and_counted() -> None:
    """Garbage, another cluster, another version, a node that is no peer (R28)."""
    with running(2) as (primary, backup):
        manifest = primary.publish(noise(MIB)).manifest
        bring(backup, manifest, N1)
        repairer = backup.path._repairer
        assert repairer is not None
        sockets = repairer._sockets
        header = Repair(1, "test", "n2", bytes(16), 1, HaveManifest(manifest.digest, None))
        messages = [
            [b"\xff" * 50],
            encode_repair(replace(header, version=2)),
            encode_repair(replace(header, cluster="other")),
            encode_repair(replace(header, node="n9")),
            encode_repair(replace(header, node="n1")),
        ]
        before = primary.path.usage()
        for message in messages:  # from the test's thread: the repairer sends nothing just now
            wait_until(lambda frames=message: sockets.send_frames(N1, frames), "a connection")  # type: ignore[misc]
        wait_until(
            lambda: (
                primary.path.usage()["dropped"] - before["dropped"] == 1
                and primary.path.usage()["refused"] - before["refused"] == 4
            ),
            "the counters",
        )


def test_serving_and_publishing_go_on_side_by_side() -> None:
    """While a node fetches, it is served in pieces, and new checkpoints arrive."""
    with running(3) as (primary, second, third):
        manifest = primary.publish(noise(24 * MIB)).manifest
        third.store.chunks.clear()
        third.fetch(ORDERS, manifest.digest, N1)
        for sequence in range(2, 12):
            published = primary.publish(b"%d" % sequence, sequence)
            second.received(published.manifest.digest)
            third.received(published.manifest.digest)
        third.wait_for(Fetched)
        assert third.store.read_chunk(chunks_of(manifest)[-1])


def test_answers_to_a_former_life_fit_no_job() -> None:
    """Jobs count from another number in every process."""
    with running(2) as (first, second):
        assert first.path._repairer is not None
        assert second.path._repairer is not None
        assert next(first.path._repairer._jobs) != next(second.path._repairer._jobs)
