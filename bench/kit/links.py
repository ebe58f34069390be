"""The links of the floor: one payload to two peers, an acknowledgment from each; plain TCP, or ZeroMQ.

Both have the same two sides. `Sender` is of the process that commits, `Receiver` of a peer; neither frames,
names or checks anything.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Protocol

import zmq

PIECE_BYTES = 2**20
INLINE_BYTES = 2**17  # up to here the kernel takes all at once
SOCKET_BUFFER_BYTES = 4 * 2**20
SILENCE_MS = 60_000
LENGTH = struct.Struct("<Q")
ACK = b"\x06"
LOOPBACK = "127.0.0.1"


class Sender(Protocol):
    """Listens from the start."""

    @property
    def words(self) -> list[str]:
        """What a peer's `connect` needs to know."""

    def await_peers(self, count: int) -> None:
        """Return when so many peers are connected."""

    def send(self, payload: memoryview) -> None:
        """Give all of it to all peers, piece by piece."""

    def await_first(self) -> None:
        """Return when one peer has acknowledged."""

    def await_rest(self) -> None:
        """Return when every peer has; raises RuntimeError if one has died."""

    def close(self) -> None:
        """Close the links; the peers end."""


class Receiver(Protocol):
    """A peer's side."""

    def payloads(self) -> Iterator[Iterator[memoryview]]:
        """The pieces of each payload, until the links are closed."""

    def acknowledge(self) -> None:
        """Say that the payload is held."""


def listen(kind: str) -> Sender:
    """The sending side of `tcp` or `zeromq` links."""
    return TcpSender() if kind == "tcp" else ZeroMQSender()


def connect(kind: str, *words: str) -> Receiver:
    """A peer's side of them."""
    return TcpReceiver(*words) if kind == "tcp" else ZeroMQReceiver(*words)


def pieces(payload: memoryview) -> Iterator[memoryview]:
    """The payload in pieces."""
    for start in range(0, len(payload), PIECE_BYTES):
        yield payload[start : start + PIECE_BYTES]


class TcpSender:
    """A connection to each peer."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._listener = self._stack.enter_context(socket.create_server((LOOPBACK, 0)))
        self._peers: list[socket.socket] = []

    @property
    def words(self) -> list[str]:
        return [str(self._listener.getsockname()[1])]

    def await_peers(self, count: int) -> None:
        for _ in range(count):
            peer = self._stack.enter_context(self._listener.accept()[0])
            _tune(peer)
            self._peers.append(peer)

    def send(self, payload: memoryview) -> None:
        header = LENGTH.pack(len(payload))
        if len(payload) <= INLINE_BYTES:
            for peer in self._peers:
                peer.sendmsg([header, payload])
            return
        for peer in self._peers:
            peer.sendall(header)
        for piece in pieces(payload):
            for peer in self._peers:
                peer.sendall(piece)

    def await_first(self) -> None:
        select.select(self._peers, [], [])

    def await_rest(self) -> None:
        for peer in self._peers:
            if peer.recv(1) != ACK:
                raise RuntimeError("a peer of the floor has died")

    def close(self) -> None:
        self._stack.close()


class TcpReceiver:
    """A peer's connection."""

    def __init__(self, port: str) -> None:
        self._link = socket.create_connection((LOOPBACK, int(port)))
        self._buffer = memoryview(bytearray(PIECE_BYTES))
        _tune(self._link)

    def payloads(self) -> Iterator[Iterator[memoryview]]:
        while self._fill(self._buffer[: LENGTH.size]):
            (size,) = LENGTH.unpack_from(self._buffer)
            yield self._pieces(size)

    def _pieces(self, size: int) -> Iterator[memoryview]:
        for start in range(0, size, PIECE_BYTES):
            piece = self._buffer[: min(PIECE_BYTES, size - start)]
            if not self._fill(piece):
                return
            yield piece

    def _fill(self, target: memoryview) -> bool:
        """Fill *target*; false when the link has ended."""
        filled = 0
        while filled < len(target):
            got = self._link.recv_into(target[filled:])
            if not got:
                return False
            filled += got
        return True

    def acknowledge(self) -> None:
        self._link.sendall(ACK)


class ZeroMQSender:
    """A PUB that both peers subscribe to, a ROUTER that their DEALERs answer to: as a node's."""

    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._publish = self._context.socket(zmq.XPUB)  # a PUB that knows its subscribers
        self._publish.setsockopt(zmq.XPUB_VERBOSE, 1)  # of the second one, too
        self._publish.setsockopt(zmq.SNDHWM, 0)
        self._answers = self._context.socket(zmq.ROUTER)
        self._count = self._waiting = 0
        self._ports = [
            each.bind_to_random_port(f"tcp://{LOOPBACK}") for each in (self._publish, self._answers)
        ]

    @property
    def words(self) -> list[str]:
        return list(map(str, self._ports))

    def await_peers(self, count: int) -> None:
        self._count = self._waiting = count
        for _ in range(count):
            self._publish.recv()
        self.await_rest()

    def send(self, payload: memoryview) -> None:
        self._waiting = self._count
        self._publish.send(LENGTH.pack(len(payload)))
        for piece in pieces(payload):
            self._publish.send(piece, 0, copy=len(piece) < zmq.COPY_THRESHOLD)

    def await_first(self) -> None:
        if not self._answers.poll(SILENCE_MS):
            raise RuntimeError("a peer of the floor has died")
        self._answers.recv_multipart()
        self._waiting -= 1

    def await_rest(self) -> None:
        while self._waiting:
            self.await_first()

    def close(self) -> None:
        self._publish.send(b"")
        self._context.destroy(linger=1000)


class ZeroMQReceiver:
    """A peer's SUB and DEALER."""

    def __init__(self, publish_port: str, answer_port: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._subscribe = self._context.socket(zmq.SUB)
        self._subscribe.setsockopt(zmq.RCVHWM, 0)
        self._answer = self._context.socket(zmq.DEALER)
        self._answer.connect(f"tcp://{LOOPBACK}:{answer_port}")
        self._subscribe.connect(f"tcp://{LOOPBACK}:{publish_port}")
        self._subscribe.subscribe(b"")
        self.acknowledge()

    def payloads(self) -> Iterator[Iterator[memoryview]]:
        while header := self._subscribe.recv():
            (size,) = LENGTH.unpack(header)
            yield self._pieces(size)

    def _pieces(self, size: int) -> Iterator[memoryview]:
        for _ in range(0, size, PIECE_BYTES):
            if size < zmq.COPY_THRESHOLD:
                yield memoryview(self._subscribe.recv())
            else:
                yield self._subscribe.recv(copy=False).buffer

    def acknowledge(self) -> None:
        self._answer.send(ACK)


def _tune(peer: socket.socket) -> None:
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        peer.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
