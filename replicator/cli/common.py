"""What several commands share: names, the data directory, tables and sizes for people, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from replicator.cli import output
from replicator.errors import SettingsError
from replicator.model import NodeId, StreamName
from replicator.settings import Settings

PIPE_COLUMNS = 10_000

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="The node's data directory.", show_default="REPLICATOR_DATA_DIR"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def find_data_dir(data_dir: Path | None) -> Path:
    """The directory given, or the settings' one; with it given, wrong settings do no harm."""
    return Settings.from_env().data_dir if data_dir is None else data_dir


def node_name(text: str) -> NodeId:
    """*text* as a node's name; one that no node can have is a wrong use."""
    try:
        return Settings(node=NodeId(text), data_dir=Path()).node
    except SettingsError as error:
        _, _, problem = str(error).partition(": ")  # of a variable that nobody has set
        raise typer.BadParameter(problem) from error


def stream_name(text: str) -> StreamName:
    """*text* as a stream's name; one that no stream can have is a wrong use."""
    from replicator.engine import parcel  # late: what it imports is not needed by the other commands

    try:
        return parcel.stream_name(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def print_json(value: object) -> None:
    """Print *value* as indented JSON."""
    output.write(msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2) + b"\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table that fits the terminal; a pipe gets each row on one line, never cut."""
    on_terminal = sys.stdout.isatty()
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, width=None if on_terminal else PIPE_COLUMNS)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=not on_terminal or column is columns[0])
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    with console.capture() as capture:
        console.print(table)
    sys.stdout.writelines(line.rstrip() + "\n" for line in capture.get().splitlines())


def printable(text: str) -> str:
    """With control characters escaped: a stream's name must not command the terminal."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def human_bytes(count: int) -> str:
    """A size in the largest unit that leaves a number from 1 to 1024."""
    size, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "B" else f"{size:.1f} {units[0]}"
