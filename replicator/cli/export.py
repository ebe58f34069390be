"""``replicator export``: a checkpoint's bytes out of a node's store, verified chunk by chunk (R22)."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import Annotated

import typer

from replicator.cli.common import DataDir, find_data_dir, printable
from replicator.cli.output import write
from replicator.errors import CheckpointUnreadable, ReplicatorError, Unavailable
from replicator.model import Buffer, Payload, StreamName
from replicator.signals import ending_signals, interrupt

ATTEMPTS_MAX = 5


def export(
    stream: Annotated[str, typer.Argument(help="The stream; `replicator streams` lists them.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file to write; for many parts a directory.")
    ] = None,
    part: Annotated[str | None, typer.Option(help="Only this part of a checkpoint made of parts.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Write a checkpoint to a file or to standard output.

    It is the newest that this node's store has; the node may run or be stopped. A checkpoint made of parts
    goes to a directory, a file for each part.

    \b
    replicator export orders -o orders.bin
    replicator export orders | sha256sum
    replicator export model --part weights -o weights.bin
    """
    for each in ending_signals():
        signal.signal(each, interrupt)
    payload = _read(find_data_dir(data_dir), StreamName(stream))
    if part is None and payload.is_mapping:
        if output is None:
            names = printable(", ".join(payload.parts))
            raise Unavailable(f"{stream} is made of parts: name a directory (-o) or one --part of: {names}")
        _write_parts(output, payload)
        return
    if part is not None and not payload.is_mapping:
        raise Unavailable(f"{stream} is not made of parts: leave --part out")
    name = part or ""
    if name not in payload.parts:
        raise Unavailable(
            f"{stream} has no part {name!r}, only: {printable(', '.join(payload.parts)) or 'none'}"
        )
    _write(output, payload.parts[name])


def _read(data_dir: Path, stream: StreamName) -> Payload:
    from replicator.adapters.store_reader import StoreReader
    from replicator.codec.assembly import assemble

    with contextlib.closing(StoreReader(data_dir)) as reader:
        for attempts_left in reversed(range(ATTEMPTS_MAX)):
            manifest = reader.manifest(stream)
            if manifest is None or manifest.tombstone:
                streams = (head.stream for head, _, _ in reader.streams() if not head.tombstone)
                known = printable(", ".join(streams))
                raise Unavailable(f"no stream {stream!r} in {data_dir}, only: {known or 'none'}")
            try:
                return assemble(manifest, reader.chunk)
            except CheckpointUnreadable:
                # A running node may have replaced it meanwhile; if it has not, it is damaged.
                newest = reader.manifest(stream)
                if not attempts_left or newest is None or newest.digest == manifest.digest:
                    raise
    raise AssertionError("the last attempt returns or raises")


def _write_parts(directory: Path, payload: Payload) -> None:
    for name in payload.parts:
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise Unavailable(f"the part {name!r} cannot be a file's name: write it with --part and -o")
    with contextlib.ExitStack() as undo:  # some of the parts alone would pass for all of them
        try:
            for each in (*reversed(directory.parents), directory):
                if not each.is_dir():
                    each.mkdir()
                    undo.callback(shutil.rmtree, each, ignore_errors=True)
        except OSError as error:
            raise ReplicatorError(f"cannot make {directory}: {error.strerror}") from error
        for name, content in payload.parts.items():
            _write(directory / name, content)
        undo.pop_all()


def _write(path: Path | None, content: Buffer) -> None:
    """Write to standard output, to a device or a pipe, or to a file that appears whole or not at all."""
    if path is None or str(path) in ("/dev/stdout", "/dev/fd/1"):  # a file that others write to, perhaps
        write(content)
        return
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)  # /dev/null must not become a file
            return
        real = Path(os.path.realpath(path))  # a link stays one
        draft = real.with_name(f".replicator.{os.getpid()}")  # the name may be as long as names can be
        try:
            draft.write_bytes(content)
            draft.replace(real)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise ReplicatorError(f"cannot write {printable(str(path))}: {error.strerror}") from error
