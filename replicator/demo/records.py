"""What an engine process writes down while it runs, and how the director reads it.

Every process has a directory of its own for each of its lives. What is written is in the kernel's hands
at once, so it outlives the process however that ends: a commit that was reported is on record.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from replicator.model import Position

Kind = Literal[
    "waiting",
    "restored",
    "serving",
    "committed",
    "superseded",
    "unknown",
    "ended",
    "finished",
    "status",
]
Prediction = tuple[int, int, float]  # source offset, epoch, probability

_RECORD = struct.Struct("<QQd")


def now() -> float:
    """The clock that all processes share: seconds of CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Entry(Struct, frozen=True, omit_defaults=True):
    """One thing that an engine process has seen: what, when, in which epoch's tenure, at which row."""

    kind: Kind
    at: float
    epoch: int = 0
    position: Position | None = None  # of the checkpoint restored, committed or superseded
    offset: int = 0  # the source offset that this checkpoint, or the engine, has come to
    text: str = ""
    numbers: dict[str, float] = {}


class Journal:
    """A process's entries, a line of JSON each."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "journal.jsonl"
        self._read_bytes = 0
        self._file = -1
        self._decoder = msgspec.json.Decoder(Entry)

    def append(self, entry: Entry) -> None:
        """Write one entry, in one call; may be used by any thread."""
        if self._file < 0:
            self._file = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.write(self._file, msgspec.json.encode(entry) + b"\n")

    def read_new(self) -> list[Entry]:
        """The entries that have come since the last call; a line under way waits for the next one."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._read_bytes)
            lines, _, _ = file.read().rpartition(b"\n")
        self._read_bytes += len(lines) + 1 if lines else 0
        return [self._decoder.decode(line) for line in lines.splitlines()]


class Predictions:
    """A process's output: 24 bytes for every row it predicted."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "predictions.bin"
        self._file = -1

    def append(self, predictions: Iterable[Prediction]) -> None:
        """Write them in one call: after it they are out, and a checkpoint may rely on it."""
        if self._file < 0:
            self._file = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.write(self._file, b"".join(_RECORD.pack(*prediction) for prediction in predictions))

    def read(self) -> Iterator[Prediction]:
        """All of them, in the order of writing; one that a kill cut short is not there."""
        data = self._path.read_bytes() if self._path.exists() else b""
        yield from _RECORD.iter_unpack(data[: len(data) - len(data) % _RECORD.size])


class Result(Struct, frozen=True):
    """What a run has come to. Two runs are identical if these are, and every single prediction is."""

    rows: int
    metric: float
    predictions_digest: str
    model_digest: str

    def write(self, directory: Path) -> None:
        """Leave it in *directory*, whole or not at all."""
        draft = directory / "result.draft"
        draft.write_bytes(msgspec.json.encode(self))
        draft.rename(directory / "result.json")

    @classmethod
    def read(cls, directory: Path) -> Result | None:
        """The result in *directory*; None while there is none."""
        path = directory / "result.json"
        return msgspec.json.decode(path.read_bytes(), type=cls) if path.exists() else None
