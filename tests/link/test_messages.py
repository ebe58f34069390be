"""The link's messages: what is encoded is decoded, and nothing else is."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, strategies as st
from msgspec import MsgspecError
from msgspec.msgpack import Decoder, encode

from replicator.errors import UNREADABLE
from replicator.link import messages as link
from replicator.model import Payload, Position

TO_WORKER: list[link.ToWorker] = [
    link.Ready(True),
    link.Submit(1, "s", 2, 3, b"meta", ("a", ""), True),
    link.Delete(1, "s", 2, 3),
    link.Resign(1),
    link.Resign(1, "edge-2"),
    link.Follow(False),
    link.StandbyTaken("s", Position(1, 4)),
    link.AskStatus(1),
    link.Close(),
]
TO_ENGINE: list[link.ToEngine] = [
    link.Started("edge-1"),
    link.Failed("StoreInUse", "process 7"),
    link.Restored(1, "s", Position(1, 2), b"", ("",), False),
    link.RestoredSmall(((link.Restored(1, "s", Position(1, 2), b"", ("",), False), (b"state",)),)),
    link.RestoredUnavailable(1, "s", Position(1, 2), "rotten"),
    link.RestoredDeleted(1, "s", Position(1, 2)),
    link.TenureStarted(1, 700, True, {"granted": 1.5}),
    link.TenureEnded(1, "deposed"),
    link.Stored(1),
    link.Committed(1, Position(1, 2), ("a", "b"), {"store": 0.1}),
    link.HeldByAll(1, ("a", "b", "c")),
    link.Superseded(1, Position(1, 3)),
    link.Aborted(1, "full"),
    link.Released(1),
    link.StandbyOffered("s", Position(1, 2), b"", (), True),
    link.StandbyDeleted("s"),
    link.StatusReply(1, b"{}"),
]
to_worker, to_engine = Decoder(link.ToWorker), Decoder(link.ToEngine)


@pytest.mark.parametrize("message", TO_WORKER, ids=repr)
def test_what_is_said_to_the_worker_is_heard(message: link.ToWorker) -> None:
    """As it was; the engine's end does not take it for one of its own."""
    assert to_worker.decode(encode(message)) == message
    with pytest.raises(MsgspecError):
        to_engine.decode(encode(message))


@pytest.mark.parametrize("message", TO_ENGINE, ids=repr)
def test_what_is_said_to_the_engine_is_heard(message: link.ToEngine) -> None:
    """As it was; the worker's end does not take it for one of its own."""
    assert to_engine.decode(encode(message)) == message
    with pytest.raises(MsgspecError):
        to_worker.decode(encode(message))


@given(st.binary(max_size=200))
def test_junk_is_a_message_or_one_error(junk: bytes) -> None:
    """Whatever the bytes are."""
    for decoder in (to_worker, to_engine):
        with contextlib.suppress(*UNREADABLE):
            decoder.decode(junk)


def test_bounds_are_part_of_the_types() -> None:
    """Names, meta, counts and the number of parts beyond their limits are refused."""
    beyond = [
        link.Submit(1, "s" * 256, 2, 3, b"", (), False),
        link.Submit(1, "s", 2, 3, bytes(4097), (), False),
        link.Submit(-1, "s", 2, 3, b"", (), False),
        link.Submit(1, "s", 2, 3, b"", ("p",) * 4097, True),
    ]
    for message in beyond:
        with pytest.raises(MsgspecError):
            to_worker.decode(encode(message))


def test_a_payload_goes_through_a_message() -> None:
    """Part names in the message, parts as frames, in one order."""
    payload = Payload({"a": b"1", "b": b"22"}, b"meta", True)
    names, frames = link.part_frames(payload)
    message = link.Submit(1, "s", 2, 3, payload.meta, names, payload.is_mapping)
    assert link.payload_of(message, [memoryview(frame) for frame in frames]) == payload
