"""From a manifest and its chunks back to the payload, byte for byte (I7)."""

from __future__ import annotations

from collections.abc import Callable

from replicator.codec.compression import expand
from replicator.errors import CheckpointUnreadable, MessageError
from replicator.model import Buffer, Chunk, Digest, Manifest, Part, Payload

ReadChunk = Callable[[Digest], Buffer | None]


def assemble(manifest: Manifest, read_chunk: ReadChunk) -> Payload:
    """The payload of a checkpoint; each part is filled chunk by chunk, so no second copy ever exists.

    *read_chunk* gives a chunk's stored bytes by their digest, or None; what they expand to is verified here.
    Raises CheckpointUnreadable if a chunk is absent or damaged: never garbage, never shorter (R22).
    """
    if manifest.tombstone:
        raise CheckpointUnreadable(f"the stream is deleted: {_where(manifest)}")
    parts: dict[str, Buffer] = {}
    for part in manifest.parts:
        try:
            parts[part.name] = _assemble_part(part, read_chunk)
        except MessageError as error:
            raise CheckpointUnreadable(f"{error}: {_where(manifest)} part={part.name!r}") from error
    return Payload(parts, manifest.meta, manifest.is_mapping)


def _where(manifest: Manifest) -> str:
    return f"stream={manifest.stream} epoch={manifest.epoch} sequence={manifest.sequence}"


def _assemble_part(part: Part, read_chunk: ReadChunk) -> Buffer:
    if len(part.chunks) == 1:
        return _read(part.chunks[0], read_chunk)
    content = bytearray(sum(chunk.raw_bytes for chunk in part.chunks))
    position = 0
    for chunk in part.chunks:
        content[position : position + chunk.raw_bytes] = _read(chunk, read_chunk)
        position += chunk.raw_bytes
    return content


def _read(chunk: Chunk, read_chunk: ReadChunk) -> Buffer:
    stored = read_chunk(Digest(chunk.stored_digest))
    if stored is None:
        raise MessageError(f"chunk {chunk.stored_digest.hex()[:16]} is absent or damaged")
    return expand(chunk, stored)
