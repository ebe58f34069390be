"""The lock that keeps a second process off a data directory.

An flock on the file ``lock``, which holds the holder's process id for the message that the second one
gets. It goes with the process however that ends. Read-only readers do not need it.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from replicator.errors import StoreError, StoreInUse


class DirectoryLock:
    """Held from its making until `release`."""

    def __init__(self, directory: Path) -> None:
        """Make the directory if need be and lock it; raises `StoreInUse` if another holds it."""
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreError(f"data directory {directory} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._file, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._file)
            raise StoreInUse(
                f"data directory {directory} is in use by process {holder}; "
                "stop it or choose another REPLICATOR_DATA_DIR"
            ) from error
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let go; safe to call twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
