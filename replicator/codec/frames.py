"""Messages as ZeroMQ frames, and back: a MessagePack header, and each chunk in a raw frame of its own.

Three kinds travel, each on sockets of its own: envelopes (control, one frame), publications (PUB/SUB) and
repair messages (have and want chunks). Whatever bytes come in, decoding gives a message within its bounds
or raises MessageError, whose texts are few and fixed, so that they can be counted and logged (R28).
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from typing import Annotated, TypeVar

import msgpack
import msgspec
from msgspec import Meta, Struct

from replicator.codec.chunking import check_chunk, check_manifest
from replicator.core.messages import PROTOCOL_VERSION, Envelope
from replicator.errors import UNREADABLE, MessageError
from replicator.model import Buffer, Chunk, Count, DigestBytes, IdBytes, Manifest, Name

ENVELOPE_BYTES_MAX = 2**20 + 2**16
HEADER_BYTES_MAX = 8 * 2**20  # a manifest of CHUNKS_MAX chunks and PARTS_MAX names fits
PUBLICATION_BYTES_MAX = 2**20  # chunks are added to a publication while their sum stays within it
CHUNKS_PER_PUBLICATION = 1024
CHUNKS_PER_REQUEST = 16
REQUEST_BYTES_MAX = 2**20
REPLY_BYTES_MAX = 2**18
PREFIX_BYTES = 64  # enough of a frame to read its first field

_Version = Annotated[int, Meta(ge=0, le=255)]
_Digests = Annotated[tuple[DigestBytes, ...], Meta(max_length=CHUNKS_PER_REQUEST)]
_Chunks = Annotated[tuple[Chunk, ...], Meta(max_length=CHUNKS_PER_PUBLICATION)]


class Publication(Struct, frozen=True, array_like=True):
    """The header of one PUB message; a frame for each of *chunks* follows, in their order.

    *publish_index* counts the messages of an epoch from 1, so that a hole is noticed (R18). The manifest
    rides on the last message of its checkpoint; a small checkpoint is one message.
    """

    version: _Version
    cluster: Name
    node: Name
    incarnation: IdBytes
    epoch: Count
    publish_index: Count
    stream: Name
    generation: Count
    sequence: Count
    chunks: _Chunks
    manifest: Manifest | None


class WantManifest(Struct, frozen=True, array_like=True, tag=True):
    """Send me the manifest of that digest."""

    stream: Name
    digest: DigestBytes


class HaveManifest(Struct, frozen=True, array_like=True, tag=True):
    """The manifest asked for, or None: not (or no longer) here."""

    digest: DigestBytes
    manifest: Manifest | None


class WantChunks(Struct, frozen=True, array_like=True, tag=True):
    """Send me the chunks of these stored digests."""

    digests: _Digests


class HaveChunks(Struct, frozen=True, array_like=True, tag=True):
    """Chunks asked for: a frame for each of *present* follows; *absent* ones are not readable here.

    A request is answered by one or more of these, so that a slow link shows progress.
    """

    present: _Digests
    absent: _Digests


RepairMessage = WantManifest | HaveManifest | WantChunks | HaveChunks


class Repair(Struct, frozen=True, array_like=True):
    """What wraps every repair message; *job* is the asker's number, given back in the answer."""

    version: _Version
    cluster: Name
    node: Name
    incarnation: IdBytes
    job: Count
    message: RepairMessage


_encode = msgspec.msgpack.Encoder().encode
_envelopes = msgspec.msgpack.Decoder(Envelope)
_publications = msgspec.msgpack.Decoder(Publication)
_repairs = msgspec.msgpack.Decoder(Repair)
_FOREIGN = (msgpack.UnpackException, ValueError, TypeError, RecursionError)

_Header = TypeVar("_Header", Envelope, Publication, Repair)


def encode_envelope(envelope: Envelope) -> bytes:
    """One frame."""
    return _encode(envelope)


def decode_envelope(frame: Buffer) -> Envelope:
    """The control message of a frame; raises MessageError for any other bytes."""
    return _decode(_envelopes, frame, ENVELOPE_BYTES_MAX)


def encode_publication(header: Publication, chunks: Ordered[Buffer]) -> list[Buffer]:
    """The header's frame, then the chunks as they are; nothing is copied."""
    return [_encode(header), *chunks]


def decode_publication(frames: Ordered[Buffer]) -> tuple[Publication, Ordered[Buffer]]:
    """The header and the chunks' frames.

    Their lengths are those announced and the manifest, if there is one, is sound and of this very
    checkpoint; the chunks' digests are not checked yet. Raises MessageError for anything else.
    """
    header, chunks = _decode(_publications, _first(frames), HEADER_BYTES_MAX), frames[1:]
    if len(chunks) != len(header.chunks):
        raise MessageError("number of frames is wrong")
    for chunk, frame in zip(header.chunks, chunks, strict=True):
        check_chunk(chunk)
        if len(frame) != chunk.stored_bytes:
            raise MessageError("stored length is wrong")
    manifest = header.manifest
    if manifest is not None:
        check_manifest(manifest)
        named = (manifest.stream, manifest.generation, manifest.epoch, manifest.sequence)
        if named != (header.stream, header.generation, header.epoch, header.sequence):
            raise MessageError("manifest is of another checkpoint")
    return header, chunks


def encode_repair(header: Repair, chunks: Ordered[Buffer] = ()) -> list[Buffer]:
    """The header's frame, then the chunks as they are; nothing is copied."""
    return [_encode(header), *chunks]


def decode_repair(frames: Ordered[Buffer]) -> tuple[Repair, Ordered[Buffer]]:
    """The header and the chunks' frames, one for each chunk present.

    A manifest is sound and has the digest asked for; chunks are not checked. Raises MessageError.
    """
    header, chunks = _decode(_repairs, _first(frames), HEADER_BYTES_MAX), frames[1:]
    message = header.message
    if len(chunks) != (len(message.present) if isinstance(message, HaveChunks) else 0):
        raise MessageError("number of frames is wrong")
    if isinstance(message, HaveManifest) and message.manifest is not None:
        check_manifest(message.manifest)
        if message.manifest.digest != message.digest:
            raise MessageError("manifest is of another checkpoint")
    return header, chunks


def _first(frames: Ordered[Buffer]) -> Buffer:
    if not frames:
        raise MessageError("number of frames is wrong")
    return frames[0]


def _decode(decoder: msgspec.msgpack.Decoder[_Header], frame: Buffer, bytes_max: int) -> _Header:
    if len(frame) > bytes_max:
        raise MessageError("header is too large")
    try:
        return decoder.decode(frame)
    except UNREADABLE as error:
        raise MessageError(_what_is_wrong(frame)) from error


def _what_is_wrong(frame: Buffer) -> str:
    """Another version may have another layout: say so rather than that its bytes make no sense.

    Only the first field is read, which is the version in every header of every version; typed decoding
    needs the whole layout, msgpack's streaming reader does not.
    """
    reader = msgpack.Unpacker(max_buffer_size=PREFIX_BYTES)
    reader.feed(bytes(frame[:PREFIX_BYTES]))
    try:
        reader.read_array_header()
        version = reader.unpack()
    except _FOREIGN:
        version = PROTOCOL_VERSION
    if isinstance(version, int) and version != PROTOCOL_VERSION:
        return f"protocol version is not {PROTOCOL_VERSION}"
    return "header is malformed"
