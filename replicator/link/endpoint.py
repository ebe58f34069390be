"""Both ends of the link: a ZeroMQ PAIR over ``ipc://`` to a child process, over ``inproc://`` to a thread.
A child process has a direct line (`link.line`) beside it, whose messages come out of `receive` in their turn.

Payload is not copied on either side: large parts are sent from where they lie and received as the frames
that ZeroMQ read them into. Sends never wait; the queue has no mark of its own because credit bounds it
(one payload per stream). What comes in is decoded by type, and whatever is not a message of the link
raises `MessageError`: the link is then of no further use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar

import zmq
from msgspec.msgpack import Decoder, Encoder

from replicator import multipart
from replicator.errors import UNREADABLE, MessageError, TransportError
from replicator.link.line import EngineLine, WorkerLine
from replicator.link.messages import (
    Released,
    Restored,
    ShortToEngine,
    StandbyOffered,
    Submit,
    ToEngine,
    ToWorker,
)
from replicator.model import Buffer

FAREWELL_S = 1.0  # how long a closed worker's end still sends what it had to say

Context = zmq.Context[zmq.Socket[bytes]]

_Incoming = TypeVar("_Incoming", ToEngine, ToWorker)
_Outgoing = TypeVar("_Outgoing", ToEngine, ToWorker)


class Tracker(Protocol):
    """Of payload that was sent from where it lies."""

    @property
    def done(self) -> bool:
        """Whether ZeroMQ reads it no longer."""


class _End(Generic[_Outgoing, _Incoming]):
    """What both ends are: a socket, an encoder for what goes, a decoder for what comes."""

    def __init__(self, context: Context, decoder: Decoder[_Incoming]) -> None:
        self._decoder: Decoder[_Incoming] = decoder
        self._encoder = Encoder()
        self.socket = context.socket(zmq.PAIR)
        self.socket.set_hwm(0)
        self.socket.linger = 0

    def send(self, message: _Outgoing, parts: Iterable[Buffer] = ()) -> Tracker | None:
        """Queue a message and its parts; never waits, and is lost when nobody is at the other end.

        Large parts are sent from where they lie, and Python refuses to resize them meanwhile. The tracker
        that comes with parts is done when ZeroMQ reads them no longer: they are on the wire (process), or
        dropped by the receiver (thread).
        """
        # ZeroMQ keeps a reference to the object only; a view keeps its memory in place, too.
        views: list[Buffer] = [memoryview(part) for part in parts]
        shares = sum(map(len, views)) >= zmq.COPY_THRESHOLD  # to copy less is cheaper than to track it
        frames: list[zmq.Frame] = [zmq.Frame(view, track=True) for view in views] if shares else []
        whole: list[zmq.Frame | Buffer] = [self._encoder.encode(message), *(frames or views)]
        if not multipart.send(self.socket, whole, copy=not shares):
            return None
        return zmq.MessageTracker(*frames) if frames else None  # that of the socket is of the last part alone

    def receive(self) -> Iterator[tuple[_Incoming, list[memoryview]]]:
        """All messages that have arrived, each with its parts; raises `MessageError`.

        The parts are views of the received frames and keep them alive.
        """
        is_there = self._is_there()
        while True:
            yield from self._receive_directly()
            if not is_there or (received := self._next()) is None:
                return
            yield received
            # Asked before the direct line is: what came first is read first.
            is_there = multipart.is_readable(self.socket)

    def _is_there(self) -> bool:
        """Whether the socket has something."""
        return multipart.is_readable(self.socket)

    def _receive_directly(self) -> Iterator[tuple[_Incoming, list[memoryview]]]:
        """What has come over the direct line, if there is one."""
        return iter(())

    def _next(self) -> tuple[_Incoming, list[memoryview]] | None:
        try:
            first, *rest = multipart.receive(self.socket)
        except zmq.Again:
            return None
        try:
            message = self._decoder.decode(first.buffer)
        except UNREADABLE as error:
            raise MessageError(f"not a message of the link: {error}") from error
        expected = len(message.part_names) if isinstance(message, _WITH_PARTS) else 0
        if len(rest) != expected:
            raise MessageError(f"{type(message).__name__} with {len(rest)} parts instead of {expected}")
        return message, [frame.buffer for frame in rest]

    def close(self, linger_s: float = 0) -> None:
        """Close the socket; what is queued is still sent for *linger_s* after it."""
        self.socket.close(linger=int(linger_s * 1000))


_WITH_PARTS = (Submit, Restored, StandbyOffered)


class Polled(Protocol):
    """What can be waited for besides the link."""

    def fileno(self) -> int: ...


class EngineEnd(_End[ToWorker, ToEngine]):
    """The end of the engine's link thread. It binds; nobody is there before the worker's `Started`.

    It makes a context of its own, which a worker in a thread shares.
    """

    def __init__(self, address: str) -> None:
        self.line: EngineLine | None = None
        self._poller = zmq.Poller()
        self._heard = True  # the link itself, the last time that somebody waited
        self.context: Context = zmq.Context()
        super().__init__(self.context, Decoder(ToEngine))
        self._poller.register(self.socket, zmq.POLLIN)
        try:
            self.socket.bind(address)
        except zmq.ZMQError as error:
            self.close()
            raise TransportError(f"cannot bind the worker's link {address}: {error}") from error

    def use(self, line: EngineLine) -> None:
        """Receive from that direct line, too."""
        self.line = line
        self.watch(line)

    def watch(self, source: Polled) -> None:
        """Let `wait` return when *source* is readable, too."""
        self._poller.register(source.fileno(), zmq.POLLIN)

    def wait(self, timeout_ms: int | None) -> set[object]:
        """Wait until something is readable: the descriptors of what is, besides the link's own socket."""
        found: set[object] = {source for source, _ in self._poller.poll(timeout_ms)}
        self._heard = self.socket in found
        return found

    def wait_for_link(self, timeout_ms: int) -> bool:
        """Wait for a message of the link alone; whether there is one."""
        self._heard = bool(self.socket.poll(timeout_ms))
        return self._heard

    def _is_there(self) -> bool:
        return self._heard

    def _receive_directly(self) -> Iterator[tuple[ToEngine, list[memoryview]]]:
        for message in self.line.receive() if self.line is not None else ():
            yield message, []

    def close(self, linger_s: float = 0) -> None:
        """Close the socket, and the context with every socket that is still open in it."""
        super().close(linger_s)
        self.context.destroy(linger=0)

    @staticmethod
    def warm_up() -> None:
        """Share a first frame: it starts a thread of ZeroMQ's, which is not for a tenure to wait for."""
        zmq.Frame(bytes(zmq.COPY_THRESHOLD), copy=False)


