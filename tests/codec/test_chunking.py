"""Chunks and manifests: what names a checkpoint, and which manifests are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from blake3 import blake3
from msgspec.structs import replace

from replicator.codec.chunking import (
    CHUNK_BYTES_MAX,
    check_manifest,
    digest_of,
    manifest_digest,
    seal,
    split,
)
from replicator.codec.compression import compress
from replicator.errors import MessageError
from replicator.model import Chunk, Codec, Epoch, Generation, Manifest, Part, Sequence, StreamName

ORDERS = StreamName("orders")


def pack(raw: bytes) -> Chunk:
    """The chunk of some bytes."""
    return compress(memoryview(raw), digest_of(raw))[0]


def sealed(*parts: Part, is_mapping: bool = True, meta: bytes = b"", tombstone: bool = False) -> Manifest:
    """A manifest at (3, 7)."""
    return seal(
        ORDERS,
        Generation(1),
        Epoch(3),
        Sequence(7),
        parts,
        meta=meta,
        is_mapping=is_mapping,
        tombstone=tombstone,
    )


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 1024])
def test_splitting_keeps_every_byte_and_copies_none(size: int) -> None:
    """The chunks are views of the buffer, in order, all but the last one full, none empty."""
    content = bytearray(range(256)) * 4
    part = memoryview(content)[:size]
    views = list(split(part, 256))
    assert b"".join(views) == bytes(part)
    assert all(len(view) == 256 for view in views[:-1])
    assert all(len(view) > 0 and view.obj is content for view in views)


def test_parts_may_hold_items_wider_than_a_byte() -> None:
    """Any contiguous buffer is a part: its bytes count, not its items."""
    wide: Any = memoryview(bytes(range(64))).cast("d")
    assert [len(view) for view in split(wide, 48)] == [48, 16]
    assert list(split(wide[:0], 48)) == []


def test_digests_are_blake3() -> None:
    """Chunks are named by BLAKE3, 32 bytes, whatever buffer holds them."""
    assert digest_of(memoryview(b"abc")) == blake3(b"abc").digest()


@pytest.mark.parametrize(
    "manifest",
    [
        sealed(Part("", ()), is_mapping=False),
        sealed(Part("", (pack(b"x"),)), is_mapping=False, meta=b"offset"),
        sealed(),
        sealed(Part("a", ()), Part("", (pack(b"x" * 999),))),
        sealed(is_mapping=False, tombstone=True),
    ],
    ids=["empty", "plain", "empty mapping", "mapping", "tombstone"],
)
def test_sealed_manifests_are_sound(manifest: Manifest) -> None:
    """Nothing, plain bytes, a mapping without parts or with empty ones, and a tombstone are valid."""
    check_manifest(manifest)


@pytest.mark.parametrize(
    "change",
    [
        {"stream": "other"},
        {"generation": 2},
        {"epoch": 4},
        {"sequence": 8},
        {"meta": b"y"},
        {"is_mapping": False},
        {"parts": (Part("b", (pack(b"x"),)),)},
        {"parts": (Part("a", (pack(b"y"),)),)},
        {"parts": (Part("a", (pack(b"x"), pack(b"x"))),)},
        {"digest": bytes(32)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_identity_covers_everything_said(change: dict[str, object]) -> None:
    """Changing anything that a checkpoint says changes its digest, so a forged manifest is refused."""
    manifest = sealed(Part("a", (pack(b"x"),)))
    forged = replace(manifest, **change)
    assert (manifest_digest(forged) == manifest.digest) == ("digest" in change)
    with pytest.raises(MessageError):
        check_manifest(forged)


def test_identity_does_not_depend_on_compression() -> None:
    """The same bytes stored in another way are the same checkpoint."""
    raw = b"state" * 1000
    packed = pack(raw)
    plain = Chunk(packed.raw_digest, len(raw), packed.raw_digest, len(raw), Codec.NONE)
    assert packed.codec is Codec.LZ4
    assert sealed(Part("a", (packed,))).digest == sealed(Part("a", (plain,))).digest


def lie(**changes: object) -> Callable[[], Manifest]:
    """A manifest sealed over a chunk that cannot be."""
    return lambda: sealed(Part("a", (replace(pack(b"state" * 1000), **changes),)))


@pytest.mark.parametrize(
    "make",
    [
        lie(raw_bytes=0),
        lie(raw_bytes=CHUNK_BYTES_MAX + 1),
        lie(stored_bytes=0),
        lie(stored_bytes=5001),
        lie(codec=Codec.NONE),
        lambda: sealed(Part("a", ()), Part("a", ())),
        lambda: sealed(Part("a", ()), is_mapping=False),
        lambda: sealed(is_mapping=False),
        lambda: sealed(Part("", ()), is_mapping=False, tombstone=True),
        lambda: sealed(Part("a", (replace(pack(b"state" * 9999), raw_bytes=CHUNK_BYTES_MAX),) * 1025)),
        lambda: sealed(Part("a", (pack(b"x"),) * 65_000), Part("b", (pack(b"x"),) * 1000)),
    ],
    ids=[
        "no raw bytes",
        "too many raw bytes",
        "no stored bytes",
        "longer than raw",
        "two lengths",
        "a name twice",
        "named plain payload",
        "no part",
        "tombstone with parts",
        "payload too large",
        "too many chunks",
    ],
)
def test_impossible_manifests_are_refused(make: Callable[[], Manifest]) -> None:
    """A right digest does not help: what `seal` could not have made from a payload is refused."""
    with pytest.raises(MessageError):
        check_manifest(make())
