"""The data path on the real store: publish, lose, fetch, accept, restore, and again after a restart."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from replicator.adapters.store import LmdbStore
from replicator.core.effects import Accept, WritePromise
from replicator.core.events import Accepted, Event, PromiseWritten, Published
from replicator.core.state import head_of
from replicator.errors import CheckpointUnreadable
from replicator.model import (
    Digest,
    Epoch,
    Incarnation,
    NodeId,
    Owner,
    Payload,
    Process,
    Promise,
    Sequence,
    StreamName,
)
from replicator.settings import Settings
from tests.worker.memory_store import MemoryStore
from tests.worker.nodes import ORDERS, Node, bring, make_settings, wait_until
from tests.worker.payloads import noise, realistic

EPOCH = Epoch(3)
MIB = 2**20


def open_node(settings: Settings, path: Path) -> tuple[Node, LmdbStore, list[Event]]:
    """A node on a store of its own, and what the store has delivered."""
    store = LmdbStore.open(path / settings.node, cluster=settings.cluster, node=settings.node)
    node = Node(settings, store=store)
    done: list[Event] = []
    store.start(done.append)
    return node, store, done


def perform(store: LmdbStore, done: list[Event], effect: WritePromise | Accept) -> Event:
    """Have the store do something, and wait for its answer."""
    count = len(done)
    store.perform(effect)
    wait_until(lambda: len(done) > count, "the store's answer")
    return done[-1]


def test_a_checkpoint_survives_loss_and_restart(tmp_path: Path) -> None:
    """Accepted at the publisher, fetched and accepted at a backup, restored from both after a restart; not
    a chunk more is read than is wanted."""
    settings = make_settings(2)
    content = realistic(5 * MIB + 3)
    nodes = [open_node(each, tmp_path) for each in settings]
    try:
        (primary, store, done), (backup, backup_store, backup_done) = nodes
        owner = Owner("n1", store.durable().incarnation, Process(bytes(16)))
        for each, answers in ((store, done), (backup_store, backup_done)):
            assert isinstance(perform(each, answers, WritePromise(Promise(EPOCH, owner))), PromiseWritten)
        primary.start(7, ORDERS, EPOCH, Sequence(1), Payload({"": content}, b"offset"))
        manifest = primary.wait_for(Published).manifest
        assert isinstance(perform(store, done, Accept(manifest, EPOCH)), Accepted)
        bring(backup, manifest, primary.name)
        assert isinstance(perform(backup_store, backup_done, Accept(manifest, EPOCH)), Accepted)
    finally:
        for node, opened, _ in nodes:
            node.close()
            opened.close()
    for mine in settings:
        node, again, _ = open_node(mine, tmp_path)
        payload = node.restore(manifest)
        with pytest.raises(CheckpointUnreadable, match="nobody wants it any more"):
            node.restore(manifest, partial(next, iter([True, True]), False))
        node.close()
        again.close()
        assert (payload.parts[""], payload.meta) == (content, b"offset")


def test_r22_a_small_checkpoint_that_has_rotted_is_left_to_be_restored_by_itself() -> None:
    """What many are restored from at once is not verified as stored, but as what it expands to; of the one
    that does not fit nothing is given, and when it is restored by itself its rot is found out."""
    store = MemoryStore(NodeId("local"), Incarnation(bytes(16)))
    node = Node(Settings(), store=store)
    try:
        manifests = [
            node.publish(content, sequence, stream=StreamName(f"s{sequence}")).manifest
            for sequence, content in enumerate(
                (realistic(2000), noise(2000), realistic(3000), noise(100_000)), 1
            )
        ]
        for rotten in manifests[:2]:
            digest = Digest(rotten.parts[0].chunks[0].stored_digest)
            store.chunks[digest] = bytes(len(store.chunks[digest]))
        found = node.path.restore_small([head_of(manifest, Epoch(1)) for manifest in manifests])
        assert {stream: payload.parts[""] for stream, payload in found.items()} == {"s3": realistic(3000)}
        for rotten in manifests[:2]:
            with pytest.raises(CheckpointUnreadable):
                node.restore(rotten)
            assert store.missing(rotten.parts[0].chunks) == [*rotten.parts[0].chunks]
    finally:
        node.close()
