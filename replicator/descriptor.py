"""Descriptors with numbers of their own: none of the three that are kept for the standard streams.

A process that was started without one of those gives its number to what it opens next. That is lost when a
child's standard streams are put over it, or when the process makes itself a daemon and puts them there.
"""

from __future__ import annotations

import os
from fcntl import F_DUPFD_CLOEXEC, fcntl

STDERR = 2


def above_standard(*fds: int) -> tuple[int, ...]:
    """Those descriptors; in the place of one that has a standard stream's number a duplicate that has not,
    and that no child inherits unless it is passed on. Raises OSError, and has then closed them all."""
    found: list[int] = []
    try:
        for fd in fds:
            found.append(fd if fd > STDERR else fcntl(fd, F_DUPFD_CLOEXEC, STDERR + 1))
    except OSError:
        _close({*fds, *found})
        raise
    _close({*fds}.difference(found))
    return tuple(found)


def _close(fds: set[int]) -> None:
    for fd in fds:
        os.close(fd)
