"""The direct line: from `submit()` to a worker process, past the engine's link thread.

Any thread of the engine that wakes while its main thread works wants the interpreter's lock, and an engine
feels that at every checkpoint. So `submit()` itself tells the worker, with one short record in a ring that
both share: what the checkpoint is, and where in the engine's memory it lies. The worker copies it from there,
a piece at a time between its other duties, and goes on as with any Submit. That it has read the payload
stands in a word of the ring, too: nobody of the engine is woken by it, unless somebody waits for it.
What becomes of checkpoints comes back by datagrams, and is taken in by the link's thread without giving up
the interpreter's lock in between.

What does not fit (a full ring or socket, very many parts) takes the link, as all other messages do. Both ends
read what was said here before they read what was said after it on the link. A worker that may read the
engine's memory no longer says so, and everything takes the link from then on.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping

from msgspec.msgpack import Decoder, Encoder

from replicator.descriptor import above_standard
from replicator.errors import UNREADABLE, MessageError
from replicator.link import memory
from replicator.link.messages import Aborted, Place, ShortToEngine, Submit, SubmitInPlace, Unread
from replicator.link.ring import ADDRESS, NONCE, WANTED, Ring
from replicator.model import Buffer

RECORD_BYTES_MAX = DATAGRAM_BYTES_MAX = 2**15
PLACES_MAX = 1_000  # more would not fit, whatever their names
SLICE_BYTES, SLICE_S = 2**22, 0.001  # read before other duties have their turn; whichever is over first
PIECE_BYTES = 2**18  # read in one go
MAP_BYTES_MIN = 2**22  # of a part that gets pages of its own; below, memory that was used before is faster

WorkerFds = tuple[int, int, int]  # the ring's memory, its bell, the socket


class EngineLine:
    """The engine's end. One thread at a time may send, and one receive."""

    def __init__(self) -> None:
        self._ring = Ring.create()
        self._ring.words[NONCE] = int.from_bytes(os.urandom(8))
        self._ring.words[ADDRESS] = memory.address_of(self._ring.words)
        try:
            ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            own, other = above_standard(*(end.detach() for end in ends))
        except OSError:
            self._ring.close()
            raise
        self._socket, self._other = socket.socket(fileno=own), socket.socket(fileno=other)
        self._socket.setblocking(False)
        self._encoder, self._decoder = Encoder(), Decoder(ShortToEngine)
        self._heard = ctypes.create_string_buffer(DATAGRAM_BYTES_MAX)
        self.tell = self._ring.tell  # the worker, of the checkpoint that was written down up to a position
        self.passed = self._ring.passed  # its word is the position up to which the worker has read
        self.worker_fds: WorkerFds = (*self._ring.fds, self._other.fileno())

    def admit(self, pid: int) -> None:
        """The worker has been started."""
        memory.admit_reader(pid)
        self._other.close()

    def fileno(self) -> int:
        """What to poll for reading."""
        return self._socket.fileno()

    def send(
        self, place: tuple[int, str, int, int], parts: Mapping[str, Buffer], meta: bytes, is_mapping: bool
    ) -> int:
        """Write down a checkpoint (*place*: epoch, stream, sequence, handle), for `tell` to tell of; the
        position in `passed` at which it has been read, or 0 if it does not go."""
        if len(parts) > PLACES_MAX:
            return 0
        places = [
            Place(name, memory.address_of(part) if part else 0, len(part)) for name, part in parts.items()
        ]
        record = self._encoder.encode(SubmitInPlace(*place, meta, tuple(places), is_mapping))
        return self._ring.put(record) if len(record) <= RECORD_BYTES_MAX else 0

    def want_released(self, wanted: bool) -> None:
        """Whether somebody waits for a payload to be read: the worker then says Released when it has."""
        self._ring.words[WANTED] = wanted

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
        self._ring.close()
        self._socket.close()
        self._other.close()


