"""The control mesh over real sockets: who is heard, who is not, and what happens when peers come and go."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
import zmq

from replicator.adapters.curve import Keys
from replicator.adapters.zeromq import (
    CONNECT_TIMEOUT_MS,
    CONTROL,
    HANDSHAKE_TIMEOUT_MS,
    MESSAGES_PER_TURN,
    PUBLISH,
    RENEW_S,
    SUBSCRIPTION_BYTES_MAX,
    Control,
    PublishSocket,
    SubscribeSockets,
    Transport,
)
from replicator.codec.frames import ENVELOPE_BYTES_MAX
from replicator.errors import TransportError
from replicator.model import NodeId
from replicator.settings import Settings
from tests.worker.nodes import DEADLINE_S, make_settings

N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")
PUBLISHES_WITHOUT_DESCRIPTORS = """
import os, resource, sys
from replicator.adapters.zeromq import ZERO_COPY_ABOVE_BYTES, PublishSocket, Transport
from replicator.settings import Settings
transport = Transport(Settings.from_json(sys.stdin.buffer.read()))
publisher = PublishSocket(transport)
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
first_free = os.dup(0)
os.close(first_free)
resource.setrlimit(resource.RLIMIT_NOFILE, (first_free, hard))
publisher.send([bytes(ZERO_COPY_ABOVE_BYTES)])
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
publisher.close()
transport.close()
"""


@contextmanager
def control_of(settings: Settings, keys: Keys | None = None) -> Iterator[Control]:
    """A node's control sockets."""
    transport = Transport(settings, keys)
    control = Control(transport)
    try:
        yield control
    finally:
        control.close()
        transport.close()


def receive(
    control: Control, count: int = 1, want: Callable[[bytes], bool] = lambda frame: True
) -> list[tuple[NodeId | None, bytes]]:
    """The first *count* wanted frames with their senders."""
    found: list[tuple[NodeId | None, bytes]] = []
    deadline = time.monotonic() + DEADLINE_S
    poller = zmq.Poller()
    for listening in control.sockets:
        poller.register(listening, zmq.POLLIN)
    while len(found) < count:
        assert time.monotonic() < deadline, f"only {found} came"
        poller.poll(50)
        found += [(node, frame) for node, frame in control.receive() if want(frame)]
    return found


def send(control: Control, to: NodeId, frame: bytes) -> None:
    """Send when the peer is connected."""
    deadline = time.monotonic() + DEADLINE_S
    while not control.send(to, frame):
        assert time.monotonic() < deadline, f"{to} is not connected"
        time.sleep(0.002)


def test_messages_arrive_in_order_without_keys() -> None:
    """What one node sends another gets, in order; without keys the sender is not known."""
    first, second = make_settings(2)
    with control_of(first) as one, control_of(second) as two:
        for number in range(100):
            send(one, N2, b"%d" % number)
        assert receive(two, 100) == [(None, b"%d" % number) for number in range(100)]


def test_unconnected_peers_get_nothing_stale() -> None:
    """Nothing is queued for a peer that is not there: it would be old news when it comes."""
    first, second, _ = make_settings(3)
    with control_of(first) as one:
        assert not one.send(N2, b"old")
        assert not one.send(NodeId("stranger"), b"old")
        with control_of(second) as two:
            send(one, N2, b"new")
            assert receive(two) == [(None, b"new")]


def test_restarted_peers_are_heard_at_once() -> None:
    """A peer that ends and starts again is connected both ways; no routing id is remembered (T16)."""
    first, second = make_settings(2)
    with control_of(first) as one:
        for round_ in range(3):
            with control_of(second) as two:
                send(two, N1, b"hello %d" % round_)
                assert receive(one) == [(None, b"hello %d" % round_)]
                send(one, N2, b"answer %d" % round_)
                fresh = b"answer %d" % round_
                assert receive(two, want=fresh.__eq__) == [(None, fresh)]


