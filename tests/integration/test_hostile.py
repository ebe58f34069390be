"""Whatever arrives at a port, the process neither crashes nor changes state that it should not (I12, R28)."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import zmq

from replicator.adapters.zeromq import CONTROL, PUBLISH, REPAIR
from replicator.codec.frames import ENVELOPE_BYTES_MAX, encode_envelope
from replicator.core.messages import PROTOCOL_VERSION, Claim, Envelope, Heartbeat, Message
from tests.integration.cluster import Cluster, now
from tests.integration.memory import MIB, MemoryWatch

HALF_OPEN = 150
MESSAGES = 300
FRAMES = 3000
LINGER_MS = 10_000
MORE_BYTES_MAX = 64 * MIB
ID = bytes(16)


def _ports(cluster: Cluster) -> list[int]:
    """The first port of each node."""
    peers = cluster["n1"].environ["REPLICATOR_PEERS"].split(",")
    return [int(peer.rpartition(":")[2]) for peer in peers]


def _envelope(message: Message, *, cluster: str = "replicator", node: str = "n1", version: int = 0) -> bytes:
    """A well-formed envelope of somebody who has no business here."""
    who = (cluster, node, ID, ID, 0, 0)
    return encode_envelope(Envelope(version or PROTOCOL_VERSION, *who, message))


def _frames(chance: random.Random) -> Iterator[list[bytes]]:
    """Messages for the control and repair channels: foreign, outdated, torn, and mere bytes."""
    claim, beat = Claim(2**40, 1), Heartbeat(2**40, 1, 0.3, None, 0, ())
    foreign = _envelope(claim, cluster="another")
    yield from ([_envelope(each, cluster="another")] for each in (claim, beat))
    yield from ([_envelope(each, node="n9")] for each in (claim, beat))
    yield from ([_envelope(each, version=PROTOCOL_VERSION + 1)] for each in (claim, beat))
    yield [b""]
    yield [b"\x80" * 500_000]
    yield [b"\x91" * 100_000]
    yield [b"x"] * FRAMES
    for _ in range(MESSAGES):
        torn = bytearray(foreign)
        for _ in range(chance.randrange(1, 6)):
            torn[chance.randrange(16, len(torn))] = chance.randrange(256)  # the cluster's name stays foreign
        yield [bytes(torn[: chance.randrange(1, len(torn) + 1)])]
        yield [chance.randbytes(chance.randrange(1, 300)) for _ in range(chance.randrange(1, 5))]


def _speak_no_zeromq(port: int, chance: random.Random, held: contextlib.ExitStack) -> None:
    """Bytes that are no ZeroMQ, and connections that say nothing and stay."""
    for channel in (CONTROL, REPAIR, PUBLISH):
        for start in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" + bytes(8) + b"\x7f\x03", b""):
            with (
                socket.create_connection(("127.0.0.1", port + channel)) as peer,
                contextlib.suppress(OSError),
            ):
                peer.sendall(start + chance.randbytes(5000))
        for _ in range(HALF_OPEN // 3):
            held.enter_context(socket.create_connection(("127.0.0.1", port + channel)))


def _speak_zeromq(context: zmq.Context[zmq.Socket[bytes]], port: int, chance: random.Random) -> None:
    """Messages that nobody asked for, and subscriptions to what does not exist."""
    for channel in (CONTROL, REPAIR):
        with context.socket(zmq.DEALER) as dealer:
            dealer.setsockopt(zmq.LINGER, LINGER_MS)
            dealer.connect(f"tcp://127.0.0.1:{port + channel}")
            for frames in _frames(chance):
                dealer.send_multipart(frames)
        with context.socket(zmq.DEALER) as dealer:  # of its own, for what is too large ends the connection
            dealer.setsockopt(zmq.LINGER, 0)
            dealer.connect(f"tcp://127.0.0.1:{port + channel}")
            dealer.send(bytes(ENVELOPE_BYTES_MAX + 1))
    with context.socket(zmq.SUB) as sub:
        sub.setsockopt(zmq.LINGER, 0)
        sub.connect(f"tcp://127.0.0.1:{port + PUBLISH}")
        for index in range(1000):
            sub.subscribe(b"no such topic %d" % index)


def test_I12_nothing_that_strangers_send_is_noticed_by_the_engine(tmp_path: Path) -> None:
    """Garbage, floods, half-open connections, foreign and torn messages at every port of every node: commits
    go on in the same tenure, what was refused is counted, no node prints a traceback or grows."""
    chance = random.Random(7)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with Cluster(tmp_path, 3, interval_s=0.01) as cluster, contextlib.ExitStack() as held:
        cluster.start()
        tenure = cluster.wait_tenure()
        cluster.wait_commits(20)
        watches = [held.enter_context(MemoryWatch(node.worker_pids[0])) for node in cluster.nodes.values()]
        for port in _ports(cluster):
            _speak_no_zeromq(port, chance, held)
            _speak_zeromq(context, port, chance)
        cluster.wait_commits(50, now())

        def all_have_refused() -> bool:
            members = cluster["n1"].members()
            usages = [member["usage"] for member in members.values()]
            return len(usages) == 3 and all(
                min(usage["messages_refused"], usage["dropped"]) >= MESSAGES for usage in usages
            )

        cluster.wait(all_have_refused, what="the refusals, counted by every node")
        assert cluster.entries("tenure")[-1]["epoch"] < 2**40, "a stranger's epoch was taken for real"
        assert all(watch.peak_bytes - watch.before_bytes <= MORE_BYTES_MAX for watch in watches)
        assert all("Traceback" not in node.output() for node in cluster.nodes.values())
        assert all(node.is_running and len(node.worker_pids) == 1 for node in cluster.nodes.values())
        assert cluster.lost() == []
        assert tenure in cluster.entries("tenure")
    context.destroy(linger=0)
