"""Frames: every message comes back as it went, and any other bytes give one error type (R28)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st
from msgspec.structs import replace

from replicator.codec.chunking import digest_of, seal
from replicator.codec.compression import compress
from replicator.codec.frames import (
    ENVELOPE_BYTES_MAX,
    HEADER_BYTES_MAX,
    HaveChunks,
    HaveManifest,
    Publication,
    Repair,
    RepairMessage,
    WantChunks,
    WantManifest,
    decode_envelope,
    decode_publication,
    decode_repair,
    encode_envelope,
    encode_publication,
    encode_repair,
)
from replicator.core.messages import Claim, Echo, Envelope, HeartbeatAnswer, Message, Raft
from replicator.errors import MessageError
from replicator.model import Epoch, Generation, Part, Sequence, StreamName

ID = bytes(range(16))
PACKED = [compress(memoryview(raw), digest_of(raw)) for raw in (b"state" * 99, b"noise!")]
CHUNKS = tuple(chunk for chunk, _ in PACKED)
STORED = [stored for _, stored in PACKED]
MANIFEST = seal(StreamName("orders"), Generation(1), Epoch(3), Sequence(7), (Part("", CHUNKS),))
PUBLICATION = Publication(1, "test", "n1", ID, 3, 12, "orders", 1, 7, CHUNKS, MANIFEST)
DIGESTS = tuple(chunk.stored_digest for chunk in CHUNKS)
REPAIRS: list[tuple[RepairMessage, list[bytes]]] = [
    (WantManifest("orders", MANIFEST.digest), []),
    (HaveManifest(MANIFEST.digest, MANIFEST), []),
    (HaveManifest(MANIFEST.digest, None), []),
    (WantChunks(DIGESTS), []),
    (HaveChunks(DIGESTS, (bytes(32),)), STORED),
]


def envelope(message: Message) -> Envelope:
    """A message as it travels."""
    return Envelope(1, "test", "n1", ID, ID, 5, 4, message)


SAMPLES: list[tuple[Callable[[Any], object], list[bytes]]] = [
    (lambda frames: decode_envelope(frames[0]), [encode_envelope(envelope(Claim(3, 9)))]),
    (
        lambda frames: decode_envelope(frames[0]),
        [encode_envelope(envelope(HeartbeatAnswer(3, 9, True, Echo(ID, 1.5), False, True)))],
    ),
    (decode_publication, [bytes(frame) for frame in encode_publication(PUBLICATION, STORED)]),
    *(
        (
            decode_repair,
            [bytes(frame) for frame in encode_repair(Repair(1, "test", "n1", ID, 4, message), chunks)],
        )
        for message, chunks in REPAIRS
    ),
]


def test_envelopes_come_back() -> None:
    """What is encoded is what is decoded."""
    sent = envelope(Raft(b"vote"))
    assert decode_envelope(encode_envelope(sent)) == sent


def test_publications_come_back() -> None:
    """The header, its manifest and the chunks' frames, uncopied."""
    frames = encode_publication(PUBLICATION, STORED)
    assert frames[1] is STORED[0]
    assert decode_publication(frames) == (PUBLICATION, STORED)


@pytest.mark.parametrize(("message", "chunks"), REPAIRS)
def test_repair_messages_come_back(message: RepairMessage, chunks: list[bytes]) -> None:
    """Wants and haves, with and without what is asked for."""
    sent = Repair(1, "test", "n1", ID, 4, message)
    header, frames = decode_repair(encode_repair(sent, chunks))
    assert (header, list(frames)) == (sent, chunks)


@given(sample=st.sampled_from(SAMPLES), data=st.data())
def test_changed_bytes_give_a_message_or_one_error(
    sample: tuple[Callable[[Any], object], list[bytes]], data: st.DataObject
) -> None:
    """Flipped, cut, lengthened and exchanged frames never raise anything but MessageError."""
    decode, frames = sample
    frames = list(frames)
    number = data.draw(st.integers(0, len(frames) - 1))
    frame = bytearray(frames[number])
    match data.draw(st.sampled_from(["flip", "cut", "add", "random", "drop", "repeat"])):
        case "flip" if frame:
            position = data.draw(st.integers(0, len(frame) - 1))
            frame[position] ^= 1 << data.draw(st.integers(0, 7))
        case "cut":
            del frame[data.draw(st.integers(0, len(frame))) :]
        case "add":
            frame += data.draw(st.binary(min_size=1, max_size=20))
        case "random":
            frame[:] = data.draw(st.binary(max_size=200))
        case "drop":
            del frames[number]
        case _:
            frames.append(frames[number])
    frames[number : number + 1] = [bytes(frame)]
    with suppress(MessageError):
        decode(frames)


