"""Types of arguments for the scripts: what makes no sense is refused in a line, before anything is run."""

from __future__ import annotations

import os
import tempfile
from argparse import ArgumentTypeError
from collections.abc import Callable
from functools import partial
from math import inf
from pathlib import Path


def one_or_more(text: str) -> int:
    """How many of something, one at least."""
    return _at_least(1, int(text))


def none_or_more(text: str) -> int:
    """How many of something, which may be none."""
    return _at_least(0, int(text))


def above_zero(text: str) -> float:
    """So much of something, and more than nothing of it."""
    value = float(text)
    if not value > 0:  # nor is nan
        raise ArgumentTypeError(f"{text} is not more than 0")
    if value == inf:
        raise ArgumentTypeError(f"{text} has no end")
    return value


def readable(text: str) -> Path:
    """A file that can be read."""
    path = Path(text)
    try:
        path.open("rb").close()
    except OSError as error:
        raise ArgumentTypeError(f"{text} cannot be read: {error.strerror}") from None
    return path


def writable(text: str) -> Path:
    """A file that can be written anew or added to; it is neither made nor changed by asking."""
    path = Path(text)
    if path.exists() and not path.is_file():
        raise ArgumentTypeError(f"{text} cannot be written: not a regular file")
    if path.exists() and not os.access(path, os.W_OK):
        raise ArgumentTypeError(f"{text} cannot be written: no permission")
    directory(str(path.parent))  # where a draft is written first
    return path


def resumable(read: Callable[[Path], object]) -> Callable[[str], Path]:
    """A file to go on from, which need not be there; one that *read* raises ValueError for is refused."""
    return partial(_resumable, read=read)


def directory(text: str) -> Path:
    """A directory in which files can be made."""
    try:
        with tempfile.TemporaryFile(dir=text):
            return Path(text)
    except OSError as error:
        raise ArgumentTypeError(f"no file can be made in {text}: {error.strerror}") from None


def _resumable(text: str, read: Callable[[Path], object]) -> Path:
    path = writable(text)
    try:
        read(path)
    except OSError as error:
        raise ArgumentTypeError(f"{text} cannot be read: {error.strerror}") from None
    except ValueError:
        raise ArgumentTypeError(f"{text} has something else in it, and is left as it is") from None
    return path


def _at_least(least: int, value: int) -> int:
    if value < least:
        raise ArgumentTypeError(f"{value} is less than {least}")
    return value
