"""What a spectator sees: rows, nodes and timeline, live, and the report as a table at the end."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from replicator.demo.director import Director
from replicator.demo.report import Moment, Report

TIMELINE_LINES = 24
COLOURS = {"primary": "bold green", "finished": "bold green", "restoring": "yellow", "dead": "bold red"}


class View:
    """Shows a director at work. Live on a terminal; elsewhere each moment of the timeline is one line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = (
            Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        )
        self._told = 0
        self._drawn_at = 0.0

    def __enter__(self) -> View:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, director: Director) -> None:
        """Draw, a few times a second; or print what is new."""
        if self._live is None:
            for moment in director.timeline[self._told :]:
                self._console.print(_line(moment))
            self._told = len(director.timeline)
        elif (now := self._console.get_time()) - self._drawn_at > 0.1:
            self._drawn_at = now
            self._live.update(_picture(director), refresh=True)

    def conclude(self, report: Report) -> None:
        """Print the whole timeline and the report."""
        if self._live:
            for moment in report.timeline:
                self._console.print(_line(moment))
        self._console.print("", _takeovers(report), "", _totals(report), sep="\n")


def _line(moment: Moment) -> Text:
    line = Text(f"{moment.at_s:7.2f} s  {moment.node:8}  {moment.what}")
    if "SIGKILL" in moment.what:
        line.stylize("bold red")
    elif "primary" in moment.what:
        line.stylize("green")
    return line


def _picture(director: Director) -> RenderableType:
    rows, arrived = director.plan.rows, director.tap.arrived
    bar = Table.grid(padding=(0, 1))
    bar.add_row("rows", ProgressBar(rows, arrived, width=60), f"{arrived:,} of {rows:,}")
    nodes = Table.grid(padding=(0, 2))
    for node in director.nodes:
        state = Text(node.state, COLOURS.get(node.state, ""))
        tenure = f"epoch {node.epoch}, {node.count_committed()} committed" if node is director.primary else ""
        nodes.add_row(node.name, state, tenure)
    moments = [_line(moment) for moment in director.timeline[-TIMELINE_LINES:]]
    return Group(bar, "", nodes, "", *moments, Text(f"waiting for {director.awaited}", "dim"))


def _takeovers(report: Report) -> Table:
    table = Table(
        title="takeovers, in ms", title_justify="left", title_style="bold", box=None, pad_edge=False
    )
    for name in ("killed", "successor", "epoch", "detect", "claim", "fetch", "restore", "in all", "replayed"):
        table.add_column(name, justify="left" if name in ("killed", "successor") else "right")
    for each in report.takeovers:
        stages = each.stages
        spans = (stages.detect, stages.claim, stages.fetch, stages.restore, each.kill_to_serving_ms)
        rows = f"{each.rows_replayed} rows"
        table.add_row(each.killed, each.successor, str(each.epoch), *(f"{span:.0f}" for span in spans), rows)
    return table


def _totals(report: Report) -> Table:
    good = "bold green" if report.passed else "bold red"
    table = Table.grid(padding=(0, 2))
    table.add_row("committed", f"{report.committed:,} checkpoints, and {report.superseded:,} superseded")
    for name in ("raw", "sent", "stored"):
        table.add_row(f"bytes {name}", f"{getattr(report, f'{name}_bytes') / 2**20:,.1f} MiB")
    table.add_row("ROC AUC", f"{report.metric!r}; uninterrupted {report.metric_uninterrupted!r}")
    table.add_row("lost", Text(f"{report.lost_committed} committed checkpoints", good))
    verdict = "identical, bit for bit" if report.identical else "NOT IDENTICAL"
    table.add_row("result", Text(f"{report.rows:,} predictions, metric and model: {verdict}", good))
    return table