@given(st.lists(st.binary(max_size=300), max_size=4))
def test_random_bytes_give_one_error(frames: list[bytes]) -> None:
    """Bytes from anywhere are no message of ours."""
    for decode in (decode_publication, decode_repair):
        with pytest.raises(MessageError):
            decode(frames)
    if frames:
        with pytest.raises(MessageError):
            decode_envelope(frames[0])


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x91" * 200_000,
        b"\x98\x01\xa4test\xa2n1\xc4\x10" + ID + b"\xc4\x10" + ID + b"\x05\x04" + b"\x91" * 200_000,
        b"\xdd\xff\xff\xff\xff",
        b"\x98\x01\xdb\xff\xff\xff\xff",
        b"\x98\x01\xa4\xff\xff\xff\xff",
        b"\x80" * ENVELOPE_BYTES_MAX,
        b"\xc7\x05\x01hello",
        msgspec.msgpack.encode([1, "x" * 256, "n1", ID, ID, 0, 0, ["Claim", 1, 1]]),
        msgspec.msgpack.encode([1, "test", "n1", ID, ID, 0, 0, ["Claim", -1, 1]]),
        msgspec.msgpack.encode([1, "test", "n1", ID, ID, 0, 0, ["Claim", 2**63, 1]]),
        msgspec.msgpack.encode([1, "test", "n1", ID, ID, 0, 0, ["Nonsense", 1, 1]]),
        msgspec.msgpack.encode([1, "test", "n1", ID, ID, 0, 0, ["Raft", bytes(262_145)]]),
    ],
    ids=[
        "nothing",
        "depth",
        "depth within",
        "claimed array",
        "claimed string",
        "no UTF-8",
        "ten million maps",
        "extension",
        "long name",
        "negative",
        "huge number",
        "unknown type",
        "oversized field",
    ],
)
def test_hostile_headers_are_refused(frame: bytes) -> None:
    """Nesting, claimed sizes, wrong types, and values out of bounds are refused before they cost anything."""
    with pytest.raises(MessageError):
        decode_envelope(frame)


def test_oversized_frames_are_refused_unread() -> None:
    """Length is looked at first."""
    with pytest.raises(MessageError, match="too large"):
        decode_envelope(bytes(ENVELOPE_BYTES_MAX + 1))
    with pytest.raises(MessageError, match="too large"):
        decode_publication([bytes(HEADER_BYTES_MAX + 1)])


def test_another_version_is_named_as_the_reason() -> None:
    """Both sides can log what is wrong even if the layout after the version is another one."""
    with pytest.raises(MessageError, match="protocol version is not 1"):
        decode_envelope(msgspec.msgpack.encode([2, {"everything": "else"}]))


@pytest.mark.parametrize(
    "header",
    [
        replace(PUBLICATION, chunks=CHUNKS[:1]),
        replace(PUBLICATION, chunks=CHUNKS[::-1]),
        replace(PUBLICATION, sequence=8),
        replace(PUBLICATION, epoch=4),
        replace(PUBLICATION, manifest=replace(MANIFEST, meta=b"forged")),
        replace(PUBLICATION, chunks=(CHUNKS[0], replace(CHUNKS[1], raw_bytes=2**31))),
    ],
    ids=["a frame more", "other lengths", "other sequence", "other epoch", "forged manifest", "lying length"],
)
def test_publications_that_do_not_fit_together_are_refused(header: Publication) -> None:
    """Frames, lengths and manifest must be those of the header."""
    with pytest.raises(MessageError):
        decode_publication(encode_publication(header, STORED))


def test_answers_that_do_not_fit_are_refused() -> None:
    """A manifest of another digest, and more or fewer frames than chunks."""
    other = HaveManifest(bytes(32), MANIFEST)
    for message, chunks in (
        (other, []),
        (HaveChunks(DIGESTS, ()), STORED[:1]),
        (WantChunks(DIGESTS), STORED),
    ):
        with pytest.raises(MessageError):
            decode_repair(encode_repair(Repair(1, "test", "n1", ID, 4, message), chunks))
