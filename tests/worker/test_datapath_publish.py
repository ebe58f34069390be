"""Publication over real sockets: what is sent, what is stored, what the core is told (R12, R13, R16)."""

from __future__ import annotations

import random
import socket
from itertools import pairwise

import pytest
from msgspec.structs import replace

from replicator.adapters.zeromq import REPAIR, Transport
from replicator.codec.chunking import check_manifest
from replicator.codec.frames import PUBLICATION_BYTES_MAX, Publication, encode_publication
from replicator.core.events import ManifestReceived, Published, Seen, Sent
from replicator.errors import CheckpointUnreadable, TransportError
from replicator.model import (
    Buffer,
    Chunk,
    Digest,
    Epoch,
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
from tests.worker.nodes import ORDERS, Node, make_settings, publish_half, running, wait_until
from tests.worker.payloads import noise, realistic

MIB = 2**20


def as_bytes(payload: Payload) -> dict[str, bytes]:
    """The parts, comparable."""
    return {name: bytes(part) for name, part in payload.parts.items()}


def take(backup: Node, published: Published) -> Manifest:
    """Wait for a publication at a backup, and accept it there."""
    manifest = backup.received(published.manifest.digest).manifest
    wait_until(lambda: not backup.store.missing(chunks_of(manifest)), "all chunks")
    backup.store.accept(manifest)
    return manifest


def chunks_of(manifest: Manifest) -> list[Chunk]:
    """All chunks in order."""
    return [chunk for part in manifest.parts for chunk in part.chunks]


@pytest.mark.parametrize(
    "payload",
    [
        Payload({"": b""}, b"offset"),
        Payload({"": b"x"}),
        Payload({"": noise(3 * MIB + 17)}),
        Payload({"": realistic(3 * MIB + 17)}),
        Payload({}, is_mapping=True),
        Payload({"a": b"", "b": realistic(MIB), "": noise(300_000)}, b"m" * 4096, is_mapping=True),
        Payload({str(n): noise(40, n) for n in range(3000)}, is_mapping=True),
    ],
    ids=["empty", "one byte", "noise", "state", "no parts", "mapping", "many parts"],
)
def test_what_is_published_is_restored_everywhere(payload: Payload) -> None:
    """Of whatever shape: byte for byte, on the publisher and on a subscriber (I7)."""
    with running(2) as (primary, backup):
        published = primary.publish(payload, 7, epoch=3)
        check_manifest(published.manifest)
        manifest = take(backup, published)
        assert manifest == published.manifest
        assert (manifest.stream, manifest.epoch, manifest.sequence) == (ORDERS, 3, 7)
        for node in (primary, backup):
            restored = node.restore(manifest)
            assert as_bytes(restored) == as_bytes(payload)
            assert list(restored.parts) == list(payload.parts)
            assert (restored.meta, restored.is_mapping) == (payload.meta, payload.is_mapping)


def test_a_large_payload_keeps_its_bytes() -> None:
    """64 MiB through the pipeline, the sockets and the store."""
    content = realistic(64 * MIB)
    with running(2, publish_queue_messages=1000) as (primary, backup):
        manifest = take(backup, primary.publish(content))
        assert len(chunks_of(manifest)) == 256
        assert backup.restore(manifest).parts[""] == content


def test_small_checkpoints_are_one_message() -> None:
    """Manifest and chunks travel together; a message is never larger than its bound (R18)."""
    with running(2) as (primary, _):
        first = primary.publish(Payload({"a": noise(1000), "b": noise(2000)}, is_mapping=True), 1, epoch=2)
        assert first.publish_index == 1
        second = primary.publish(noise(PUBLICATION_BYTES_MAX), 2, epoch=2)
        assert second.publish_index == 2
        third = primary.publish(noise(PUBLICATION_BYTES_MAX + 1, seed=2), 3, epoch=2)
        assert third.publish_index == 4
        assert primary.publish(b"x", 1, epoch=3).publish_index == 1


def test_a_stream_has_chunks_of_its_own_size() -> None:
    """Whoever receives them need not know: the manifest says how long each is."""
    content = realistic(4 * MIB)
    with running(2, stream_chunk_bytes={"order*": 2**15}) as (primary, backup):
        manifest = take(backup, primary.publish(content, 1))
        assert [chunk.raw_bytes for chunk in chunks_of(manifest)] == [2**15] * 128
        assert backup.restore(manifest).parts[""] == content


def test_only_what_is_new_is_sent_and_stored() -> None:
    """An unchanged checkpoint sends no chunks, one changed chunk sends one; also after a restart."""
    content = bytearray(realistic(4 * MIB))
    with running(2) as (primary, backup):
        take(backup, primary.publish(bytes(content), 1))
        sent, puts = primary.path.usage()["sent_bytes"], len(backup.store.puts)
        take(backup, primary.publish(bytes(content), 2))
        assert primary.path.usage()["sent_bytes"] == sent
        assert len(backup.store.puts) == puts
        content[MIB] ^= 1
        changed = take(backup, primary.publish(bytes(content), 3))
        assert backup.store.puts[puts:] == [1]
        assert primary.path.usage()["sent_bytes"] == sent + chunks_of(changed)[4].stored_bytes
        assert backup.restore(changed).parts[""] == content


def test_chunks_that_are_not_stored_are_not_taken_for_known() -> None:
    """A chunk of the head that is gone here is sent and stored again."""
    content = noise(MIB)
    with running(2) as (primary, backup):
        first = primary.publish(content, 1)
        lost = Digest(chunks_of(first.manifest)[2].stored_digest)
        del primary.store.chunks[lost]
        take(backup, primary.publish(content, 2))
        assert lost in primary.store.chunks
        assert backup.store.puts[-1] == 1


def test_equal_chunks_are_sent_once() -> None:
    """However often a chunk occurs in a payload, it travels once."""
    block = realistic(2**18)
    with running(2) as (primary, backup):
        manifest = take(backup, primary.publish(block * 40))
        assert sum(backup.store.puts) == 1
        assert backup.restore(manifest).parts[""] == block * 40


def test_tombstones_are_published() -> None:
    """A deletion is a manifest without chunks; there is nothing to restore."""
    with running(2) as (primary, backup):
        primary.publish(b"state", 1)
        manifest = take(backup, primary.publish(None, 2))
        assert manifest.tombstone
        assert manifest.sequence == 2
        with pytest.raises(CheckpointUnreadable, match="deleted"):
            backup.restore(manifest)


def test_what_was_published_is_stored_before_it_is_told() -> None:
    """When the core hears of it, every chunk has been given to the store: it may ask to accept it."""
    with running(2) as (primary, _):
        for sequence in range(1, 6):
            published = primary.publish(noise(2 * MIB, sequence), sequence, accept=False)
            assert primary.store.missing(chunks_of(published.manifest)) == []


def test_publications_wait_until_they_are_allowed() -> None:
    """Nothing leaves beyond the index that the core has allowed; it goes on when more is allowed (R16)."""
    with running(2) as (primary, backup):
        epoch = Epoch(9)
        publish_half(primary, backup, epoch)
        assert not [event for event in primary.all(Published) if event.epoch == epoch]
        primary.path.allow_publish(epoch, 1)  # comes late, and takes nothing back
        primary.path.allow_publish(epoch, 4)
        published = primary.wait_for(Published, lambda event: event.epoch == epoch)
        assert published.publish_index == 4
        assert backup.received(published.manifest.digest).publish_index == 4


def test_a_first_window_is_allowed_by_itself() -> None:
    """Before the core has allowed anything in an epoch, as much as the window holds may leave."""
    with running(2, window_bytes_max=2 * MIB) as (primary, backup):
        primary.start(5, ORDERS, Epoch(9), Sequence(1), Payload({"": noise(4 * MIB)}))
        backup.wait_for(Seen, lambda event: event.epoch == 9 and event.publish_index == 2)
        assert not [event for event in primary.all(Published) if event.epoch == 9]


def test_a_window_of_large_chunks_is_no_larger() -> None:
    """What may leave is bounded in bytes, whatever the size of the chunks."""
    with running(2, chunk_bytes=4 * MIB, transaction_bytes_max=4 * MIB, window_bytes_max=8 * MIB) as (
        primary,
        backup,
    ):
        primary.start(5, ORDERS, Epoch(9), Sequence(1), Payload({"": noise(16 * MIB)}))
        backup.wait_for(Seen, lambda event: event.epoch == 9 and event.publish_index == 2)
        primary.wait_for(Sent)  # it has stood still for a while
        assert primary.path.usage()["sent_bytes"] == 8 * MIB


@pytest.mark.parametrize("by", ["allowance", "publication"])
def test_publications_of_an_older_epoch_are_abandoned(by: str) -> None:
    """One that waits ends without an event as soon as a newer epoch is heard of; the next one goes on."""
    with running(2) as (primary, _):
        primary.path.allow_publish(Epoch(8), 1)
        primary.start(5, ORDERS, Epoch(8), Sequence(1), Payload({"": noise(4 * MIB)}))
        primary.start(6, ORDERS, Epoch(8), Sequence(2), Payload({"": b"too late"}))
        if by == "allowance":
            primary.path.allow_publish(Epoch(9), 5)
        primary.start(7, ORDERS, Epoch(9), Sequence(3), Payload({"": b"new"}))
        published = primary.wait_for(Published, lambda event: event.epoch >= 8)
        assert (published.handle, published.publish_index) == (7, 1)


def test_subscribers_tell_what_they_have_seen() -> None:
    """With the manifests; what has none is told when nothing more comes, and not for every message."""
    with running(2, publish_queue_messages=1000) as (primary, backup):
        for sequence in range(1, 101):
            last = primary.publish(b"%d" % sequence, sequence, epoch=2)
        assert backup.received(last.manifest.digest).publish_index == last.publish_index
        told = [event.publish_index for event in backup.all(ManifestReceived) if event.epoch == 2]
        assert all(earlier < later for earlier, later in pairwise(told))
        assert not backup.all(Seen)
        primary.path.allow_publish(Epoch(3), 10)
        primary.start(5, ORDERS, Epoch(3), Sequence(101), Payload({"": noise(12 * MIB)}))
        backup.wait_for(Seen, lambda event: event.publish_index == 10)
        seen = [event.publish_index for event in backup.all(Seen)]
        assert all(earlier < later for earlier, later in pairwise(seen))
        assert all(event.node == "n1" for event in backup.all(Seen))


def test_fenced_chunks_are_not_stored_but_manifests_are_told() -> None:
    """The store drops chunks of an older epoch (R3); the core hears of the manifest, and refuses."""
    with running(2) as (primary, backup):
        backup.store.promised = 5
        published = primary.publish(noise(1000), epoch=4)
        assert backup.received(published.manifest.digest).epoch == 4
        assert backup.store.missing(chunks_of(published.manifest))


def test_a_node_without_peers_stores_and_never_waits() -> None:
    """Standalone: no sockets, no window; the same events."""
    store = MemoryStore(NodeId("local"), Incarnation(bytes(16)))
    node = Node(Settings(window_bytes_max=MIB), store=store)
    try:
        content = noise(20 * MIB)
        node.start(1, ORDERS, Epoch(1), Sequence(1), Payload({"": content}))
        published = node.wait_for(Published)
        store.accept(published.manifest)
        assert node.restore(published.manifest).parts[""] == content
        assert node.path.usage()["sent_bytes"] == 0
    finally:
        node.close()


def test_a_data_path_that_cannot_listen_leaves_nothing_behind() -> None:
    """If one of its ports is taken it says so, and the others are free again."""
    settings = make_settings(2)[0]
    host, port = settings.peers[settings.node]
    store = MemoryStore(settings.node, Incarnation(bytes(16)))
    transport = Transport(settings)
    with socket.create_server((host, port + REPAIR)), pytest.raises(TransportError, match=str(port + REPAIR)):
        DataPath(settings, store.incarnation, store, transport)
    transport.close()
    Node(settings, store=store).close()


def test_closing_ends_a_publication_that_waits() -> None:
    """A close does not wait for an allowance that never comes."""
    with running(2) as (primary, _):
        primary.path.allow_publish(Epoch(9), 1)
        primary.start(5, ORDERS, Epoch(9), Sequence(1), Payload({"": noise(4 * MIB)}))
        wait_until(lambda: primary.path.usage()["sent_bytes"] >= MIB, "the first message")
        primary.leave()
        primary.path.close()
        primary.path.close()
        assert not [event for event in primary.all(Published) if event.epoch == 9]


def test_payloads_are_let_go() -> None:
    """When a publication is told, the data path refers to its payload no longer (memory is bounded)."""
    with running(2) as (primary, _):
        part = bytearray(noise(MIB))
        primary.publish(Payload({"": part}), 1)
        wait_until(lambda: can_resize(part), "the end of all references")


def test_payloads_are_let_go_when_the_tenure_is_over() -> None:
    """Of one that waits to leave, and of those behind it, though no newer epoch may ever be heard of: a store
    that has failed stays so (R21). If there is one, its publications go out."""
    with running(2) as (primary, _):
        part = bytearray(noise(4 * MIB))
        primary.path.allow_publish(Epoch(8), 1)
        primary.start(5, ORDERS, Epoch(8), Sequence(1), Payload({"": part}))
        wait_until(lambda: primary.path.usage()["sent_bytes"] >= MIB, "the first message")
        primary.start(6, StreamName("s"), Epoch(8), Sequence(2), Payload({"": b"behind it"}))
        assert not can_resize(part)
        primary.path.abandon_publications()
        assert not primary.path._publisher._large
        assert not primary.path._publisher._small
        wait_until(lambda: can_resize(part), "the end of all references")
        primary.start(7, ORDERS, Epoch(9), Sequence(3), Payload({"": b"new"}))
        published = primary.wait_for(Published, lambda event: event.epoch >= 8)
        assert (published.handle, published.publish_index) == (7, 1)


def can_resize(part: bytearray) -> bool:
    """Whether nobody holds a view of the buffer."""
    try:
        part.append(0)
    except BufferError:
        return False
    return True


def test_strange_publications_are_dropped_and_counted() -> None:
    """Garbage, another cluster's, another version's and another node's messages change nothing (R28)."""
    with running(2) as (primary, backup):
        publishing = primary.path._publisher._socket  # the only socket at this node's port
        assert publishing is not None
        published = primary.publish(noise(1000))
        take(backup, published)
        chunk = chunks_of(published.manifest)[0]
        before, events = backup.path.usage(), len(backup.all(ManifestReceived))
        header = Publication(1, "test", "n1", bytes(16), 1, 1, "orders", 1, 1, (chunk,), None)

        def like(**changes: object) -> list[Buffer]:
            return encode_publication(replace(header, **changes), [noise(1000)])

        draw = random.Random(5)
        publishing.send([draw.randbytes(100)])
        publishing.send([b"", b"", b""])
        publishing.send(like(version=2))
        publishing.send(like(cluster="other"))
        publishing.send(like(node="n2"))
        publishing.send([like()[0], noise(1000, seed=2)])
        publishing.send([like()[0], noise(999)])
        last = primary.publish(b"still here", 2)
        take(backup, last)
        usage = backup.path.usage()
        assert usage["dropped"] - before["dropped"] == 4
        assert usage["refused"] - before["refused"] == 3
        assert len(backup.all(ManifestReceived)) == events + 1


def test_streams_of_all_names_are_carried() -> None:
    """A stream's name is any text up to its bound."""
    with running(2) as (primary, backup):
        for name in ("a", "tür/9", "x" * 255):
            published = primary.publish(b"state", stream=StreamName(name))
            assert backup.received(published.manifest.digest).manifest.stream == name


def test_a_small_checkpoint_is_published_in_the_call() -> None:
    """When nothing else is: no other thread is woken. Not while a large one is, nor without allowance."""
    with running(2, publish_queue_messages=1000) as (primary, backup):
        primary.publish(b"warm", 1)
        primary.start(7, ORDERS, Epoch(1), Sequence(2), Payload({"": b"small"}))
        published = primary.all(Published)[-1]
        assert published.handle == 7
        assert primary.path.usage()["sent_bytes"] > 0
        take(backup, published)
        large = Payload({"": noise(8 * MIB)})
        primary.start(8, ORDERS, Epoch(1), Sequence(3), large)
        primary.start(9, StreamName("s"), Epoch(1), Sequence(4), Payload({"": b"small again"}))
        primary.wait_for(Published, lambda event: event.handle == 8)
        primary.wait_for(Published, lambda event: event.handle == 9)
        primary.path.allow_publish(Epoch(2), 0)
        primary.start(10, ORDERS, Epoch(2), Sequence(5), Payload({"": b"waits"}))
        assert primary.all(Published)[-1].handle != 10
        primary.path.allow_publish(Epoch(2), 1)
        primary.wait_for(Published, lambda event: event.handle == 10)


def test_a_small_checkpoint_waits_for_no_store() -> None:
    """While the store's queue is full the call leaves it to the publisher's thread, which waits."""
    with running(2) as (primary, _):
        primary.store.gate.clear()
        primary.start(7, ORDERS, Epoch(1), Sequence(2), Payload({"": b"small"}))
        assert not [event for event in primary.all(Published) if event.handle == 7]
        primary.store.gate.set()
        primary.wait_for(Published, lambda event: event.handle == 7)


def test_a_small_checkpoint_that_did_not_change_sends_no_chunk() -> None:
    """What was published lately is known without a look at the disk."""
    with running(2) as (primary, backup):
        take(backup, primary.publish(b"content" * 1000, 1))
        sent = primary.path.usage()["sent_bytes"]
        take(backup, primary.publish(b"content" * 1000, 2))
        assert primary.path.usage()["sent_bytes"] == sent
