"""One bit wrong anywhere in any kind of message: one error type, or a message that a core survives."""

from __future__ import annotations

from functools import cache

import pytest
from msgspec import json
from msgspec.msgpack import Decoder, encode

from replicator.codec.frames import decode_envelope
from replicator.core.events import Received
from replicator.core.messages import Envelope
from replicator.core.replica import Replica
from replicator.errors import UNREADABLE, MessageError
from replicator.link import messages as link
from replicator.model import Incarnation, NodeId, Process
from replicator.worker.admin import Request
from replicator.worker.status import MemberReport
from tests.exploration.snapshot import copy
from tests.link.test_messages import TO_ENGINE, TO_WORKER
from tests.rules.cluster import Cluster


class Recorded(Cluster):
    """A cluster that keeps one frame of each kind of message."""

    def __init__(self, *names: str, founded: bool = True) -> None:
        self.frames: dict[str, bytes] = {}
        super().__init__(*names, founded=founded)
        honest = self.network.send

        def send(source: NodeId, to: NodeId, frame: bytes) -> None:
            self.frames.setdefault(self.kind_of(frame), frame)
            honest(source, to, frame)

        self.network.send = send  # type: ignore[method-assign]


@cache
def cluster() -> Recorded:
    """Three nodes that founded a cluster, deleted a stream, lost a broadcast and changed their primary."""
    made = Recorded("a", "b", "c", founded=False)
    made.live(3.0).with_primary("a").do("submit a s 1", "lose a").live(1.0)
    made.do("submit a t 1").live(0.3).do("delete a t 2").live(1.0)
    made.do("cut a b", "cut a c").live(0.6).do("revoke a", "grant b").live(1.5)
    made.do("mend a b", "mend a c").live(1.0).do("submit b s 7").live(0.5).do("resign b").live(0.5)
    return made


def changed(frame: bytes) -> set[bytes]:
    """The frame cut at every byte, and with every bit of it flipped."""
    flipped = {
        frame[:at] + bytes([frame[at] ^ 1 << bit]) + frame[at + 1 :]
        for at in range(len(frame))
        for bit in range(8)
    }
    return flipped | {frame[:at] for at in range(len(frame))}


def decoded(frame: bytes) -> list[Envelope]:
    """The messages that the changed frames still are."""
    found = []
    for each in sorted(changed(frame)):
        try:
            found.append(decode_envelope(each))
        except MessageError:
            continue
    return found


def test_every_kind_is_there() -> None:
    """What is recorded has all the messages that cores send to each other."""
    sent = set(cluster().frames)
    assert sent >= {
        "Hello", "Found", "FoundStored", "Founded", "Probe", "ProbeAnswer", "Claim", "Promised", "Refusal",
        "Adopt", "Adopted", "Members", "MembersAccepted", "Behind", "Ack", "Progress", "Heartbeat",
        "HeartbeatAnswer", "LeaseReturned", "Forget",
    }, sent  # fmt: skip


@pytest.mark.parametrize("kind", sorted(cluster().frames))
def test_a_core_survives_what_one_bit_makes_of_a_message(kind: str) -> None:
    """In the roles of primary and backup: it handles the message and raises nothing."""
    made = cluster()
    frame = made.frames[kind]
    messages = decoded(frame)
    assert messages
    for name in ("a", "b"):
        core = made.core(name)
        for each in messages:
            if each.node not in core._state.config.peers:
                continue
            other: Replica = copy(core, {})
            other.handle(
                Received(
                    NodeId(each.node), Incarnation(each.incarnation), Process(each.process),
                    each.counter, 0, each.message,
                ),
                made.node(name).clock.local(made.now),
            )  # fmt: skip


@pytest.mark.parametrize("message", [*TO_WORKER, *TO_ENGINE], ids=lambda message: type(message).__name__)
def test_one_bit_wrong_on_the_link_is_a_message_or_one_error(
    message: link.ToWorker | link.ToEngine,
) -> None:
    """Between engine and worker."""
    decoder: Decoder[link.ToWorker] | Decoder[link.ToEngine]
    decoder = Decoder(link.ToWorker) if message in TO_WORKER else Decoder(link.ToEngine)
    refused = 0
    for each in changed(encode(message)):
        try:
            decoder.decode(each)
        except UNREADABLE:
            refused += 1
    assert refused


@pytest.mark.parametrize("kind", [Request, MemberReport])
@pytest.mark.parametrize("bad", [b'{"%s":"\xff"}', b'{"x":' + b"[" * 100_000, b"\xff", b'{"\xff":1}', b"[]"])
def test_json_that_is_none_is_one_error(kind: type[Request | MemberReport], bad: bytes) -> None:
    """An admin client's line and a member's report: text that is not UTF-8 and nesting without end too."""
    with pytest.raises(UNREADABLE):
        json.decode(bad.replace(b"%s", kind.__struct_fields__[0].encode()), type=kind)
