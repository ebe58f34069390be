"""The direct line: from `submit()` to a worker process, past the engine's link thread.

Any thread of the engine that wakes while its main thread works wants the interpreter's lock, and an engine
feels that at every checkpoint. So `submit()` itself tells the worker, with one datagram of some hundred
bytes that never waits: what the checkpoint is, and where in the engine's memory it lies. The worker copies
it from there, a piece at a time between its other duties, says Released, and goes on as with any Submit.
What becomes of checkpoints comes back the same way, and is taken in by the link's thread without giving up
the interpreter's lock in between.

What does not fit (a full socket, very many parts) takes the link, as all other messages do. Both ends read
what was said here before they read what was said after it on the link.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import socket
from collections.abc import Iterator, Mapping

from msgspec.msgpack import Decoder, Encoder

from replicator.errors import UNREADABLE, MessageError
from replicator.link import memory
from replicator.link.messages import Place, ShortToEngine, Submit, SubmitInPlace
from replicator.model import Buffer

DATAGRAM_BYTES_MAX = 2**15
PIECE_BYTES = 2**22  # read in one go: less than a millisecond
MAP_BYTES_MIN = 2**22  # of a part that gets pages of its own; below, memory that was used before is faster


class EngineLine:
    """The engine's end. One thread at a time may send, and one receive."""

    def __init__(self, probe: Buffer) -> None:
        self._socket, self._other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        self._encoder, self._decoder = Encoder(), Decoder(ShortToEngine)
        self._heard = ctypes.create_string_buffer(DATAGRAM_BYTES_MAX)
        self.probe_address = memory.address_of(probe)  # the worker tries to read that
        self.worker_fd = self._other.fileno()
        # The worker inherits both ends: it never sees the end of the line, which would keep it from sleeping.
        self.fds = (self.worker_fd, self._socket.fileno())

    def admit(self, pid: int) -> None:
        """The worker has been started."""
        memory.admit_reader(pid)
        self._other.close()

    def fileno(self) -> int:
        """What to poll for reading."""
        return self._socket.fileno()

    def send(
        self, place: tuple[int, str, int, int], parts: Mapping[str, Buffer], meta: bytes, is_mapping: bool
    ) -> bool:
        """Tell of a checkpoint (*place*: epoch, stream, sequence, handle); whether it has gone."""
        places = tuple(
            [Place(name, memory.address_of(part) if part else 0, len(part)) for name, part in parts.items()]
        )
        datagram = self._encoder.encode(SubmitInPlace(*place, meta, places, is_mapping))
        # Whoever gives up the interpreter's lock may find the link's thread at work when it wants it back.
        return len(datagram) <= DATAGRAM_BYTES_MAX and memory.send_holding(self._socket.fileno(), datagram)

    def receive(self) -> Iterator[ShortToEngine]:
        """What the worker has said; raises `MessageError`."""
        fd, heard = self._socket.fileno(), self._heard
        while (size := memory.receive_holding(fd, heard)) > 0:
            try:
                yield self._decoder.decode(memoryview(heard)[:size])
            except UNREADABLE as error:
                raise MessageError(f"not a message of the direct line: {error}") from error

    def close(self) -> None:
        """Close both ends."""
        self._socket.close()
        self._other.close()


class WorkerLine:
    """The worker's end. A datagram stays in the socket, which thereby stays readable, until all that it
    speaks of has been read."""

    def __init__(self, fd: int, engine_pid: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self._encoder, self._decoder = Encoder(), Decoder(SubmitInPlace)
        self._memory = memory.EngineMemory(engine_pid)
        self._datagram = bytearray(DATAGRAM_BYTES_MAX)
        self._reading: _Reading | None = None

    def fileno(self) -> int:
        """What to poll for reading."""
        return self._socket.fileno()

    def can_read(self, address: int) -> bool:
        """Whether the engine's memory can be read."""
        return self._memory.is_readable(address)

    def send(self, message: ShortToEngine) -> bool:
        """Say that to the engine; whether it has gone."""
        datagram = self._encoder.encode(message)
        return len(datagram) <= DATAGRAM_BYTES_MAX and memory.send_holding(self._socket.fileno(), datagram)

    @property
    def is_reading(self) -> bool:
        """Whether a checkpoint has been read in part: call `receive` again."""
        return self._reading is not None

    def receive(self) -> Iterator[tuple[Submit, list[memoryview], OSError | None]]:
        """The checkpoints that have come, until there are no more or a large one has been read in part.
        With an error: that one could not be read."""
        while self._reading is not None or self._begin():
            reading, error = self._reading, None
            assert reading is not None
            try:
                if not reading.go_on(self._memory):
                    return
            except OSError as failed:
                error = failed
            self._reading = None
            self._socket.recv_into(self._datagram)
            yield reading.submit, reading.parts, error

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _begin(self) -> bool:
        """Look at the next datagram, if there is one; raises `MessageError`."""
        try:
            size = self._socket.recv_into(self._datagram, 0, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        try:
            self._reading = _Reading(self._decoder.decode(memoryview(self._datagram)[:size]))
        except UNREADABLE as error:
            raise MessageError(f"not a message of the direct line: {error}") from error
        return True


class _Reading:
    """A checkpoint on its way from the engine's memory into that of the worker."""

    def __init__(self, message: SubmitInPlace) -> None:
        names = tuple(place.name for place in message.places)
        where = (message.epoch, message.stream, message.sequence, message.handle)
        self.submit = Submit(*where, message.meta, names, message.is_mapping)
        self.parts = [memoryview(_room(place.size_bytes)) for place in message.places]
        self._pieces = (
            (place.address + start, part[start : start + PIECE_BYTES])
            for place, part in zip(message.places, self.parts, strict=True)
            for start in range(0, place.size_bytes, PIECE_BYTES)
        )

    def go_on(self, engine: memory.EngineMemory) -> bool:
        """Read until a piece's worth is there; whether that was all."""
        left_bytes = PIECE_BYTES
        while left_bytes > 0:
            if (piece := next(self._pieces, None)) is None:
                return True
            engine.read(*piece)
            left_bytes -= len(piece[1])
        return False


def _room(size_bytes: int) -> bytearray | mmap.mmap:
    """Memory for a part: a large one's pages are its own, few and large, and nobody fills them with zeros."""
    if size_bytes < MAP_BYTES_MIN:
        return bytearray(size_bytes)
    room = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without large pages
        room.madvise(mmap.MADV_HUGEPAGE)
    return room