class WorkerLine:
    """The worker's end. The ring's bell stays readable until all that was said there has been read."""

    def __init__(self, fds: WorkerFds, engine_pid: int) -> None:
        self._ring = Ring.attach((fds[0], fds[1]))
        self._socket = socket.socket(fileno=fds[2])
        self._socket.setblocking(False)
        self._encoder, self._decoder = Encoder(), Decoder(SubmitInPlace)
        self._memory = memory.EngineMemory(engine_pid)
        self._reading: _Reading | None = None
        self._has_failed = False

    def fileno(self) -> int:
        """What to poll for reading."""
        return self._ring.fds[1]

    def can_read(self) -> bool:
        """Whether the engine's memory can be read."""
        try:
            self._recognise()
        except (OSError, AttributeError):  # forbidden; a C library that does not know the call
            return False
        return True

    def send(self, message: ShortToEngine) -> bool:
        """Say that to the engine; whether it has gone."""
        datagram = self._encoder.encode(message)
        return len(datagram) <= DATAGRAM_BYTES_MAX and memory.send_holding(self._socket.fileno(), datagram)

    @property
    def is_reading(self) -> bool:
        """Whether a checkpoint has been read in part: call `receive` again."""
        return self._reading is not None

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for a payload to be read."""
        return bool(self._ring.words[WANTED])

    def receive(self) -> Iterator[tuple[Submit, list[memoryview]] | Aborted | Unread]:
        """The checkpoints that have come, until there are no more or a large one has been read in part; or
        what is to be said of one that could not be read. After an `Unread` nothing is read here any more.
        Raises `MessageError`."""
        while (reading := self._next()) is not None:
            found: tuple[Submit, list[memoryview]] | Aborted | Unread = (reading.submit, reading.parts)
            try:
                if not reading.go_on(self._memory):
                    self._ring.keep_ringing()
                    return
                self._recognise()  # not before it has been read: an exec may have come at any piece
            except MemoryError:
                found = Aborted(reading.submit.handle, "the worker has no memory for the payload")
            except OSError as error:
                found = Unread(f"the engine's memory cannot be read: {error}")
                self._has_failed = True  # and the ring's word stays where it is: this one has not been read
            self._reading = None
            if not self._has_failed:
                self._ring.done()
            yield found

    def close(self) -> None:
        """Close the socket and the ring."""
        self._socket.close()
        self._ring.close()

    def _recognise(self) -> None:
        """Raise OSError unless what can be read is memory of the engine's program: it has the same ring."""
        found = bytearray(self._ring.words.itemsize)
        self._memory.read(self._ring.words[ADDRESS] + NONCE * len(found), found)
        if int.from_bytes(found, sys.byteorder) != self._ring.words[NONCE]:
            raise ProcessLookupError("another program runs in the engine's process")

    def _next(self) -> _Reading | None:
        """What is being read, or else comes next; raises `MessageError`."""
        if self._reading is not None:
            self._ring.stop_ringing()
            return self._reading
        try:
            while (record := self._ring.take()) is not None:
                if not self._has_failed:
                    self._reading = _Reading(self._decoder.decode(record))
                    return self._reading
        except UNREADABLE as error:
            raise MessageError(f"not a message of the direct line: {error}") from error
        return None


class _Reading:
    """A checkpoint on its way from the engine's memory into that of the worker."""

    def __init__(self, message: SubmitInPlace) -> None:
        names = tuple(place.name for place in message.places)
        where = (message.epoch, message.stream, message.sequence, message.handle)
        self.submit = Submit(*where, message.meta, names, message.is_mapping)
        self.parts: list[memoryview] = []
        self._pieces = self._make_pieces(message.places)

    def go_on(self, engine: memory.EngineMemory) -> bool:
        """Read a slice's worth; whether that was all. Raises OSError, and MemoryError if there is no room."""
        left_bytes, until = SLICE_BYTES, time.monotonic() + SLICE_S
        while left_bytes > 0 and time.monotonic() < until:
            if (piece := next(self._pieces, None)) is None:
                return True
            engine.read(*piece)
            left_bytes -= len(piece[1])
        return False

    def _make_pieces(self, places: Iterable[Place]) -> Iterator[tuple[int, memoryview]]:
        """Where each piece lies and where it goes; room is made for one part after the other."""
        for place in places:
            part = memoryview(_room(place.size_bytes))
            self.parts.append(part)
            for start in range(0, place.size_bytes, PIECE_BYTES):
                yield place.address + start, part[start : start + PIECE_BYTES]


def _room(size_bytes: int) -> bytearray | mmap.mmap:
    """Memory for a part: a large one's pages are its own, few and large, and nobody fills them with zeros.
    Raises MemoryError."""
    if size_bytes < MAP_BYTES_MIN:
        return bytearray(size_bytes)
    try:
        room = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(*error.args) from error
    with contextlib.suppress(OSError):  # a kernel without large pages
        room.madvise(mmap.MADV_HUGEPAGE)
    return room