class WorkerEnd(_End[ToEngine, ToWorker]):
    """The end of the worker's control thread. It connects, and tells its memory apart from the engine's:
    what has come over ``ipc://`` is a copy, so the engine may have its payload back at once."""

    def __init__(self, address: str, context: Context, line: WorkerLine | None = None) -> None:
        super().__init__(context, Decoder(ToWorker))
        self._received_is_copy = address.startswith("ipc://")
        self._line = line
        try:
            self.socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            raise TransportError(f"cannot connect to the engine's link {address}: {error}") from error

    @property
    def sources(self) -> list[object]:
        """What is to be polled for reading, before `receive`."""
        return [self.socket] if self._line is None else [self.socket, self._line.fileno()]

    def send(self, message: ToEngine, parts: Iterable[Buffer] = ()) -> Tracker | None:
        """As `_End.send`; what is short takes the direct line."""
        if self._line is not None and isinstance(message, ShortToEngine) and self._line.send(message):
            return None
        return super().send(message, parts)

    def _next(self) -> tuple[ToWorker, list[memoryview]] | None:
        """As `_End._next`; a payload that was copied on its way is released at once. Nothing, while one is
        still being read that came before."""
        if self._line is not None and self._line.is_reading:
            return None
        received = super()._next()
        if received is not None and self._received_is_copy and isinstance(received[0], Submit):
            self.send(Released(received[0].handle))
        return received

    def _receive_directly(self) -> Iterator[tuple[ToWorker, list[memoryview]]]:
        for found in self._line.receive() if self._line is not None else ():
            if not isinstance(found, tuple):
                self.send(found)
                continue
            if self._line is not None and self._line.is_awaited:
                self.send(Released(found[0].handle))
            yield found

    def close(self, linger_s: float = FAREWELL_S) -> None:
        """Close the socket; the last words (a `Failed`, commits) are still sent."""
        super().close(linger_s)
