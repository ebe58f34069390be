"""A safe sink: SQLite transactions that carry the writer's epoch, and refuse one that has been overtaken.

A primary that was stopped, or cut off, may wake up when another has long taken over, in the middle of
writing its output. Its lease has passed by then, but it may not have looked. What excludes it is the
epoch, `tenure.epoch`, stored by the sink beside the data and compared in the same transaction.

    for tenure in replicator.tenures():
        sink.fence(tenure.epoch)                      # before anything is read or written
        ...
        sink.write(tenure.epoch, rows)                # raises Refused in a zombie
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

SCHEMA = """
CREATE TABLE IF NOT EXISTS fence (one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS output (offset INTEGER PRIMARY KEY, value REAL NOT NULL, epoch INTEGER NOT NULL);
INSERT OR IGNORE INTO fence VALUES (1, 0);
"""


class Refused(Exception):
    """A later tenure owns the sink: nothing was written. Stop; the engine here is no longer primary."""


class SqliteSink:
    """An engine's output by source offset. Rows replayed after a takeover replace themselves."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, timeout=5)
        self._connection.executescript("PRAGMA journal_mode = WAL;" + SCHEMA)

    def fence(self, epoch: int) -> None:
        """Take the sink for *epoch*: from now on it refuses every lower one. Raises `Refused`."""
        self.write(epoch, ())

    def write(self, epoch: int, rows: Iterable[tuple[int, float]]) -> None:
        """Write (offset, value) rows, all or none. Raises `Refused` if a higher epoch was here."""
        self._connection.execute("BEGIN IMMEDIATE")  # nobody writes between the comparison and the commit
        with self._connection:
            raised = self._connection.execute("UPDATE fence SET epoch = ? WHERE epoch <= ?", (epoch, epoch))
            if raised.rowcount == 0:
                raise Refused(f"epoch {epoch} is over; the sink is at epoch {self.epoch}")
            self._connection.executemany(
                "INSERT OR REPLACE INTO output VALUES (?, ?, ?)", ((*row, epoch) for row in rows)
            )

    @property
    def epoch(self) -> int:
        """The highest epoch that has taken the sink."""
        (epoch,) = self._connection.execute("SELECT epoch FROM fence").fetchone()
        return int(epoch)

    def read(self) -> list[tuple[int, float, int]]:
        """All rows: offset, value, and the epoch that wrote it."""
        return self._connection.execute("SELECT * FROM output ORDER BY offset").fetchall()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
