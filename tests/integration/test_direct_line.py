"""A worker process reads checkpoints where they lie in the engine; where it may not, they take the link."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from replicator import Committed, Replicator, Settings
from replicator.engine.backlog import Entry
from replicator.engine.life import Life
from replicator.link import memory
from replicator.model import NodeId

TIMEOUT_S = 30.0


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
        return replicator._session._line is not None


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
