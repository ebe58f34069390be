"""Every scenario leads to the log that is written under its commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.transcripts.harness import play

SCENARIOS = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_transcript(path: Path, request: pytest.FixtureRequest) -> None:
    """The core answers word by word as recorded."""
    now = play(path)
    if request.config.getoption("--record"):
        path.write_text(now)
    assert path.read_text() == now, "read the difference; if it is meant, run pytest --record"
