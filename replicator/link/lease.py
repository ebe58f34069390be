"""The lease words: one page of memory that says until when each tenure may call itself primary.

The worker writes a tenure's deadline there, the engine reads it on its hot path without asking anybody
(R24, R25). A word is an instant of CLOCK_BOOTTIME in seconds, 0 when the tenure is suspended or ended: a
double in 8 aligned bytes, so that no reader ever sees half of one. Doubles are read and compared faster than
large integers, and are exact to a few nanoseconds for a year. A tenure has a slot of its own, so
an engine that still holds an old tenure never reads a new one's deadline.
"""

from __future__ import annotations

import mmap
import os

from replicator.descriptor import above_standard

SLOTS = 512
WORD_BYTES = 8
NANOSECONDS = 1_000_000_000
PAGE_BYTES = SLOTS * WORD_BYTES


class LeaseSlot:
    """One tenure's word. *word* is its memory, one double, for readers in a hurry."""

    __slots__ = ("word",)

    def __init__(self, word: memoryview[float]) -> None:
        self.word = word

    @property
    def deadline_ns(self) -> int:
        """The instant of CLOCK_BOOTTIME, in ns, until which the tenure is active; 0: it is not."""
        return round(self.word[0] * NANOSECONDS)

    @deadline_ns.setter
    def deadline_ns(self, deadline_ns: int) -> None:
        self.word[0] = deadline_ns / NANOSECONDS


class LeaseWords:
    """The page, shared by file descriptor with a child process, or as this very object with a thread."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._words = memoryview(mmap.mmap(fd, PAGE_BYTES)).cast("d")

    @classmethod
    def create(cls) -> LeaseWords:
        """A new page of zeros, not inherited by children unless passed to them."""
        (fd,) = above_standard(os.memfd_create("replicator-lease", os.MFD_CLOEXEC))
        os.truncate(fd, PAGE_BYTES)
        return cls(fd)

    @classmethod
    def attach(cls, fd: int) -> LeaseWords:
        """The page behind an inherited descriptor; raises OSError or ValueError if it is not one."""
        os.set_inheritable(fd, False)
        return cls(fd)

    def slot(self, number: int) -> LeaseSlot:
        """The word of the tenure with that number; slots are used in turn."""
        index = number % SLOTS
        return LeaseSlot(self._words[index : index + 1])

    def clear(self) -> None:
        """End every tenure."""
        for index in range(SLOTS):
            self._words[index] = 0.0

    def close(self) -> None:
        """Close the descriptor. The memory stays as long as anybody reads a word of it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
