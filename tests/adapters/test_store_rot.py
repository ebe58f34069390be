"""Rot in a running store: it is never given out, and good bytes take its place (R6, R22)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lmdb
import pytest
from blake3 import blake3
from msgspec import structs

from replicator.adapters import store_scrub, store_writer
from replicator.adapters.store_payload import Payload
from replicator.adapters.store_record import Readable, chunk_key, manifest_key, read_chunk
from replicator.core.effects import Accept
from replicator.core.events import Accepted, AcceptRefused, StoreRoom, Why
from replicator.core.state import head_of
from replicator.model import Digest, Epoch, Part, Sequence, StreamName
from tests.adapters.store_kit import Opened, Stores, checkpoint


def spoil(path: Path, stored: bytes, by: bytes) -> None:
    """Overwrite bytes in the payload's file, as a rotting disk would."""
    with (path / "payload" / "data.mdb").open("r+b") as file:
        at = file.read().rindex(stored)
        file.seek(at)
        file.write(by)


def test_r22_a_rotten_chunk_is_never_given_out(stores: Stores) -> None:
    """It reads as absent, and its checkpoint is found by the scrub."""
    opened = stores.open()
    opened.promise(1)
    sound = opened.accept("a", 1, b"sound" * 2000)
    rotten = opened.accept("b", 1, b"rotten" * 2000, b"second" * 2000)
    opened.settle()
    spoil(stores.path, b"rotten" * 2000, b"R")
    assert opened.is_readable(sound)
    assert not opened.is_readable(rotten)
    assert opened.store.scrub(2**30) == [("b", rotten.digest)]


