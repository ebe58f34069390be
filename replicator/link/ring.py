"""The ring: records in memory that two processes share, written in a microsecond and read in order.

The writer puts a record down and counts it in an eventfd, which wakes a reader that sleeps. That count also
orders memory between the two: a record is looked at only when it has been counted. How far the reader is done
stands in a word of the same memory, so the writer knows it without a call of the system.
"""

from __future__ import annotations

import mmap
import os
import struct
from contextlib import ExitStack

from replicator.descriptor import above_standard
from replicator.link.memory import ring_holding

CAPACITY_BYTES = 2**16
WORDS = 512  # of 8 bytes, a page of its own
PASSED, WANTED, NONCE, ADDRESS = range(4)  # what the words are

_LENGTH = struct.Struct("=I")
_WORDS_BYTES = WORDS * 8


class Ring:
    """Both ends of it. *fds* are the memory and the bell, which is readable while a record waits.

    Positions count the bytes that were ever written; `passed[0]` is the one up to which the reader is done.
    """

    def __init__(self, fds: tuple[int, int]) -> None:
        self.fds = fds
        memory = memoryview(mmap.mmap(fds[0], _WORDS_BYTES + CAPACITY_BYTES))
        self.words = memory[:_WORDS_BYTES].cast("Q")
        self.passed = self.words[PASSED : PASSED + 1]
        self._bytes = memory[_WORDS_BYTES:]
        self._at = self.passed[0]  # how far this end has come

    @classmethod
    def create(cls) -> Ring:
        """An empty one, not inherited by children unless passed to them."""
        (memory,) = above_standard(os.memfd_create("replicator-line", os.MFD_CLOEXEC))
        with ExitStack() as undo:
            undo.callback(os.close, memory)
            os.truncate(memory, _WORDS_BYTES + CAPACITY_BYTES)
            (bell,) = above_standard(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC | os.EFD_SEMAPHORE))
            undo.callback(os.close, bell)
            ring = cls((memory, bell))
            undo.pop_all()
        return ring

    @classmethod
    def attach(cls, fds: tuple[int, int]) -> Ring:
        """The one behind inherited descriptors; raises OSError or ValueError if there is none."""
        for fd in fds:
            os.set_inheritable(fd, False)
        return cls(fds)

    # ── the writer: one thread at a time ──

    def put(self, record: bytes) -> int:
        """Write a record over whatever was not told of; the position after it, or 0 if there is no room."""
        end = self._at + _LENGTH.size + len(record)
        if end - self.passed[0] > CAPACITY_BYTES:
            return 0
        data, start = _LENGTH.pack(len(record)) + record, self._at % CAPACITY_BYTES
        fits = CAPACITY_BYTES - start
        self._bytes[start : start + len(data)] = data[:fits]
        if fits < len(data):
            self._bytes[: len(data) - fits] = data[fits:]
        return end

    def tell(self, position: int) -> None:
        """Tell the reader of the record that was put and ends there, unless it knows. Never waits."""
        if self._at < position:
            self._at = position  # and then at once: no signal's handler, which might raise, comes between
            ring_holding(self.fds[1], 1)  # who gives the lock up gets it back when the other thread is done

    # ── the reader ──

    def take(self) -> bytes | None:
        """The next record, if there is one; raises ValueError if it cannot be one."""
        try:
            os.eventfd_read(self.fds[1])
        except BlockingIOError:
            return None
        (size,) = _LENGTH.unpack(self._read(self._at, _LENGTH.size))
        if size > CAPACITY_BYTES:
            raise ValueError(f"a record of {size} bytes in a ring of {CAPACITY_BYTES}")
        self._at += _LENGTH.size + size
        return self._read(self._at - size, size)

    def keep_ringing(self) -> None:
        """The bell stays readable, though the last record has been taken: one is not done with it."""
        os.eventfd_write(self.fds[1], 1)

    def stop_ringing(self) -> None:
        """Undo `keep_ringing`."""
        os.eventfd_read(self.fds[1])

    def done(self) -> None:
        """The reader is done with what it has taken."""
        self.passed[0] = self._at

    def close(self) -> None:
        """Close the descriptors. The memory stays as long as anybody reads a word of it."""
        fds, self.fds = self.fds, (-1, -1)
        for fd in fds:
            if fd >= 0:
                os.close(fd)

    def _read(self, position: int, size: int) -> bytes:
        start = position % CAPACITY_BYTES
        fits = min(size, CAPACITY_BYTES - start)
        return bytes(self._bytes[start : start + fits]) + bytes(self._bytes[: size - fits])
