"""What the demo shows: live on a terminal, one line for each moment elsewhere, and the report at the end."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from replicator.demo.director import Director, Plan
from replicator.demo.report import Moment, Report, Stages, Takeover
from replicator.demo.view import View

MOMENTS = (Moment(1.5, "edge-1", "serves"), Moment(4.25, "edge-1", "killed with SIGKILL"))
REPORT = Report(
    nodes=3,
    rows=9_000,
    takeovers=(Takeover("edge-1", "edge-3", 2, 812.3, Stages(700.1, 12.2, 0, 100), 321),),
    committed=80,
    superseded=2,
    lost_committed=0,
    identical=True,
    metric=0.97,
    metric_uninterrupted=0.97,
    raw_bytes=2**24,
    sent_bytes=2**23,
    stored_bytes=2**22,
    duration_s=12.5,
    timeline=MOMENTS,
)


def shown(director: Director, terminal: bool) -> str:
    """What a console gets of two looks at the director and of the conclusion."""
    console = Console(file=io.StringIO(), width=110, force_terminal=terminal, no_color=True)
    with View(console) as view:
        view.show(director)
        director.timeline.append(MOMENTS[1])
        view.show(director)
    view.conclude(REPORT)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def make_director(base: Path) -> Director:
    director = Director(Plan(rows=9_000), base, lambda _: None)
    director.timeline.append(MOMENTS[0])
    director.nodes[2].state, director.nodes[2].epoch = "primary", 2
    director.tap.arrived = 1_234
    return director


def test_without_a_terminal_each_moment_is_told_once(tmp_path: Path) -> None:
    """A log of lines, in order, and then the numbers."""
    text = shown(make_director(tmp_path), terminal=False)
    assert text.count("serves") == text.count("killed with SIGKILL") == 1
    assert "\x1b" not in text
    for number in ("812", "700", "321 rows", "80", "16.0 MiB", "8.0 MiB", "4.0 MiB", "identical"):
        assert number in text


def test_on_a_terminal_it_shows_rows_and_roles(tmp_path: Path) -> None:
    """How far the rows have come, and who is primary in which epoch."""
    text = shown(make_director(tmp_path), terminal=True)
    assert "1,234 of 9,000" in text
    assert "primary" in text
    assert "epoch 2, 0 committed" in text
