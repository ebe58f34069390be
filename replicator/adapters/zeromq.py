"""The mesh of sockets between nodes: three channels, everybody always connected to everybody.

A node at port p binds a ROUTER at p (control), a ROUTER at p + 1 (repair) and a PUB at p + 2 (publish),
and connects to those of each peer. A ROUTER only receives and a DEALER only sends, so an answer goes out
by one's own DEALER: no routing id is ever relied on, and a peer that restarts, or comes again while its
old connection still hangs, is heard at once (T16). Channels share no socket, and control has an I/O thread
of its own: heartbeats never queue behind payload (R16).

With keys, a peer is who its key says: what comes in is attributed by the key that libzmq has verified.
Without keys nobody is authenticated, and only addresses of this machine are used.

Nothing here waits for a peer: what cannot be queued is not sent, and the protocol mends what is lost
(R18). Each class belongs to the one thread that uses it, which mends its lines every `MEND_INTERVAL_S`.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence as Ordered

import zmq

from replicator import multipart
from replicator.adapters.curve import Gate, Keys
from replicator.adapters.listening import cannot_listen, own_address
from replicator.adapters.names import Names
from replicator.adapters.ports import MEND_INTERVAL_S
from replicator.addresses import Address, format_address, is_loopback
from replicator.codec.chunking import CHUNK_BYTES_MAX
from replicator.codec.frames import ENVELOPE_BYTES_MAX
from replicator.errors import TransportError
from replicator.model import Buffer, NodeId
from replicator.settings import Settings

CONTROL, REPAIR, PUBLISH = 0, 1, 2  # offsets of the channels' ports

CONTROL_QUEUE_MESSAGES = 256
REPAIR_QUEUE_MESSAGES = 16
MESSAGES_PER_TURN = 64
PUBLICATIONS_PER_TURN = 16  # of one peer, before heartbeats have their turn
FRAMES_MAX = 2048
ZERO_COPY_ABOVE_BYTES = 2**19  # to track a frame until it is sent wakes two more threads

RECONNECT_MS, RECONNECT_MAX_MS = 50, 500
CONNECT_TIMEOUT_MS = 1000  # the kernel alone would wait for minutes, also after the network is back
HANDSHAKE_TIMEOUT_MS = 3000
RENEW_S = 5.0  # an attempt to connect has ended by then, one way or the other
BACKLOG = 128
ENCRYPTION_BYTES = 64  # what CURVE adds to a frame, rounded up
SUBSCRIPTION_BYTES_MAX = 4096  # a PUB hears nothing else; a stranger's greeting counts as a frame
# How long a dead connection lives. On control ZeroMQ's own pings find out. They queue behind the payload that
# is under way, and whole frames alone count: on a slow link they would cut a data channel in the middle of a
# frame, again and again. There the kernel watches, for which every byte counts that the other end takes.
PING_MS, CONTROL_SILENCE_MS, DATA_SILENCE_MS = 500, 2000, 15_000
KEEPALIVE_S = 1
CONTROL_WATCH = (
    (zmq.HEARTBEAT_IVL, PING_MS),
    (zmq.HEARTBEAT_TIMEOUT, CONTROL_SILENCE_MS),
    (zmq.HEARTBEAT_TTL, CONTROL_SILENCE_MS),
)
DATA_WATCH = (
    (zmq.TCP_KEEPALIVE, 1),
    (zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_S),
    (zmq.TCP_KEEPALIVE_INTVL, KEEPALIVE_S),
    (zmq.TCP_MAXRT, DATA_SILENCE_MS),  # for what is not acknowledged, and for keep-alive: TCP_USER_TIMEOUT
)

_Socket = zmq.Socket[bytes]
_CONNECTED = int(zmq.Event.HANDSHAKE_SUCCEEDED)
_CHANGES = _CONNECTED | int(zmq.Event.DISCONNECTED)


class Transport:
    """A node's context, its keys and the options that all its sockets share.

    Raises TransportError if an address is not of this machine although there are no keys, if a peer has
    none, or if nobody could reach this node. Close the sockets' owners first: a socket must not be closed
    under the thread that uses it.
    """

    def __init__(self, settings: Settings, keys: Keys | None = None) -> None:
        far = [host for host, _ in settings.peers.values() if not is_loopback(host)]
        if far and keys is None:
            raise TransportError(f"{far[0]} is not on this machine: without keys nobody could be trusted")
        if keys and (missing := sorted(settings.peers.keys() - keys.allowed.keys())):
            raise TransportError(f"no public key for {', '.join(missing)} in REPLICATOR_PEER_KEYS_FILE")
        self.node = settings.node
        self.peers = dict(settings.peers)
        self.publish_queue_messages = settings.publish_queue_messages
        self._keys = keys
        self._domain = settings.cluster
        self._nodes = {key: node for node, key in keys.allowed.items()} if keys else {}
        self._own_address = own_address(self.node, self.peers)
        self._names = Names({self.peers[node][0] for node in self.others})
        # A first frame that is shared opens the descriptors of all later ones. When a stranger's connections
        # have taken all that there are, a publication needs none any more.
        zmq.Frame(bytes(1), copy=False)
        self._context: zmq.Context[_Socket] = zmq.Context(io_threads=2)
        self._lines: list[tuple[NodeId, Line]] = []
        self._gate = Gate(self._context, self._domain, keys.allowed) if keys else None

    @property
    def others(self) -> list[NodeId]:
        """All peers but this node."""
        return [node for node in self.peers if node != self.node]

    def bind(self, kind: int, channel: int, queue_messages: int) -> _Socket:
        """A socket that listens at this node's port of *channel*; raises TransportError if it cannot."""
        address = self._own_address, self.peers[self.node][1] + channel
        socket = self._socket(kind, channel, queue_messages)
        if self._keys:
            socket.curve_server = True
            socket.curve_secretkey = self._keys.secret.encode()
            socket.zap_domain = self._domain.encode()
            socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        try:
            socket.setsockopt(zmq.IPV6, ":" in self._own_address)
            socket.bind(f"tcp://{format_address(address)}")
        except zmq.ZMQError as error:
            socket.close()
            raise cannot_listen(self.node, address, error.strerror) from error
        return socket

    def connect(self, kind: int, node: NodeId, channel: int, queue_messages: int) -> Line:
        """A line to the port of *channel* of a peer."""
        host, port = self.peers[node]
        socket = self._socket(kind, channel, queue_messages)
        if self._keys:
            socket.curve_publickey = self._keys.public.encode()
            socket.curve_secretkey = self._keys.secret.encode()
            socket.curve_serverkey = self._keys.allowed[node].encode()
        if kind == zmq.SUB:
            socket.subscribe(b"")
        else:  # nothing is queued for a peer that is not connected: it would be stale when it comes
            socket.immediate = True
        line = Line(socket, self._names, (host, port + channel))
        self._lines.append((node, line))
        return line

    def unconnected(self) -> list[tuple[NodeId, Address]]:
        """The ports of peers to which there was no connection when their lines were mended last."""
        return [(node, line.address) for node, line in self._lines if not line.is_connected]

    def sender(self, frame: zmq.Frame) -> NodeId | None:
        """The node whose key has authenticated a frame; None without keys, or if it is not listed."""
        return self._nodes.get(str(frame.get("User-Id"))) if self._keys else None

    @property
    def authenticates(self) -> bool:
        """Whether peers are known by their keys."""
        return self._keys is not None

    def close(self) -> None:
        """End the gate and the context, and close what its owners have left open."""
        if self._gate:
            self._gate.close()
        self._context.destroy(linger=0)

    def _socket(self, kind: int, channel: int, queue_messages: int) -> _Socket:
        socket = self._context.socket(kind)
        payload_bytes_max = SUBSCRIPTION_BYTES_MAX if kind == zmq.PUB else CHUNK_BYTES_MAX
        frame_bytes_max = ENVELOPE_BYTES_MAX if channel == CONTROL else payload_bytes_max
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.AFFINITY, 1 if channel == CONTROL else 2),
            (zmq.SNDHWM, queue_messages),
            (zmq.RCVHWM, queue_messages),
            (zmq.MAXMSGSIZE, frame_bytes_max + (ENCRYPTION_BYTES if self._keys else 0)),
            (zmq.RECONNECT_IVL, RECONNECT_MS),
            (zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS),
            (zmq.CONNECT_TIMEOUT, CONNECT_TIMEOUT_MS),
            (zmq.HANDSHAKE_IVL, HANDSHAKE_TIMEOUT_MS),
            (zmq.BACKLOG, BACKLOG),
            *(CONTROL_WATCH if channel == CONTROL else DATA_WATCH),
        ):
            socket.setsockopt(option, value)
        socket.copy_threshold = ZERO_COPY_ABOVE_BYTES
        return socket


