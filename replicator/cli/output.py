"""Standard output and standard error of a command, or of a script, whatever they were made to be.

They may be closed, full, or of an encoding that has few characters, and whoever reads them may go. Needs
neither typer nor rich.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from errno import EAGAIN, EBADF, EDQUOT, EFBIG, EIO, ENOSPC
from typing import Self, TextIO

from replicator.model import Buffer

UNWRITABLE = (ENOSPC, EDQUOT, EFBIG, EIO)  # of a file whoever writes it raises an error that names it


def guarded(program: str, act: Callable[[], int]) -> int:
    """The exit status that *act* returns; 1, with a line of *program*, if the system refused it something.

    Nothing is said of a reader that has gone.
    """
    prepare()
    try:
        try:
            status = act()
        except SystemExit:  # of an argument parser, which may have printed its help
            sys.stdout.flush()
            raise
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        drop(sys.stdout)
        return 1
    except OSError as error:
        where = error.filename or "system"
        if error.filename is None and error.errno in UNWRITABLE:
            drop(sys.stdout)
            where = "standard output"
        return complain(f"{program}: {where}: {error.strerror or error}", 1)
    finally:
        _settle_errors()


def prepare() -> None:
    """Have standard output fail if it is closed, and escape the characters that its encoding lacks."""
    if sys.stdout is None:
        sys.stdout = _Closed()
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def write(content: Buffer) -> None:
    """Write bytes that no encoding changes: a program reads UTF-8 whatever people's terminals show."""
    sys.stdout.flush()
    rest = memoryview(content).cast("B")
    while rest:  # without a buffer (PYTHONUNBUFFERED) a part is taken at a time, as the system likes
        taken = sys.stdout.buffer.write(rest)
        if taken is None:
            raise BlockingIOError(EAGAIN, os.strerror(EAGAIN), "standard output")
        rest = rest[taken:]
    sys.stdout.buffer.flush()


def complain(text: str, status: int) -> int:
    """Say it on standard error, if there is any, and return *status*."""
    if sys.stderr is not None:  # print would take standard output instead
        with suppress(OSError):
            print(text, file=sys.stderr)
    return status


def drop(stream: TextIO) -> None:
    """What is left in the buffer of a standard stream must not fail once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Closed(io.TextIOBase):
    """Standard output where whoever started us has closed it: a command that prints fails, others do not."""

    @property
    def buffer(self) -> Self:
        return self

    def write(self, text: object) -> int:
        raise OSError(EBADF, os.strerror(EBADF), "standard output")


def _settle_errors() -> None:
    """What standard error does not take is lost, and changes no exit status."""
    if sys.stderr is not None:
        try:
            sys.stderr.flush()
        except OSError:
            drop(sys.stderr)
