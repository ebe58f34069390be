"""Standard error for those who must not wait: a line that it does not take at once is lost.

Nobody may be reading it: a terminal is held with Ctrl-S, a pipe's reader is stopped. Whoever waited for that
would take no more lines from others, and a control thread that did would send no heartbeats.
"""

from __future__ import annotations

import logging
import os
import select
import stat
import sys
from contextlib import suppress

from replicator.descriptor import STDERR

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


class _Stream:
    """What a log handler writes to."""

    def write(self, text: str) -> None:
        write(text.encode(errors="backslashreplace"))

    def flush(self) -> None:
        """Nothing is kept back."""


def log(level: str) -> None:
    """Have this process's log go to its standard error, without ever waiting for it."""
    logging.basicConfig(stream=_Stream(), level=level, format=LOG_FORMAT)


def write(line: bytes) -> None:
    """Write a line, as far as it is taken at once, if there is a standard error.

    A process that has none gives its number to a file that it opens; but that is not inherited by children,
    as a standard error is.
    """
    with suppress(OSError):
        if sys.__stderr__ is None or not os.get_inheritable(STDERR):
            return
        try:
            own = _anew()
        except OSError:  # a socket, another user's terminal
            _write_while_polled(line)
            return
        try:
            os.write(own, line)
        finally:
            os.close(own)


def _anew() -> int:
    """A descriptor of the same that never waits: the flag would count for all who share this process's.
    Raises OSError. A file's is shared, as is the place in it where all of them write."""
    if stat.S_ISREG(os.fstat(STDERR).st_mode):
        return os.dup(STDERR)
    return os.open(f"/proc/self/fd/{STDERR}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)


def _write_while_polled(line: bytes) -> None:
    poll = select.poll()
    poll.register(STDERR, select.POLLOUT)
    for start in range(0, len(line), select.PIPE_BUF):  # so much goes into what says that it takes anything
        if not any(found & select.POLLOUT for _, found in poll.poll(0)):
            return
        os.write(STDERR, line[start : start + select.PIPE_BUF])
