"""The lock that keeps a second process off a data directory, and what else must not be in there.

An flock on the file ``lock``, which holds the holder's process id for the message that the second one
gets. It goes with the process however that ends. Read-only readers do not need it.

What the store opens in there must be its own plain files: through a link it would write to a file that
somebody else named, and a pipe would be waited for without end.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

from replicator.errors import StoreError, StoreInUse

FILES = (
    "lock", "founding", "meta/data.mdb", "meta/lock.mdb",
    "payload/data.mdb", "payload/lock.mdb", "payload/journal",
)  # fmt: skip
LOOKS, LOOK_S = 4, 0.01
DIRECTORIES = ("meta", "payload")
NAMES = {name.rpartition("/")[2] for name in FILES if "/" in name}  # what is made in these


def check_directory(directory: Path) -> None:
    """Raise `StoreError` if anybody could write to the data directory, or it holds links, pipes or such."""
    if directory.stat().st_mode & stat.S_IWOTH:
        raise StoreError(f"data directory {directory} can be written by anybody; do: chmod o-w {directory}")
    for names, is_right, what in ((DIRECTORIES, stat.S_ISDIR, "directory"), (FILES, stat.S_ISREG, "file")):
        for path in (directory / name for name in names):
            try:
                mode = path.lstat().st_mode
            except (FileNotFoundError, NotADirectoryError):
                continue
            if not is_right(mode):
                raise StoreError(
                    f"{path} is no plain {what}; remove it, or choose another REPLICATOR_DATA_DIR"
                )


def is_locked(directory: Path) -> bool:
    """Whether a process holds the lock just now."""
    with suppress(FileNotFoundError), (directory / "lock").open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


class DirectoryLock:
    """Held from its making until `release`."""

    def __init__(self, directory: Path) -> None:
        """Make the directory if need be and lock it.

        Raises `StoreInUse` if another process holds it, `StoreError` if it cannot be used as it is.
        """
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_directory(directory)
            self._file = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except FileExistsError as error:
            raise StoreError(f"data directory {directory} cannot be used: it is a file") from error
        except OSError as error:
            raise StoreError(f"data directory {directory} cannot be used: {error.strerror}") from error
        try:
            self._lock()
        except OSError as error:
            holder = os.pread(self._file, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._file)
            raise StoreInUse(
                f"data directory {directory} is in use by process {holder}; "
                "stop it or choose another REPLICATOR_DATA_DIR"
            ) from error
        with suppress(OSError):  # no room: whoever comes next is told of an unknown process
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def _lock(self) -> None:
        """Lock it, or raise OSError. Who only looks whether it is locked has it for an instant."""
        for _ in range(LOOKS):
            with suppress(BlockingIOError):
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(LOOK_S)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        """Let go; safe to call twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
