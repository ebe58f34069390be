"""Plots as SVG, by matplotlib, which the extra ``[bench]`` brings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

from bench.kit.report import write_whole

Line = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 7.0, 4.2  # inches


class PlotsMissing(Exception):
    """matplotlib is not there."""


def require() -> Any:
    """matplotlib's pyplot, drawing to files only; raises `PlotsMissing` if it is not installed."""
    try:
        matplotlib = import_module("matplotlib")
    except ModuleNotFoundError:
        raise PlotsMissing("--plot needs matplotlib: pip install 'replicator[bench]'") from None
    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {"svg.hashsalt": "replicator", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    )
    return import_module("matplotlib.pyplot")


@contextmanager
def figure(path: Path, title: str, x_label: str, y_label: str, height: float = HEIGHT) -> Iterator[Any]:
    """The axes of a plot that is saved to *path* in the end; the same data give the same bytes."""
    plots = require()
    canvas, axes = plots.subplots(figsize=(WIDTH, height))
    try:
        axes.set(title=title, xlabel=x_label, ylabel=y_label)
        axes.grid(alpha=0.25)
        yield axes
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
        drawn = BytesIO()
        canvas.savefig(drawn, format="svg", bbox_inches="tight", metadata={"Date": None})
        write_whole(path, drawn.getvalue())
    finally:
        plots.close(canvas)


def draw_lines(
    path: Path, title: str, x_label: str, y_label: str, lines: Mapping[str, Line], log: bool = True
) -> None:
    """One line with dots for each name, on logarithmic axes."""
    with figure(path, title, x_label, y_label) as axes:
        for name, points in lines.items():
            if points:
                axes.plot([x for x, _ in points], [y for _, y in points], marker="o", ms=3.5, label=name)
        if log:
            axes.set_xscale("log")
            axes.set_yscale("log")


def draw_bars(path: Path, title: str, y_label: str, groups: Mapping[str, Mapping[str, float]]) -> None:
    """A group of bars for each name, one bar for each thing, on a logarithmic axis."""
    with figure(path, title, "", y_label) as axes:
        things = list(dict.fromkeys(thing for bars in groups.values() for thing in bars))
        width = 0.8 / max(1, len(things))
        for place, thing in enumerate(things):
            points = [(n, bars[thing]) for n, bars in enumerate(groups.values()) if thing in bars]
            axes.bar([n + place * width for n, _ in points], [y for _, y in points], width, label=thing)
        axes.set_xticks([n + 0.4 - width / 2 for n in range(len(groups))], list(groups))
        axes.set_yscale("log")