class Line:
    """A socket that connects to one port of one peer, and again for as long as it lives.

    libzmq itself tries again when nobody listens, and when a connection is lost. But it gives up for good
    what was refused by the peer's gate, or has met a program that is no such peer, as every node may for a
    moment while keys or ports are changed. And it knows numbers only. So whatever has not been connected for
    `RENEW_S` is made anew, and looked up anew; and as soon as there is another address.
    """

    def __init__(self, socket: _Socket, names: Names, address: Address) -> None:
        self.socket = socket
        self.address = address
        self.is_connected = False  # as of the last `mend`
        self._names = names
        self._number = ""  # of the host; '' as long as none is known
        self._unconnected_since = math.inf
        self._changes = socket.get_monitor_socket(_CHANGES)
        self._connect()

    def mend(self, now: float) -> None:
        """Learn whether there is a connection; try anew if there has been none for long."""
        while multipart.is_readable(self._changes):
            change = multipart.receive(self._changes)[0].bytes
            self.is_connected = int.from_bytes(change[:2], sys.byteorder) == _CONNECTED
        if self.is_connected:
            self._unconnected_since = math.inf
            return
        self._unconnected_since = min(self._unconnected_since, now)
        is_due = now - self._unconnected_since >= RENEW_S
        if is_due:
            self._names.look_up(self.address[0])
        if is_due or self._names.address(self.address[0]) != self._number:
            self._unconnected_since = now
            self._connect()

    def _connect(self) -> None:
        if self._number:
            self.socket.disconnect(self._endpoint)
        self._number = self._names.address(self.address[0])
        if self._number:
            self.socket.setsockopt(zmq.IPV6, ":" in self._number)
            self.socket.connect(self._endpoint)

    @property
    def _endpoint(self) -> str:
        return f"tcp://{format_address((self._number, self.address[1]))}"

    def close(self) -> None:
        """Close the socket; what waits to be sent is lost. Safe to call twice."""
        if not self.socket.closed:
            self.socket.disable_monitor()  # first: an I/O thread would wait for a reader
        self._changes.close()
        self.socket.close()


