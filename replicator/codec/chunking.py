"""Checkpoints as content: payloads cut into chunks, chunks and manifests named by BLAKE3 digests.

A checkpoint's identity is the digest over what it says and over its raw chunk digests, so it does not
depend on how its chunks are compressed. `seal` gives a manifest its digest; `check_manifest` is held
against every manifest that comes from outside, before anything is allocated or fetched for it (R28).
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from blake3 import blake3

from replicator.errors import MessageError
from replicator.model import (
    CHUNKS_MAX,
    DIGEST_BYTES,
    Buffer,
    Chunk,
    Codec,
    Digest,
    Epoch,
    Generation,
    Manifest,
    Part,
    Sequence,
    StreamName,
)

CHUNK_BYTES_MAX = 16 * 2**20
PAYLOAD_BYTES_MAX = 16 * 2**30

_IDENTITY_VERSION = 1
_UNSEALED = Digest(bytes(DIGEST_BYTES))
_encode = msgspec.msgpack.Encoder().encode


def digest_of(content: Buffer) -> Digest:
    """The BLAKE3 digest, 32 bytes; releases the interpreter's lock while it works."""
    return Digest(blake3(content).digest())


def split(part: Buffer, chunk_bytes: int) -> Iterator[memoryview]:
    """Views of *chunk_bytes* bytes each, the last one shorter; none of an empty part. Nothing is copied."""
    view = memoryview(part)
    if view.nbytes:
        view = view.cast("B")
    for start in range(0, view.nbytes, chunk_bytes):
        yield view[start : start + chunk_bytes]


def manifest_digest(manifest: Manifest) -> Digest:
    """The identity of the checkpoint, whatever *manifest.digest* says.

    Over stream, generation, position, meta, kind, part names, and the raw digests and lengths of the
    chunks in their order; how they are stored is no part of it.
    """
    identity = (
        _IDENTITY_VERSION,
        manifest.stream,
        manifest.generation,
        manifest.epoch,
        manifest.sequence,
        manifest.meta,
        manifest.is_mapping,
        manifest.tombstone,
        [
            (part.name, [(chunk.raw_digest, chunk.raw_bytes) for chunk in part.chunks])
            for part in manifest.parts
        ],
    )
    return digest_of(_encode(identity))


def seal(
    stream: StreamName,
    generation: Generation,
    epoch: Epoch,
    sequence: Sequence,
    parts: tuple[Part, ...],
    *,
    meta: bytes = b"",
    is_mapping: bool = False,
    tombstone: bool = False,
) -> Manifest:
    """The manifest of a checkpoint, with its digest."""
    draft = Manifest(stream, generation, epoch, sequence, parts, meta, is_mapping, tombstone, _UNSEALED)
    return msgspec.structs.replace(draft, digest=manifest_digest(draft))


def check_manifest(manifest: Manifest) -> None:
    """Raise MessageError unless the manifest is one that `seal` could have made."""
    if manifest.tombstone and (manifest.parts or manifest.is_mapping):
        raise MessageError("tombstone has parts")
    names = [part.name for part in manifest.parts]
    if not (manifest.is_mapping or manifest.tombstone) and names != [""]:
        raise MessageError("plain payload is not one unnamed part")
    if len(set(names)) != len(names):
        raise MessageError("part name is used twice")
    if sum(len(part.chunks) for part in manifest.parts) > CHUNKS_MAX:
        raise MessageError("manifest has too many chunks")
    for part in manifest.parts:
        for chunk in part.chunks:
            check_chunk(chunk)
    if manifest.raw_bytes > PAYLOAD_BYTES_MAX:
        raise MessageError("payload is too large")
    if manifest_digest(manifest) != manifest.digest:
        raise MessageError("manifest digest is wrong")


def check_chunk(chunk: Chunk) -> None:
    """Raise MessageError unless the lengths and digests fit each other and the bound of a chunk."""
    if not 0 < chunk.raw_bytes <= CHUNK_BYTES_MAX:
        raise MessageError("chunk length is out of bounds")
    same = chunk.raw_bytes == chunk.stored_bytes and chunk.raw_digest == chunk.stored_digest
    if chunk.codec is Codec.NONE and not same:
        raise MessageError("uncompressed chunk has two lengths or digests")
    if chunk.codec is not Codec.NONE and not 0 < chunk.stored_bytes < chunk.raw_bytes:
        raise MessageError("compressed chunk is not shorter")