def test_r22_a_head_is_stale_or_fenced_only_while_it_is_whole(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rotten chunk came back while the disk had no room for it: the head is not mended, and says so."""
    opened = stores.open()
    opened.promise(1)
    pieces = [b"rotten" * 2000, b"second" * 2000]
    head, chunks = checkpoint("s", 1, *pieces)
    opened.accept("s", 1, *pieces)
    opened.settle()
    spoil(stores.path, pieces[0], b"R")
    opened.store.discard_chunk(Digest(chunks[0][0].stored_digest))
    for epoch in (0, 1):
        assert opened.refusal(head, epoch) is Why.INCOMPLETE
    monkeypatch.setattr(store_writer, "IDLE_S", 0.02)
    with monkeypatch.context() as patch:
        patch.setattr(Payload, "has_room", lambda self, needed: False)
        opened.put(head, chunks[:1], 1)
        opened.perform(Accept(head, Epoch(1)))
        assert opened.next() == StoreRoom(True)
        assert opened.next() == AcceptRefused(head, Epoch(1), Why.FULL)
    assert opened.next() == StoreRoom(False)
    opened.put(head, chunks[:1], 1)
    assert [opened.refusal(head, epoch) for epoch in (0, 1)] == [Why.FENCED, Why.STALE]
    assert opened.is_readable(head)


def test_r22_small_checkpoints_are_read_at_once(stores: Stores) -> None:
    """Those within the bound, as they are stored, for what they expand to is held against its digest; none
    that is not here any longer, or whose manifest has rotted."""
    opened = stores.open()
    opened.promise(1)
    whole = opened.accept("whole", 1, b"one", b"two")
    others = [
        opened.accept("large", 1, bytes(range(99))),
        opened.accept("rotten", 1, b"one", b"rotten" * 12),
        checkpoint("replaced", 1)[0],
        opened.accept("nameless", 7, b"one"),
    ]
    opened.accept("replaced", 1, b"by another")
    opened.settle()
    spoil(stores.path, b"rotten" * 12, b"R")
    spoil_manifest(opened, 7, "nameless")
    heads = [head_of(manifest, Epoch(1)) for manifest in (*others, whole)]
    found = {
        manifest.stream: [
            read(Digest(chunk.stored_digest)) for part in manifest.parts for chunk in part.chunks
        ]
        for manifest, read in opened.store.read_small(heads, 80)
    }
    assert found == {"whole": [b"one", b"two"], "rotten": [b"one", b"R" + (b"rotten" * 12)[1:]]}


def test_r22_a_discarded_chunk_is_replaced(stores: Stores) -> None:
    """It counts as missing at once; the one that comes instead is written, and the head is whole again."""
    opened = stores.open()
    opened.promise(1)
    manifest, chunks = checkpoint("s", 1, b"rotten" * 2000, b"second" * 2000)
    opened.put(manifest, chunks, 1)
    assert isinstance(opened.ask(manifest, 1), Accepted)
    opened.settle()
    spoil(stores.path, b"rotten" * 2000, b"R")
    chunk = chunks[0][0]
    opened.store.discard_chunk(Digest(chunk.stored_digest))
    assert opened.store.missing([c for c, _ in chunks]) == [chunk]
    opened.barrier()
    assert opened.store.missing([c for c, _ in chunks]) == [chunk]
    opened.promise(2)
    assert opened.refusal(manifest, 2) is Why.INCOMPLETE, "a damaged head is not adopted"
    opened.put(manifest, chunks[:1], 2)
    assert isinstance(opened.ask(manifest, 2), Accepted)
    assert opened.is_readable(manifest)
    assert opened.store.scrub(2**30) == []


def test_r22_a_chunk_that_nobody_finds_any_more_is_replaced(stores: Stores) -> None:
    """What rots may be its name: no checkpoint is accepted that names it, until it has come again (I5)."""
    opened = stores.open()
    opened.promise(1)
    same = b"same" * 2000
    first = opened.accept("s", 1, same, b"one")
    opened.settle()
    name = chunk_key(Digest(blake3(same).digest()))
    spoil(stores.path, name, name[:-1] + bytes([name[-1] ^ 1]))
    assert opened.store.scrub(2**30) == [("s", first.digest)]
    manifest, chunks = checkpoint("s", 2, same, b"two")
    opened.put(manifest, chunks[1:], 1)
    assert opened.refusal(manifest, 1) is Why.INCOMPLETE
    assert opened.store.missing([chunk for chunk, _ in chunks]) == [chunks[0][0]]
    opened.put(manifest, chunks, 1)
    assert isinstance(opened.ask(manifest, 1), Accepted)
    assert opened.is_readable(manifest)
    assert opened.is_readable(first)


def test_r22_the_scrub_reads_what_is_older_than_the_head_too(stores: Stores) -> None:
    """It is what an operator falls back to."""
    opened = stores.open(keep=2)
    opened.promise(1)
    older = opened.accept("s", 1, b"older" * 2000)
    opened.accept("s", 2, b"newer" * 2000)
    opened.settle()
    spoil(stores.path, b"older" * 2000, b"R")
    assert opened.store.scrub(2**30) == [("s", older.digest)]


def test_r22_a_sound_chunk_is_not_discarded(stores: Stores) -> None:
    """Whoever found rot may have read what has been replaced since."""
    opened = stores.open()
    opened.promise(1)
    manifest = opened.accept("s", 1)
    opened.store.discard_chunk(Digest(manifest.parts[0].chunks[0].stored_digest))
    opened.barrier()
    assert opened.is_readable(manifest)
    assert opened.store.missing(manifest.parts[0].chunks) == []


def test_r6_a_head_without_all_its_chunks_is_reported_unreadable(stores: Stores) -> None:
    """A replica says that its head is damaged; it does not say that it has none."""
    opened = stores.open()
    opened.promise(1)
    manifest = opened.accept("s", 1, b"rotten" * 2000)
    opened.settle()
    spoil(stores.path, b"rotten" * 2000, b"R")
    opened.store.discard_chunk(Digest(manifest.parts[0].chunks[0].stored_digest))
    opened = stores.reopen()
    (head,) = opened.durable.heads
    assert (head.digest, head.readable) == (manifest.digest, False)
    assert opened.store.missing(manifest.parts[0].chunks) == list(manifest.parts[0].chunks)


def test_r22_the_scrub_goes_on_where_it_stopped(stores: Stores) -> None:
    """A budget bounds each step; all steps together see everything, again and again."""
    opened = stores.open()
    opened.promise(1)
    manifests = [opened.accept(stream, 1, stream.encode() * 5000) for stream in "abcdef"]
    opened.settle()
    for manifest in manifests:
        spoil(stores.path, manifest.stream.encode() * 5000, b"R")
    for _ in range(2):
        steps = [opened.store.scrub(10_000) for _ in range(4)]
        assert [len(step) for step in steps] == [2, 2, 2, 0]
        assert {found for step in steps for found in step} == {(m.stream, m.digest) for m in manifests}


def test_r22_a_scrub_that_is_broken_off_goes_on_where_it_stopped(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked before each manifest and each chunk whether it is wanted still; what it has read by then is
    neither lost nor read again."""
    opened = stores.open()
    opened.promise(1)
    manifests = [opened.accept(stream, 1, stream.encode() * 5000, b"shared" * 1000) for stream in "abcdef"]
    opened.settle()
    for manifest in manifests:
        spoil(stores.path, manifest.stream.encode() * 5000, b"R")
    read: list[str] = []
    for name in ("read_manifest", "read_chunk"):
        monkeypatch.setattr(store_scrub, name, noting(read, name))
    answers = iter([True] * 7 + [False])
    read_before: list[int] = []

    def is_wanted() -> bool:
        read_before.append(len(read))
        return next(answers, True)

    assert opened.store.scrub(2**30, is_wanted) == [(m.stream, m.digest) for m in manifests[:3]]
    assert read_before == [*range(8)]
    assert opened.store.scrub(2**30, is_wanted) == [(m.stream, m.digest) for m in manifests[3:]]
    assert (read.count("read_manifest"), read.count("read_chunk")) == (6, 7)
    assert read_before == [*range(8), *range(7, 14)]


def noting(read: list[str], name: str) -> Any:
    """What the scrub reads with, noted in *read*."""
    function = getattr(store_scrub, name)

    def noted(*arguments: Any) -> Any:
        read.append(name)
        return function(*arguments)

    return noted


def test_r22_the_scrub_goes_on_behind_a_page_that_lmdb_cannot_read(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a page hides what it holds, and nothing of what lies behind it."""
    opened = stores.open()
    opened.promise(1)
    hidden, rotten = [opened.accept(stream, 1, stream.encode() * 5000) for stream in "ab"]
    opened.settle()
    spoil(stores.path, b"b" * 5000, b"R")

    def read(view: Readable, digest: Digest) -> bytes | None:
        if digest == hidden.parts[0].chunks[0].stored_digest:
            error = lmdb.CorruptedError("mdb_get")
            error.code = -30796  # type: ignore[misc]
            raise error
        return read_chunk(view, digest)

    discarded: list[Digest] = []
    monkeypatch.setattr(store_scrub, "read_chunk", read)
    monkeypatch.setattr(opened.store._scrubber, "_discard", discarded.append)
    for _ in range(2):
        assert opened.store.scrub(2**30) == [("b", rotten.digest)]
    assert set(discarded) == {rotten.parts[0].chunks[0].stored_digest}, "the writer cannot read it either"


def test_r22_what_is_being_written_is_not_rotten(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scrub between the decision to store a checkpoint, or to drop one, and its writing finds nothing."""
    opened = stores.open()
    opened.promise(1)
    opened.accept("s", 1)
    payload, found = opened.store._payload, []
    commit = payload._commit

    def scrubbed(*arguments: Any) -> None:
        found.append(opened.store.scrub(2**30))
        commit(*arguments)
        found.append(opened.store.scrub(2**30))

    monkeypatch.setattr(payload, "_commit", scrubbed)
    for sequence in range(2, 6):
        opened.mark(opened.accept("s", sequence))
    opened.settle()
    assert len(found) >= 8
    assert not any(found)


@pytest.mark.parametrize("how", ["scrub", "read_chunk"])
def test_r22_what_is_found_rotten_is_stored_again_by_the_next_that_brings_it(
    stores: Stores, how: str
) -> None:
    """A node alone can fetch it from nobody, but its engine hands the same bytes in with each checkpoint."""
    opened = stores.open()
    opened.promise(1)
    same = b"rotten" * 2000
    first = opened.accept("s", 1, same, b"one")
    opened.settle()
    spoil(stores.path, same, b"R")
    if how == "scrub":
        assert opened.store.scrub(2**30) == [("s", first.digest)]
    else:
        assert opened.store.read_chunk(Digest(blake3(same).digest())) is None
    manifest, chunks = checkpoint("s", 2, same, b"two")
    assert chunks[0][0] in opened.store.missing([chunk for chunk, _ in chunks])
    opened.put(manifest, chunks, 1)
    assert isinstance(opened.ask(manifest, 1), Accepted)
    assert opened.is_readable(manifest)
    assert opened.is_readable(first)


def test_r22_a_rotten_manifest_is_written_again_when_its_head_is_fetched(stores: Stores) -> None:
    """All chunks are here, so the store says that it has the head: it has its manifest again, too."""
    opened = stores.open()
    opened.promise(1)
    head = opened.accept("s", 1, os.urandom(1000))
    opened.settle()
    spoil_manifest(opened, 1)
    assert opened.store.read_manifest(StreamName("s")) is None
    assert opened.refusal(head, 1) is Why.STALE
    assert opened.is_readable(head)
    assert opened.store.scrub(2**30) == []
    reopened = stores.reopen()
    assert reopened.is_readable(head)
    assert reopened.store.missing(head.parts[0].chunks) == []


@pytest.mark.parametrize("tombstone", [True, False])
def test_r22_a_rotten_manifest_without_chunks_is_written_again_too(stores: Stores, tombstone: bool) -> None:
    """An empty payload may have a source offset beside it, and the next start reads every manifest."""
    opened = stores.open()
    opened.promise(1)
    head, _ = checkpoint("s", 1, tombstone=True)
    head = structs.replace(head, tombstone=tombstone, meta=b"offset 7")
    assert isinstance(opened.ask(head, 1), Accepted)
    opened.settle()
    spoil_manifest(opened, 1)
    assert opened.store.scrub(2**30) == [("s", head.digest)]
    assert opened.refusal(head, 1) is Why.STALE
    assert opened.store.scrub(2**30) == []
    assert stores.reopen().is_readable(head)


def test_r22_a_rotten_manifest_is_no_reason_to_refuse_what_takes_its_place(stores: Stores) -> None:
    """Neither a newer checkpoint nor the stream's deletion needs to know what it named."""
    opened = stores.open(keep=0)
    opened.promise(1)
    opened.accept("s", 1, os.urandom(1000))
    opened.settle()
    spoil_manifest(opened, 1)
    opened.mark(opened.accept("s", 2))
    opened.mark(opened.accept("s", 3))
    assert opened.store.usage()["checkpoints"] == 2, "the first is gone"
    assert stores.reopen(keep=0).durable.heads[0].sequence == 3


def spoil_manifest(opened: Opened, sequence: int, stream: str = "s") -> None:
    """Overwrite a byte of a manifest's record."""
    with opened.store._payload.reading() as view:
        sealed = view.get(manifest_key(StreamName(stream), Sequence(sequence)))
    assert sealed is not None
    spoil(opened.path, sealed, bytes([sealed[0] ^ 1]))


def test_r22_a_rotten_head_is_replaced_by_one_that_is_compressed_in_another_way(stores: Stores) -> None:
    """It is known by the bytes that the engine gave: another replica may have stored them otherwise."""
    opened = stores.open()
    opened.promise(1)
    rotten = opened.accept("s", 1, b"rotten" * 2000)
    opened.settle()
    spoil(stores.path, b"rotten" * 2000, b"R")
    assert not opened.is_readable(rotten)
    other, chunks = checkpoint("s", 1, b"another" * 2000)
    other = structs.replace(rotten, parts=(Part("", (chunks[0][0],)),))
    opened.put(other, chunks, 1)
    assert opened.refusal(other, 1) is Why.STALE
    opened.barrier()
    assert opened.is_readable(other)
    assert opened.store.head_bytes(StreamName("s")) == other.stored_bytes
    assert opened.store.scrub(2**30) == []
    assert stores.reopen().is_readable(other)
