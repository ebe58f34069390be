"""What holds for every test here: it leaves no process behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cluster import is_alive, wait_until


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    """Fail a test whose nodes' processes are still there when it is over."""
    yield
    wait_until(lambda: not _processes_of(tmp_path), what="the end of all processes")


def _processes_of(directory: Path) -> list[int]:
    """All processes whose data directory lies there."""
    mark = b"REPLICATOR_DATA_DIR=" + bytes(directory)
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return list(filter(is_alive, found))
