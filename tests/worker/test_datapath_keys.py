"""The data path with keys: nobody without a listed key gets anything (R28)."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import zmq
from msgspec.structs import replace

from replicator.adapters.curve import PEER_KEYS_NAME, Keys, generate_keys, load_keys
from replicator.adapters.zeromq import PUBLISH
from replicator.core.events import Fetched, FetchFailed, ManifestReceived
from replicator.model import NodeId
from tests.worker.nodes import ORDERS, Node, connect, make_settings, running, wait_until
from tests.worker.payloads import noise

N1, N2, N3 = names = [NodeId("n1"), NodeId("n2"), NodeId("n3")]
MIB = 2**20


def all_keys(directory: Path) -> list[Keys]:
    """Fresh keys of three nodes."""
    generate_keys(names, directory)
    loaded = [load_keys(directory / f"{name}.secret", directory / PEER_KEYS_NAME, name) for name in names]
    return [keys for keys in loaded if keys]


def test_publications_and_repair_work_with_keys(tmp_path: Path) -> None:
    """The same as without, encrypted and authenticated."""
    content = noise(3 * MIB)
    with running(2, [replace(keys) for keys in all_keys(tmp_path)[:2]]) as (primary, backup):
        manifest = backup.received(primary.publish(content).manifest.digest).manifest
        backup.store.accept(manifest)
        assert backup.restore(manifest).parts[""] == content
        backup.store.chunks.clear()
        backup.fetch(ORDERS, manifest.digest, N1, manifest=manifest)
        backup.wait_for(Fetched)
        assert backup.restore(manifest).parts[""] == content


def test_a_stranger_gets_nothing(tmp_path: Path) -> None:
    """A node whose key nobody has listed hears no publication and is served nothing."""
    keys = all_keys(tmp_path / "a")
    own = all_keys(tmp_path / "b")[2]
    stranger_keys = replace(own, allowed={**keys[0].allowed, N3: own.public})
    settings = make_settings(3)
    primary, backup = Node(settings[0], keys[0]), Node(settings[1], keys[1])
    stranger = Node(settings[2], stranger_keys)
    try:
        connect(primary, backup)
        manifest = primary.publish(noise(1000)).manifest
        backup.received(manifest.digest)
        stranger.fetch(ORDERS, manifest.digest, N1, N2, manifest=manifest)
        stranger.wait_for(FetchFailed)
        assert not stranger.all(ManifestReceived)
        assert not stranger.store.chunks
        assert primary.transport is not None
        gate = primary.transport._gate
        assert gate is not None
        wait_until(lambda: gate.refused, "a refusal")
    finally:
        for node in (primary, backup, stranger):
            node.close()


@pytest.mark.parametrize("kind", ["no keys", "unlisted key"])
def test_a_bare_subscriber_gets_nothing(tmp_path: Path, kind: str) -> None:
    """Connecting a SUB to the publish port is not enough to read what is published."""
    keys = all_keys(tmp_path)
    context = zmq.Context()
    thief = context.socket(zmq.SUB)
    thief.linger = 0
    thief.subscribe(b"")
    if kind == "unlisted key":
        public, secret = zmq.curve_keypair()
        thief.curve_publickey, thief.curve_secretkey = public, secret
        thief.curve_serverkey = keys[0].public.encode()
    with running(2, keys[:2]) as (primary, backup):
        host, port = primary.settings.peers[N1]
        thief.connect(f"tcp://{host}:{port + PUBLISH}")
        deadline = time.monotonic() + 0.3  # a connection takes a few milliseconds
        sequence = 0
        while time.monotonic() < deadline:
            sequence += 1
            last = primary.publish(noise(1000, sequence), sequence)
            backup.received(last.manifest.digest)
            assert not thief.poll(5)
    thief.close()
    context.term()
