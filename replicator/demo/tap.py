"""The source's tap: how many rows have arrived so far, whatever the engines are doing.

Sensors do not wait for an engine that has died. The director turns the tap; engines read it through
shared memory and find after a takeover what has piled up meanwhile.
"""

from __future__ import annotations

import mmap
from pathlib import Path


class Tap:
    """An 8-byte counter in a file: one process writes it, any number read it."""

    def __init__(self, path: Path) -> None:
        path.touch()
        with path.open("r+b") as file:
            file.truncate(mmap.PAGESIZE)
            self._words = memoryview(mmap.mmap(file.fileno(), mmap.PAGESIZE)).cast("Q")

    @property
    def arrived(self) -> int:
        """The number of rows that have arrived."""
        return self._words[0]

    @arrived.setter
    def arrived(self, count: int) -> None:
        self._words[0] = count
