"""A worker process reads checkpoints where they lie in the engine; where it may not, they take the link."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import pytest

from replicator import Committed, Replicator, Settings
from replicator.engine.backlog import Entry
from replicator.engine.life import Life
from replicator.link import memory
from replicator.model import NodeId

TIMEOUT_S = 30.0
MEMFD_SECRET = 447  # its number as a call of the system, on every architecture


def serve(directory: Path, state: bytearray) -> bool:
    """Commit *state* and then another one in a new tenure; whether the direct line led to the worker."""
    settings = Settings(node=NodeId("edge-1"), data_dir=directory, isolation="process")
    with Replicator(settings) as replicator:
        tenure = next(replicator.tenures(TIMEOUT_S))
        before = tenure.restored["s"].parts["b"] if "s" in tenure.restored else None
        assert before in (None, state)
        ticket = tenure.submit(
            "s", {"a": b"constant", "b": state, "c": memoryview(b"read-only")[5:]}, b"meta"
        )
        assert isinstance(ticket.result(TIMEOUT_S), Committed)
        assert ticket.released.wait(TIMEOUT_S)
        state[0] ^= 1
        assert isinstance(tenure.submit("s", {"b": state}).result(TIMEOUT_S), Committed)
        assert isinstance(tenure.delete("gone").result(TIMEOUT_S), Committed)
        return replicator._session.lending._line is not None


@pytest.mark.parametrize("can_read", [True, False], ids=["direct", "link"])
def test_a_checkpoint_gets_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_read: bool) -> None:
    """Whichever way is open: the same calls, the same bytes. No checkpoint takes the link if it need not."""
    took_the_link: list[str] = []
    uses_line: list[bool] = []  # a line that is not used is not polled: its other end is closed
    submit = Life._submit

    def watched(self: Life, entry: Entry) -> None:
        took_the_link.append(entry.ticket.stream)
        uses_line.append(self._end.line is not None)
        submit(self, entry)

    monkeypatch.setattr(Life, "_submit", watched)
    if not can_read:
        monkeypatch.setattr(memory, "address_of", lambda part: 8)  # where nothing is: the worker finds out
    state = bytearray(os.urandom(9 << 20))
    assert serve(tmp_path, state) is can_read
    assert serve(tmp_path, state) is can_read
    assert took_the_link == (["gone"] if can_read else ["s", "s", "gone"]) * 2
    assert set(uses_line) == {can_read}


def secret(size_bytes: int) -> mmap.mmap:
    """Memory that no other process may read, not even the system for it."""
    fd = ctypes.CDLL(None).syscall(MEMFD_SECRET, 0)
    if fd < 0:
        pytest.skip("this system knows no secret memory")
    os.truncate(fd, size_bytes)
    found = mmap.mmap(fd, size_bytes)
    os.close(fd)
    return found


def test_what_the_worker_cannot_read_takes_the_link(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A payload in secret memory, after others: it commits all the same, and so do all later ones."""
    hidden = secret(1 << 20)
    hidden[:5] = b"hello"
    settings = Settings(node=NodeId("edge-1"), data_dir=tmp_path, isolation="process")
    with Replicator(settings) as replicator:
        tenure = next(replicator.tenures(TIMEOUT_S))
        payloads: list[bytes | memoryview] = [b"first", memoryview(hidden), b"last"]
        tickets = [tenure.submit(f"s-{number}", payload) for number, payload in enumerate(payloads)]
        for ticket in tickets:
            assert isinstance(ticket.result(TIMEOUT_S), Committed)
            assert ticket.released.wait(TIMEOUT_S)
        assert replicator._session.lending._line is None
        assert isinstance(tenure.submit("s-0", b"later").result(TIMEOUT_S), Committed)
    assert caplog.text.count("payloads take the link from now on: the engine's memory cannot be read") == 1
    del payloads
    with Replicator(settings) as replicator:
        restored = next(replicator.tenures(TIMEOUT_S)).restored
        assert restored["s-1"].payload == bytes(hidden[:])
        assert [restored[name].payload for name in ("s-0", "s-2")] == [b"later", b"last"]


def test_a_payload_that_was_read_may_be_changed_and_resized(tmp_path: Path) -> None:
    """Whoever looks finds out, whoever waits is told; the memory is the engine's own again."""
    settings = Settings(node=NodeId("edge-1"), data_dir=tmp_path, isolation="process")
    with Replicator(settings) as replicator:
        tenure = next(replicator.tenures(TIMEOUT_S))
        looked, waited = bytearray(os.urandom(5 << 20)), bytearray(os.urandom(5 << 20))
        ticket = tenure.submit("s", looked)
        with pytest.raises(BufferError):
            looked.clear()
        while not ticket.released.is_set():
            pass
        looked.clear()
        assert tenure.submit("s", waited).released.wait(TIMEOUT_S)
        waited.clear()
        assert replicator.flush(TIMEOUT_S)
