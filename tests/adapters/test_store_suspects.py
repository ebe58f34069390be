"""Rot that somebody comes upon who reads for a peer: which heads are told of, and which are not (R22)."""

from __future__ import annotations

from typing import Any

import pytest
from blake3 import blake3

from replicator.adapters import store_scrub
from replicator.adapters.store_record import manifest_key
from replicator.core.events import Accepted, Why
from replicator.model import Digest, Sequence, StreamName
from tests.adapters.store_kit import Stores, checkpoint
from tests.adapters.test_store_rot import spoil


def test_r22_who_comes_upon_rot_for_a_peer_has_it_told_of_every_head_at_once(stores: Stores) -> None:
    """A chunk is asked for by its digest alone; what is older than the head, or sound, concerns nobody."""
    opened = stores.open(keep=2)
    opened.promise(1)
    rotten = b"rotten" * 2000
    heads = [opened.accept("a", 1, rotten), opened.accept("b", 1, b"other" * 2000, rotten)]
    opened.accept("sound", 1, b"sound" * 2000)
    opened.accept("older", 1, rotten)
    opened.accept("older", 2, b"newer" * 2000)
    opened.settle()
    spoil(stores.path, rotten, b"R")
    assert opened.store.wait_for_rot(0, lambda: True) == []
    assert opened.store.read_chunk(Digest(blake3(rotten).digest())) is None
    found = opened.store.wait_for_rot(5, lambda: True)
    assert sorted(found) == [("a", heads[0].digest), ("b", heads[1].digest)]
    opened.store.read_chunk(Digest(blake3(b"nobody has it").digest()))
    assert opened.store.wait_for_rot(0, lambda: True) == []


def test_r22_who_comes_upon_a_rotten_manifest_has_it_told(stores: Stores) -> None:
    """It is asked for by its stream."""
    opened = stores.open()
    opened.promise(1)
    head = opened.accept("a", 1, b"a" * 2000)
    opened.accept("b", 1, b"b" * 2000)
    opened.settle()
    with opened.store._payload.reading() as view:
        sealed = view.get(manifest_key(StreamName("a"), Sequence(1)))
    assert sealed is not None
    spoil(stores.path, sealed, b"R")
    assert opened.store.read_manifest(StreamName("a"), Digest(head.digest)) is None
    assert opened.store.wait_for_rot(5, lambda: True) == [("a", head.digest)]


def test_r22_what_was_about_to_be_written_is_not_told_of(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads may be behind the writer: by the time that it is looked for, it is there."""
    opened = stores.open()
    opened.promise(1)
    manifest = opened.accept("a", 1, b"a" * 2000)
    digest = Digest(manifest.parts[0].chunks[0].stored_digest)
    with monkeypatch.context() as patch:
        patch.setattr(opened.store._reads, "chunk", lambda digest: None)
        assert opened.store.read_chunk(digest) is None
    looked: list[object] = []
    look = store_scrub.Scrubber._look

    def note(self: store_scrub.Scrubber, *names: Any) -> Any:
        looked.append(names)
        return look(self, *names)

    monkeypatch.setattr(store_scrub.Scrubber, "_look", note)
    assert opened.store.wait_for_rot(5, lambda: True) == []
    assert looked == [], "no head was read for it"


def test_r22_rot_that_is_come_upon_while_the_next_head_is_written_is_told_of_that_head(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts on the same chunk, which counted as stored when it was accepted."""
    opened = stores.open()
    opened.promise(1)
    same = b"same" * 2000
    opened.accept("s", 1, same)
    opened.settle()
    spoil(stores.path, same, b"R")
    payload = opened.store._payload
    commit = payload._commit

    def come_upon(*arguments: Any) -> None:
        monkeypatch.setattr(payload, "_commit", commit)
        assert opened.store.read_chunk(Digest(blake3(same).digest())) is None
        assert opened.store.wait_for_rot(0, lambda: True) == []
        commit(*arguments)

    monkeypatch.setattr(payload, "_commit", come_upon)
    head = opened.accept("s", 2, b"another" * 2000, same)
    assert opened.store.wait_for_rot(5, lambda: True) == [("s", head.digest)]


def test_r22_the_scrub_finds_what_rots_under_a_stream_that_goes_on(stores: Stores) -> None:
    """Each checkpoint names again what has not changed: that the one which the scrub reads has given way
    before it comes to the rot must not hide it, for it is so at every walk."""
    opened = stores.open()
    opened.promise(1)
    cold = b"cold" * 5000
    opened.accept("s", 1, b"1" * 20_000, cold)
    opened.settle()
    spoil(stores.path, cold, b"R")
    assert opened.store.scrub(10_000) == [], "it has read the first chunk"
    for sequence in range(2, 5):
        head, (new, _) = checkpoint("s", sequence, b"%d" % sequence * 20_000, cold)
        opened.put(head, [new], 1)
        assert isinstance(opened.ask(head, 1), Accepted)
        opened.mark(head)
    opened.settle()
    assert opened.store.scrub(10_000) == [], "what has given way concerns nobody"
    assert opened.store.wait_for_rot(5, lambda: True) == [("s", head.digest)]


def test_r22_the_scrub_reads_of_a_stream_what_it_has_when_its_turn_comes(stores: Stores) -> None:
    """A walk may take an hour: what there was when it began is long gone."""
    opened = stores.open(keep=0)
    opened.promise(1)
    for stream in "as":
        opened.mark(opened.accept(stream, 1, stream.encode() * 20_000))
    assert opened.store.scrub(10_000) == [], "it has read the first stream"
    for sequence in range(2, 4):
        head = opened.accept("s", sequence, b"%d" % sequence * 20_000)
        opened.mark(head)
    opened.settle()
    spoil(stores.path, b"3" * 20_000, b"R")
    assert opened.store.scrub(10_000_000) == [("s", head.digest)]


def test_r22_what_is_mended_while_the_others_are_looked_at_is_not_told_of(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many streams the first was looked at long ago: told of late, it would count as damaged again."""
    opened = stores.open()
    opened.promise(1)
    rotten = b"rotten" * 2000
    manifest, chunks = checkpoint("a", 1, rotten)
    opened.accept("a", 1, rotten)
    opened.accept("b", 1, b"b" * 2000)
    opened.settle()
    spoil(stores.path, rotten, b"R")
    assert opened.store.read_chunk(Digest(blake3(rotten).digest())) is None
    look = store_scrub.Scrubber._look

    def mend(self: store_scrub.Scrubber, stream: StreamName, *names: Any) -> Any:
        if stream == "b":
            opened.put(manifest, chunks, 1)
            assert opened.refusal(manifest, 1) is Why.STALE
        return look(self, stream, *names)

    monkeypatch.setattr(store_scrub.Scrubber, "_look", mend)
    assert opened.store.wait_for_rot(5, lambda: True) == []
    assert opened.is_readable(manifest)