class _Lines:
    """A line to each peer, for one channel."""

    def __init__(self, transport: Transport, kind: int, channel: int, queue_messages: int) -> None:
        self._lines = {
            node: transport.connect(kind, node, channel, queue_messages) for node in transport.others
        }

    def mend(self, now: float) -> None:
        """Try anew to connect to those peers to whom there has been no connection for long."""
        for line in self._lines.values():
            line.mend(now)

    def close(self) -> None:
        """Close all sockets; what waits to be sent is lost."""
        for line in self._lines.values():
            line.close()


class Exchange(_Lines):
    """One channel of addressed messages: a ROUTER that only receives, DEALERs that only send."""

    def __init__(self, transport: Transport, channel: int, queue_messages: int) -> None:
        self._transport = transport
        self._router = transport.bind(zmq.ROUTER, channel, queue_messages)
        super().__init__(transport, zmq.DEALER, channel, queue_messages)
        self._dealers = {node: line.socket for node, line in self._lines.items()}
        self.dropped = 0

    def send_frames(self, to: NodeId, frames: Ordered[Buffer]) -> bool:
        """Send without waiting; False if the peer is unknown, not connected or its queue is full."""
        dealer = self._dealers.get(to)
        if dealer is None:
            return False
        return multipart.send(dealer, frames, copy=_is_small(frames))

    def receive_frames(self) -> Iterator[tuple[NodeId | None, list[memoryview]]]:
        """What has arrived, a bounded number of messages, each with the node that its key authenticates
        (None: no keys). What is dropped counts too: a flood of it would never end."""
        for _ in range(MESSAGES_PER_TURN):
            if not multipart.is_readable(self._router):
                return
            _, *frames = multipart.receive(self._router)
            node = self._transport.sender(frames[-1]) if frames else None
            if not 0 < len(frames) <= FRAMES_MAX or (node is None and self._transport.authenticates):
                self.dropped += 1
                continue
            yield node, [frame.buffer for frame in frames]

    def close(self) -> None:
        """Close all sockets; what waits to be sent is lost."""
        self._router.close()
        super().close()


