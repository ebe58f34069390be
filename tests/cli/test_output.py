"""Standard output: all that is written comes, or an error says that it does not."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from replicator.cli import output


class Raw:
    """As a stream without a buffer: it takes so many bytes at a time, or (None) none just now."""

    def __init__(self, at_once: int | None) -> None:
        self.taken = b""
        self._at_once = at_once

    def write(self, content: memoryview) -> int | None:
        if self._at_once is not None:
            self.taken += bytes(content[: self._at_once])
        return None if self._at_once is None else min(self._at_once, len(content))

    def flush(self) -> None:
        """Nothing is kept back."""


def test_what_is_taken_in_parts_is_written_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more than two gigabytes the system takes a part, too."""
    raw = Raw(3)
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=raw, flush=raw.flush))
    output.write(b"eight by")
    assert raw.taken == b"eight by"


def test_what_is_not_taken_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that does not wait says so, and it is not taken for written."""
    raw = Raw(None)
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=raw, flush=raw.flush))
    with pytest.raises(BlockingIOError):
        output.write(b"eight by")
