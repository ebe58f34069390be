"""What a store does to the files in its directory, call by call: LMDB's calls and those of Python's `os`."""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from ctypes import c_int, c_int64, c_size_t, c_ssize_t, c_void_p
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lmdb.cpython
from msgspec import Struct

from tests.adapters.power.imports import LIBC, function, replaced

LMDB = Path(lmdb.cpython.__file__).resolve()
IGNORED = ("lock", "lock.mdb")  # their contents say nothing after the death of all processes


class Write(Struct, frozen=True):
    """Bytes handed to the operating system, which may write them now, later, in parts, or never."""

    path: str
    offset: int
    data: bytes


class Sync(Struct, frozen=True):
    """A wait for the disk is over: all that was written to the file, or to a range of it, is on the disk."""

    path: str
    start: int = 0
    end: int = 2**63


class SyncNames(Struct, frozen=True):
    """The names in a directory are on the disk as they are."""

    path: str


class Remove(Struct, frozen=True):
    """A name is gone, and with it the file or the empty directory."""

    path: str


Call = Write | Sync | SyncNames | Remove


class Recorder:
    """The calls so far that concern what lies in *root*; paths are relative to it."""

    def __init__(self, root: Path) -> None:
        self._root = f"{root.resolve()}/"
        self.calls: list[Call] = []

    def wrote(self, file: int, offset: int, data: bytes, *, flags: int = 0) -> None:
        """A write has been taken; a file opened or a write made with DSYNC is waited for at once."""
        path = self._path(file)
        if path is None:
            return
        self.calls.append(Write(path, offset, data))
        if flags & os.RWF_DSYNC or fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DSYNC:
            self.calls.append(Sync(path, offset, offset + len(data)))

    def synced(self, file: int) -> None:
        """A sync has returned without an error."""
        path = self._path(file)
        if path is not None:
            self.calls.append(SyncNames(path) if os.path.isdir(self._root + path) else Sync(path))

    def removed(self, name: str | os.PathLike[str], directory: int | None) -> None:
        """A name has been removed."""
        base = os.getcwd() if directory is None else os.readlink(f"/proc/self/fd/{directory}")
        path = self._relative(os.path.join(base, os.fspath(name)))
        if path is not None:
            self.calls.append(Remove(path))

    def _path(self, file: int) -> str | None:
        return self._relative(os.readlink(f"/proc/self/fd/{file}"))

    def _relative(self, path: str) -> str | None:
        inside = f"{path}/".startswith(self._root) and os.path.basename(path) not in IGNORED
        return path[len(self._root) :] if inside else None


class _Piece(ctypes.Structure):
    _fields_ = (("base", c_void_p), ("size", c_size_t))


_active: Recorder | None = None


@contextmanager
def recording(root: Path) -> Iterator[Recorder]:
    """Record what this process does to files in *root*, one recorder at a time."""
    global _active
    with ExitStack() as stack:
        if _active is None:
            stack.enter_context(replaced(LMDB, _FROM_LMDB))
            for name, wrapper in _FROM_PYTHON.items():
                stack.enter_context(patch.object(os, name, wrapper(getattr(os, name))))
        before, _active = _active, Recorder(root)
        try:
            yield _active
        finally:
            _active = before


# ── called by LMDB ──


@function(c_ssize_t, c_int, c_void_p, c_size_t, c_int64)
def _pwrite(file: int, data: int, size: int, offset: int) -> int:
    done = int(LIBC.pwrite(c_int(file), c_void_p(data), c_size_t(size), c_int64(offset)))
    if done > 0 and _active:
        _active.wrote(file, offset, ctypes.string_at(data, done))
    return done


@function(c_ssize_t, c_int, ctypes.POINTER(_Piece), c_int)
def _writev(file: int, pieces: Any, count: int) -> int:
    offset = os.lseek(file, 0, os.SEEK_CUR)
    done = int(LIBC.writev(c_int(file), pieces, c_int(count)))
    if done > 0 and _active:
        _active.wrote(file, offset, _joined(pieces, count)[:done])
    return done


@function(c_ssize_t, c_int, ctypes.POINTER(_Piece), c_int, c_int64)
def _pwritev(file: int, pieces: Any, count: int, offset: int) -> int:
    done = int(LIBC.pwritev(c_int(file), pieces, c_int(count), c_int64(offset)))
    if done > 0 and _active:
        _active.wrote(file, offset, _joined(pieces, count)[:done])
    return done


@function(c_int, c_int)
def _fdatasync(file: int) -> int:
    done = int(LIBC.fdatasync(c_int(file)))
    if done == 0 and _active:
        _active.synced(file)
    return done


def _joined(pieces: Any, count: int) -> bytes:
    return b"".join(ctypes.string_at(pieces[i].base, pieces[i].size) for i in range(count))


_FROM_LMDB = {
    "pwrite": _pwrite,
    "writev": _writev,
    "pwritev": _pwritev,
    "fdatasync": _fdatasync,
    "fsync": _fdatasync,
}


# ── called by Python ──


def _open_of(real: Callable[..., int]) -> Callable[..., int]:
    def open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        file = real(path, flags, mode, dir_fd=dir_fd)
        if _active and flags & os.O_CREAT:
            _active.wrote(file, 0, b"")  # perhaps a new name
        return file

    return open


def _pwrite_of(real: Callable[..., int]) -> Callable[..., int]:
    def pwrite(file: int, data: bytes, offset: int) -> int:
        done = real(file, data, offset)
        if _active:
            _active.wrote(file, offset, bytes(data)[:done])
        return done

    return pwrite


def _pwritev_of(real: Callable[..., int]) -> Callable[..., int]:
    def pwritev(file: int, buffers: Iterable[bytes], offset: int, flags: int = 0) -> int:
        buffers = list(buffers)
        done = real(file, buffers, offset, flags)
        if _active:
            _active.wrote(file, offset, b"".join(buffers)[:done], flags=flags)
        return done

    return pwritev


def _sync_of(real: Callable[[int], None]) -> Callable[[int], None]:
    def sync(file: int) -> None:
        real(file)
        if _active:
            _active.synced(file)

    return sync


def _remove_of(real: Callable[..., None]) -> Callable[..., None]:
    def remove(path: str | os.PathLike[str], *, dir_fd: int | None = None) -> None:
        real(path, dir_fd=dir_fd)
        if _active:
            _active.removed(path, dir_fd)

    return remove


_FROM_PYTHON: dict[str, Callable[..., Any]] = {
    "open": _open_of,
    "pwrite": _pwrite_of,
    "pwritev": _pwritev_of,
    "fsync": _sync_of,
    "fdatasync": _sync_of,
    "unlink": _remove_of,
    "rmdir": _remove_of,
}
