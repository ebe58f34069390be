"""``replicator demo``: three engines, two kills with SIGKILL, and the proof that nothing is lost."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from replicator.cli.common import AsJson, print_json
from replicator.demo.director import Director, Plan
from replicator.demo.view import View
from replicator.errors import ReplicatorError
from replicator.signals import ending_signals, ignore_ending_signals, interrupt


def demo(
    nodes: Annotated[int, typer.Option(min=3, max=15, help="Engines, all on this machine.")] = 3,
    rows: Annotated[int, typer.Option(min=5_000, max=49_097, help="Rows of the Shuttle set.")] = 49_097,
    rate: Annotated[float, typer.Option(min=100, max=10_000, help="Rows that arrive each second.")] = 3_000,
    interval: Annotated[float, typer.Option(min=0.01, max=1, help="Seconds between checkpoints.")] = 0.2,
    warm: Annotated[
        bool, typer.Option("--warm", help="Backups load what commits, and go on at once.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Kill the primary twice while it learns from real sensors, and compare with an uninterrupted run.

    Exits with 1 unless every committed checkpoint was restored and the result is identical, bit for bit.
    REPLICATOR_* variables hold for all engines; try REPLICATOR_ISOLATION=thread. Those that name one node,
    its cluster or its keys (NODE, PEERS, DATA_DIR, CLUSTER, SECRET_KEY_FILE, PEER_KEYS_FILE), and ACKS, are
    the demo's own.
    """
    if importlib.util.find_spec("river") is None:
        raise ReplicatorError("the demo learns with river: pip install 'replicator[demo]'")
    for each in ending_signals():
        signal.signal(each, interrupt)
    plan = Plan(nodes=nodes, rows=rows, rows_per_s=rate, checkpoint_interval_s=interval, warm=warm)
    console = Console(stderr=as_json, highlight=False)
    with (
        tempfile.TemporaryDirectory(prefix="replicator-demo-") as base,
        View(console) as view,
        Director(plan, Path(base), view.show) as director,
        _undisturbed_end(),
    ):
        report = director.play()
    if as_json:
        print_json(report)
    else:
        view.conclude(report)
    raise typer.Exit(0 if report.passed else 1)


@contextlib.contextmanager
def _undisturbed_end() -> Iterator[None]:
    """After the body nobody's impatience interrupts the tidying: it is short."""
    try:
        yield
    finally:
        ignore_ending_signals()