class Control(Exchange):
    """The control channel: messages of one frame. Implements `ports.Control`."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, CONTROL, CONTROL_QUEUE_MESSAGES)

    @property
    def sockets(self) -> Iterable[_Socket]:
        """What to register for reading."""
        return (self._router,)

    def unconnected(self) -> list[tuple[NodeId, Address]]:
        """The ports of peers, of all channels, to which there is no connection."""
        return self._transport.unconnected()

    def send(self, to: NodeId, frame: bytes) -> bool:
        """Send without waiting; False if the message is lost."""
        return self.send_frames(to, (frame,))

    def receive(self) -> Iterator[tuple[NodeId | None, bytes]]:
        """What has arrived, a bounded number of messages, each with the node that its key authenticates."""
        for node, frames in self.receive_frames():
            if len(frames) == 1:
                yield node, bytes(frames[0])
            else:
                self.dropped += 1


class RepairSockets(Exchange):
    """The repair channel: requests and answers of several frames, sent as fast as the peer takes them."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, REPAIR, REPAIR_QUEUE_MESSAGES)
        self._mend_at = -math.inf

    def can_send(self, to: NodeId) -> bool:
        """Whether a message to that peer would be queued now."""
        dealer = self._dealers.get(to)
        return dealer is not None and multipart.is_writable(dealer)

    def wait(self, bell: int, timeout_s: float, senders: Iterable[NodeId]) -> None:
        """Sleep until a message or the bell comes, a peer of *senders* can be sent to, or time is up; mend
        the lines when it is time to."""
        now = time.monotonic()
        if now >= self._mend_at:
            self._mend_at = now + MEND_INTERVAL_S
            self.mend(now)
        poller = zmq.Poller()
        poller.register(bell, zmq.POLLIN)
        poller.register(self._router, zmq.POLLIN)
        for node in senders:
            poller.register(self._dealers[node], zmq.POLLOUT)
        poller.poll(-int(-timeout_s * 1000 // 1))  # rounded up, so that a short time is not none at all


class PublishSocket:
    """The PUB: to every subscriber that keeps up; the others lose messages and fetch them later (R18)."""

    def __init__(self, transport: Transport) -> None:
        self._socket = transport.bind(zmq.PUB, PUBLISH, transport.publish_queue_messages)

    def send(self, frames: Ordered[Buffer]) -> None:
        """Queue a message for every subscriber; never waits."""
        multipart.send(self._socket, frames, copy=_is_small(frames))

    def close(self) -> None:
        """Close the socket; what waits to be sent is lost."""
        self._socket.close()


class SubscribeSockets(_Lines):
    """A SUB to each peer, so that the socket, and with keys the server's key, tells who publishes."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, zmq.SUB, PUBLISH, transport.publish_queue_messages)

    @property
    def all(self) -> Iterable[_Socket]:
        """What to register for reading."""
        return [line.socket for line in self._lines.values()]

    def receive(self) -> Iterator[tuple[NodeId, list[memoryview]]]:
        """What has come, a bounded number of messages from each peer; never waits."""
        for node, line in self._lines.items():
            for _ in range(PUBLICATIONS_PER_TURN):
                if not multipart.is_readable(line.socket):
                    break
                yield node, [frame.buffer for frame in multipart.receive(line.socket)]


def _is_small(frames: Ordered[Buffer]) -> bool:
    """Whether to copy takes less time than to keep the frames where they are until they are sent."""
    return max(map(len, frames)) < ZERO_COPY_ABOVE_BYTES
