"""What a measurement says: one question, where it was asked, and rows of figures. As a table and as JSON.

A row maps a column's name to a text, a number or a `Spread`. Column names end in their unit (``_ms``). A
spread is shown as its median with the quartiles behind it, and stands in the JSON whole.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct, field

from bench.kit.machine import changed_settings, machine, versions
from bench.kit.samples import Spread
from replicator.settings import Settings

Cell = Spread | str | float | int | None
Row = dict[str, Cell]


class Report(Struct, kw_only=True):
    """One run of one measurement. *broken* are promises that were not kept in it: with one it has failed."""

    question: str
    command: str
    taken: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))
    machine: dict[str, str] = field(default_factory=machine)
    versions: dict[str, str] = field(default_factory=versions)
    settings: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def note_settings(self, settings: Settings) -> None:
        """Remember what is not at its default."""
        self.settings |= changed_settings(settings)

    def add(self, row: Row) -> Row:
        """Take in a row and show it on standard error as progress."""
        self.rows.append(row)
        progress("  ".join(f"{name} {_show(cell)}" for name, cell in row.items()))
        return row

    def save(self, path: Path) -> None:
        """Write it as JSON; raises OSError as `write_whole` does."""
        write_whole(path, self.to_json())

    def to_json(self) -> bytes:
        """The report as JSON, indented, with an end of line."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    @classmethod
    def load(cls, path: Path) -> Report:
        """The report that `save` wrote."""
        return msgspec.json.decode(path.read_bytes(), type=cls)

    def text(self) -> str:
        """The report for people."""
        head = [self.question, f"taken {self.taken} by {self.command}"]
        for title, block in (
            ("machine", self.machine), ("versions", self.versions), ("settings", self.settings)
        ):  # fmt: skip
            head.append(f"{title}: " + (", ".join(f"{k} {v}" for k, v in block.items()) or "defaults"))
        return "\n".join([*head, *self.notes, "", *_tables(self.rows)])


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is seen whole or, if OSError names it, as it was before; no draft is left then."""
    draft = path.with_suffix(path.suffix + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_bytes(content)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def progress(text: str) -> None:
    """Say on standard error how far it is."""
    print(text, file=sys.stderr, flush=True)


def _tables(rows: Iterable[Row]) -> Iterable[str]:
    """Rows with the same columns stand under one heading."""
    groups: list[tuple[tuple[str, ...], list[Row]]] = []
    for row in rows:
        if not groups or groups[-1][0] != tuple(row):
            groups.append((tuple(row), []))
        groups[-1][1].append(row)
    for columns, members in groups:
        cells = [list(columns), *([_show(row[column]) for column in columns] for row in members)]
        widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
        for line in cells:
            yield "  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        yield ""


def number(value: float) -> str:
    """Three digits that count, and no more."""
    if value == int(value) and abs(value) < 1e9:
        return str(int(value))
    magnitude = abs(value)
    return f"{value:.0f}" if magnitude >= 100 else f"{value:.1f}" if magnitude >= 10 else f"{value:.2f}"


def _show(cell: Cell) -> str:
    match cell:
        case None:
            return "-"
        case str():
            return cell
        case Spread():
            return f"{number(cell.p50)} ({number(cell.p25)}-{number(cell.p75)})"
        case _:
            return number(cell)
