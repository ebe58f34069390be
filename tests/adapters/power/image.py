"""The directory as it may be found after a power loss, rebuilt from the recorded calls.

What was waited for is there. Of the rest each sector of 512 bytes holds any of the contents that it was
given since, or its old one: that is lost writes, torn writes, and writes in any order. A name that was made
or removed since its directory was synced may or may not be there, and a file may end with what is left of its
writes or where it would have ended. A sector itself is never torn: LMDB builds on that, and writes its root
into one.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Literal

from msgspec import Struct, field

from tests.adapters.power.recorder import IGNORED, Call, Remove, Sync, SyncNames, Write

SECTOR_BYTES = 512

Kind = Literal["lost", "kept", "writes", "sectors"]


class Fate(Struct, frozen=True):
    """What becomes of all that was not waited for: lost or kept as a whole, or write by write, or sector by
    sector, as *seed* has it."""

    kind: Kind = "lost"
    seed: int = 0


class _File(Struct):
    """What is on the disk, and by sector what it was given since: number of the write, and all its bytes."""

    disk: bytearray = field(default_factory=bytearray)
    size: int = 0
    since: dict[int, list[tuple[int, bytes]]] = field(default_factory=dict)


class _Directory(Struct):
    """Nothing but a name."""


_Named = list[_File | _Directory | None]  # what the name stood for on the disk, and what it was given since


class Disk:
    """What lies in a directory, on the disk and on its way there."""

    def __init__(self) -> None:
        self._names: dict[str, _Named] = {"": [_Directory()]}
        self._writes = 0

    @classmethod
    def of(cls, root: Path) -> Disk:
        """As *root* is now, all of it on the disk."""
        disk = cls()
        for path in root.rglob("*"):
            if path.is_dir():
                disk._names[str(path.relative_to(root))] = [_Directory()]
            elif path.name not in IGNORED:
                content = bytearray(path.read_bytes())
                disk._names[str(path.relative_to(root))] = [_File(content, len(content))]
        return disk

    def add(self, call: Call) -> None:
        """Take one call more."""
        match call:
            case Write():
                self._writes += 1
                _write(self._file(call.path), call.offset, call.data, self._writes)
            case Sync():
                _settle(self._file(call.path), call.start, call.end)
            case SyncNames():
                for path, versions in self._names.items():
                    if path and os.path.dirname(path) == call.path:
                        del versions[:-1]
            case Remove():
                self._names[call.path].append(None)

    def power_loss(self, root: Path, fate: Fate) -> None:
        """Make *root* what a power loss leaves; the disk itself goes on as if there had been none."""
        root.mkdir()
        lot = random.Random(fate.seed)
        chance = lot.choice((0.1, 0.5, 0.9))
        kept = {number: lot.random() < chance for number in range(1, self._writes + 1)}
        for path in sorted(self._names):
            found = _chosen(self._names[path], fate.kind, lot)
            if found is None or not (root / path).parent.is_dir():
                continue
            if isinstance(found, _Directory):
                (root / path).mkdir(exist_ok=True)
            else:
                (root / path).write_bytes(_content(found, fate.kind, lot, chance, kept))

    def _file(self, path: str) -> _File:
        """The file of that name, made now if it is not there, along with its directories."""
        directory = os.path.dirname(path)
        while directory and (versions := self._names.setdefault(directory, [None]))[-1] is None:
            versions.append(_Directory())
            directory = os.path.dirname(directory)
        versions = self._names.setdefault(path, [None])
        if versions[-1] is None:
            versions.append(_File())
        found = versions[-1]
        assert isinstance(found, _File)
        return found


def _chosen(versions: _Named, kind: Kind, lot: random.Random) -> _File | _Directory | None:
    if kind == "lost":
        return versions[0]
    return versions[-1] if kind == "kept" else lot.choice(versions)


def _write(file: _File, offset: int, data: bytes, number: int) -> None:
    for sector in range(offset // SECTOR_BYTES, -(-(offset + len(data)) // SECTOR_BYTES)):
        start = sector * SECTOR_BYTES
        old = file.disk[start : start + SECTOR_BYTES].ljust(SECTOR_BYTES, b"\0")
        versions = file.since.setdefault(sector, [(0, bytes(old))])
        new = bytearray(versions[-1][1])
        first, last = max(offset, start), min(offset + len(data), start + SECTOR_BYTES)
        new[first - start : last - start] = data[first - offset : last - offset]
        versions.append((number, bytes(new)))
    file.size = max(file.size, offset + len(data))


def _settle(file: _File, start: int, end: int) -> None:
    """The newest contents of all sectors that the range touches are on the disk."""
    for sector in [s for s in file.since if s * SECTOR_BYTES < end and (s + 1) * SECTOR_BYTES > start]:
        _put(file.disk, sector, file.since.pop(sector)[-1][1], file.size)
    if end >= file.size:
        file.disk.extend(bytes(file.size - len(file.disk)))


def _content(file: _File, kind: Kind, lot: random.Random, chance: float, kept: dict[int, bool]) -> bytes:
    """One of the contents that the file may have."""
    content = bytearray(file.disk)
    for sector, versions in sorted(file.since.items()):
        number, chosen = versions[0 if kind == "lost" else -1]
        if kind == "writes":
            number, chosen = [v for v in versions if not v[0] or kept[v[0]]][-1]
        elif kind == "sectors":
            number, chosen = lot.choice(versions) if lot.random() < chance else versions[0]
        if number:
            _put(content, sector, chosen, file.size)
    if kind == "kept" or (kind != "lost" and lot.random() < 0.5):
        content.extend(bytes(max(file.size - len(content), 0)))
    return bytes(content)


def _put(content: bytearray, sector: int, data: bytes, size: int) -> None:
    """Write a sector; the file ends at *size* at the latest."""
    start = sector * SECTOR_BYTES
    content.extend(bytes(max(start - len(content), 0)))
    content[start : start + SECTOR_BYTES] = data[: size - start]