def test_whoever_subscribes_may_not_send_much() -> None:
    """A frame is gathered before anybody looks at it: many connections would fill the memory (R28)."""
    settings = make_settings(2)[0]
    transport = Transport(settings)
    publisher = PublishSocket(transport)
    with zmq.Context() as context, context.socket(zmq.XSUB) as stranger:
        gone = stranger.get_monitor_socket(zmq.Event.DISCONNECTED)
        stranger.connect(f"tcp://127.0.0.1:{settings.peers[N1][1] + PUBLISH}")
        stranger.send(b"\1" + bytes(SUBSCRIPTION_BYTES_MAX // 2))
        assert not gone.poll(200)
        stranger.send(b"\1" + bytes(SUBSCRIPTION_BYTES_MAX))
        assert gone.poll(int(DEADLINE_S * 1000)), "it is not cut off"
        stranger.disable_monitor()
        gone.close()
    publisher.close()
    transport.close()


def test_what_met_a_stranger_once_is_connected_again() -> None:
    """A SUB that a peer's port has answered as a ROUTER, once, hears the peer when that is there itself. It
    is not tried again at once, and what is connected is let be."""
    first, second = make_settings(2)
    endpoint = f"tcp://127.0.0.1:{first.peers[N1][1] + PUBLISH}"
    subscriber = Transport(second)
    lines = SubscribeSockets(subscriber)
    (line,) = lines._lines.values()
    with zmq.Context() as context, context.socket(zmq.ROUTER) as stranger:
        stranger.bind(endpoint)
        assert line._changes.poll(int(DEADLINE_S * 1000)), "they did not meet"
    publisher = Transport(first)
    socket = PublishSocket(publisher)
    lines.mend(0.0)
    lines.mend(RENEW_S)
    deadline = time.monotonic() + DEADLINE_S
    while not list(lines.receive()):
        assert time.monotonic() < deadline, "nothing is heard"
        socket.send([b"news"])
        time.sleep(0.01)
    lines.mend(RENEW_S)
    assert line.is_connected
    line._number = "which there is none to disconnect from"
    lines.mend(3 * RENEW_S)
    for each in (lines, socket, subscriber, publisher):
        each.close()


def test_ports_without_a_connection_are_known() -> None:
    """Of all channels, as with a firewall that lets the first alone through."""
    first, second = make_settings(2)
    host, port = first.peers[N2]
    transport = Transport(first)
    one, lines = Control(transport), SubscribeSockets(transport)
    assert [address for _, address in one.unconnected()] == [(host, port), (host, port + PUBLISH)]
    with control_of(second) as two:
        send(one, N2, b"hello")
        assert receive(two)
        one.mend(0.0)
        lines.mend(0.0)
        assert one.unconnected() == [(N2, (host, port + PUBLISH))]
    for each in (one, lines, transport):
        each.close()


def test_sending_never_waits() -> None:
    """A peer that takes nothing costs its messages, not our time: its queue is bounded."""
    first, second = make_settings(2)
    with control_of(first) as one, control_of(second):
        send(one, N2, bytes(2**20))
        start = time.monotonic()
        refused = sum(not one.send(N2, bytes(2**20)) for _ in range(2000))
        assert refused > 1000
        assert time.monotonic() - start < DEADLINE_S


def test_oversized_and_malformed_messages_are_dropped() -> None:
    """A frame above the bound ends the connection, which comes again; one of several frames is counted."""
    first, second = make_settings(2)
    with control_of(first) as one, control_of(second) as two:
        send(one, N2, b"before")
        one.send_frames(N2, (b"two", b"frames"))
        send(one, N2, bytes(ENVELOPE_BYTES_MAX))
        assert [len(frame) for _, frame in receive(two, 2)] == [6, ENVELOPE_BYTES_MAX]
        assert two.dropped == 1
        one.send(N2, bytes(ENVELOPE_BYTES_MAX + 1))
        deadline = time.monotonic() + DEADLINE_S
        while not (heard := list(two.receive())):
            assert time.monotonic() < deadline, "the connection does not come again"
            one.send(N2, b"after")
            time.sleep(0.01)
        assert heard[0] == (None, b"after")


def test_a_flood_of_malformed_messages_is_taken_bit_by_bit() -> None:
    """One call gives up after a bounded number; the rest comes with the next ones."""
    first, second = make_settings(2)
    count = 2 * MESSAGES_PER_TURN
    with control_of(first) as one, control_of(second) as two:
        send(one, N2, b"first")
        for _ in range(count):
            assert one.send_frames(N2, (b"two", b"frames"))
        send(one, N2, b"last")
        (router,) = two.sockets
        for bound in range(0, count + 1, MESSAGES_PER_TURN):
            assert two.dropped <= bound
            assert router.poll(int(DEADLINE_S * 1000))
            list(two.receive())
        deadline = time.monotonic() + DEADLINE_S
        while two.dropped < count:
            assert time.monotonic() < deadline, "the rest does not come"
            list(two.receive())


def test_strangers_on_the_port_disturb_nobody() -> None:
    """Bytes that are no ZMTP, and connections that say nothing, change nothing for the peers."""
    first, second = make_settings(2)
    with control_of(first) as one, control_of(second) as two, ExitStack() as stack:
        for noise in (b"", b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"\xff" * 1000):
            stranger = stack.enter_context(socket.create_connection(second.peers[N2]))
            stranger.sendall(noise)
        send(one, N2, b"still here")
        assert receive(two) == [(None, b"still here")]


def test_publishing_needs_no_more_descriptors() -> None:
    """A stranger may open connections until the node has no descriptor left: it publishes all the same."""
    (settings, _) = make_settings(2)
    command = [sys.executable, "-c", PUBLISHES_WITHOUT_DESCRIPTORS]
    subprocess.run(command, input=settings.to_json(), timeout=DEADLINE_S, check=True)


def test_a_port_in_use_is_named() -> None:
    """A bind that fails says where, why, and what to do; the data ports likewise."""
    (settings, _) = make_settings(2)
    with control_of(settings):
        transport = Transport(settings)
        with pytest.raises(
            TransportError, match=rf"cannot listen at 127.0.0.1:{settings.peers[N1][1]}: .*n1"
        ):
            Control(transport)
        socket = PublishSocket(transport)
        with pytest.raises(TransportError, match="REPLICATOR_PEERS"):
            PublishSocket(transport)
        socket.close()
        transport.close()


def test_names_are_resolved() -> None:
    """A host may be a name: it is bound by its IPv4 address and connected to by the name."""
    settings = make_settings(2)
    peers = {node: ("localhost", port) for node, (_, port) in settings[0].peers.items()}
    first, second = (Settings(node=node, peers=peers) for node in peers)
    with control_of(first) as one, control_of(second) as two:
        send(one, N2, b"hello")
        assert receive(two) == [(None, b"hello")]


def test_without_keys_only_this_machine_is_used() -> None:
    """The transport itself refuses what the settings refuse: no keys, no network."""
    settings = make_settings(2)[0]
    far = {N1: ("127.0.0.1", 20000), N2: ("192.0.2.1", 20000)}
    settings.peers.clear()
    settings.peers.update(far)
    with pytest.raises(TransportError, match=r"192\.0\.2\.1 is not on this machine"):
        Transport(settings)


def test_r16_heartbeats_share_no_thread_with_payload() -> None:
    """Control has an I/O thread of its own, in both directions; and no peer that hangs is waited for."""
    transport = Transport(make_settings(2)[0])
    try:
        affinities = []
        for kinds, channel in (((zmq.ROUTER, zmq.DEALER), CONTROL), ((zmq.PUB, zmq.SUB), PUBLISH)):
            sockets = [transport.bind(kinds[0], channel, 1)]
            line = transport.connect(kinds[1], N2, channel, 1)
            sockets.append(line.socket)
            affinities.append({each.getsockopt(zmq.AFFINITY) for each in sockets})
            waits = [
                [each.getsockopt(o) for o in (zmq.CONNECT_TIMEOUT, zmq.HANDSHAKE_IVL)] for each in sockets
            ]
            assert waits == [[CONNECT_TIMEOUT_MS, HANDSHAKE_TIMEOUT_MS]] * 2
            sockets[0].close()
            line.close()
        control, payload = affinities
        assert len(control) == len(payload) == 1
        assert not control & payload
    finally:
        transport.close()
