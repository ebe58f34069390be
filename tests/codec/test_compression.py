"""Compression and assembly: what is stored is small, what is restored is what was given, or an error."""

from __future__ import annotations

import tracemalloc

import lz4.block
import pytest
from hypothesis import given, strategies as st
from msgspec.structs import replace

from replicator.codec.assembly import assemble
from replicator.codec.chunking import digest_of, seal, split
from replicator.codec.compression import compress, expand, verify
from replicator.errors import CheckpointUnreadable, MessageError
from replicator.model import Chunk, Codec, Digest, Epoch, Generation, Manifest, Part, Sequence, StreamName
from tests.worker.payloads import noise, realistic


def pack(raw: bytes | bytearray) -> tuple[Chunk, bytes]:
    """The chunk of some bytes, and its stored bytes."""
    return compress(memoryview(raw), digest_of(raw))


@given(st.binary(min_size=1, max_size=2000), st.integers(1, 50))
def test_expanding_gives_the_raw_bytes(unit: bytes, repeats: int) -> None:
    """Every chunk expands to the bytes it was made of, and passes its own checks."""
    raw = unit * repeats
    chunk, stored = pack(raw)
    verify(chunk, stored)
    assert expand(chunk, stored) == raw
    assert chunk.stored_bytes == len(stored) <= chunk.raw_bytes == len(raw)


def test_state_is_compressed_and_noise_is_kept() -> None:
    """LZ4 where it gains something, raw bytes where it does not."""
    assert pack(realistic(2**18))[0].codec is Codec.LZ4
    chunk, stored = pack(noise(2**18))
    assert (chunk.codec, stored) == (Codec.NONE, noise(2**18))


def test_stored_bytes_do_not_follow_the_engine_s_buffer() -> None:
    """What waits for disks and subscribers stays as it was hashed when the engine uses its buffer again."""
    raw = bytearray(noise(1000))
    chunk, stored = pack(raw)
    raw[:] = bytes(1000)
    verify(chunk, stored)


@pytest.mark.parametrize("size", [1, 100, 2**18])
def test_damaged_chunks_are_refused(size: int) -> None:
    """A flipped bit, a lost byte and an added one are all noticed."""
    for raw in (noise(size), realistic(size)):
        chunk, stored = pack(raw)
        flipped = bytes([stored[0] ^ 1]) + stored[1:]
        for damaged in (flipped, stored[:-1], stored + b"\0", b""):
            with pytest.raises(MessageError):
                verify(chunk, damaged)
            with pytest.raises(MessageError):
                expand(chunk, damaged)


def lying(raw: bytes, stored: bytes, **changes: object) -> Chunk:
    """A chunk whose stored bytes are right and that lies about the rest."""
    honest = Chunk(digest_of(raw), len(raw), digest_of(stored), len(stored), Codec.LZ4)
    return replace(honest, **changes)


def test_lying_lengths_are_refused() -> None:
    """More or fewer raw bytes than announced, and other ones, are refused."""
    raw = realistic(1000)
    stored = lz4.block.compress(raw, store_size=False)
    for changes in ({"raw_bytes": 999}, {"raw_bytes": 1001}, {"raw_digest": bytes(32)}, {"raw_bytes": 2**32}):
        with pytest.raises(MessageError):
            expand(lying(raw, stored, **changes), stored)
    with pytest.raises(MessageError):
        expand(lying(raw, noise(500)), noise(500))


def test_a_bomb_takes_no_more_memory_than_it_announces() -> None:
    """A small block of endless zeros is expanded only up to the announced length, and refused."""
    bomb = lz4.block.compress(bytes(2**26), store_size=False)
    chunk = lying(bytes(2**20), bomb)
    tracemalloc.start()
    try:
        with pytest.raises(MessageError):
            expand(chunk, bomb)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def manifest_of(parts: dict[str, bytes], stored: dict[Digest, bytes]) -> Manifest:
    """The manifest of a mapping; its chunks go to *stored*."""
    packed: list[Part] = []
    for name, raw in parts.items():
        chunks = [compress(view, digest_of(view)) for view in split(raw, 256)]
        stored.update({Digest(chunk.stored_digest): content for chunk, content in chunks})
        packed.append(Part(name, tuple(chunk for chunk, _ in chunks)))
    position = (StreamName("orders"), Generation(1), Epoch(3), Sequence(7))
    return seal(*position, tuple(packed), meta=b"offset", is_mapping=True)


def test_assembly_gives_the_payload_back() -> None:
    """All parts byte for byte, empty ones too, with the meta."""
    stored: dict[Digest, bytes] = {}
    parts = {"a": realistic(1000), "": noise(700), "empty": b""}
    payload = assemble(manifest_of(parts, stored), stored.get)
    assert (payload.parts, payload.meta, payload.is_mapping) == (parts, b"offset", True)


def test_assembly_never_gives_garbage() -> None:
    """With a chunk absent, damaged, or another one in its place, it raises and names the checkpoint."""
    stored: dict[Digest, bytes] = {}
    manifest = manifest_of({"a": realistic(1000)}, stored)
    for digest, content in stored.items():
        for wrong in (None, content[:-1], bytes(len(content))):
            spoiled: dict[Digest, bytes | None] = {**stored, digest: wrong}
            with pytest.raises(CheckpointUnreadable, match="stream=orders epoch=3 sequence=7"):
                assemble(manifest, spoiled.get)
    with pytest.raises(CheckpointUnreadable, match="deleted"):
        assemble(seal(StreamName("s"), Generation(1), Epoch(1), Sequence(1), (), tombstone=True), stored.get)
