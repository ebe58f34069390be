"""``replicator abandon``: the operator's word that a checkpoint nobody can read is given up."""

from __future__ import annotations

from typing import Annotated

import typer

from replicator.cli.admin import ask
from replicator.cli.common import DataDir, find_data_dir, stream_name

NAME = "epoch {} sequence {}".format


def abandon(
    stream: Annotated[str, typer.Argument(help="The stream whose newest checkpoint nobody can read.")],
    data_dir: DataDir = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Give up a checkpoint that nobody can read.

    It is its stream's newest, and the stream goes on without it. This is the one act that can lose a
    committed checkpoint. The node must be the primary and be waiting for it; otherwise nothing changes,
    and the reason is told. Its engine must stay meanwhile: in `tenure.wait_ended()`, not end on
    CheckpointUnreadable.

    \b
    replicator abandon orders
    """
    name = stream_name(stream)
    directory = find_data_dir(data_dir)
    if not yes and not typer.confirm(
        f"Give up the newest checkpoint of {stream!r} for good? If it was committed, it is lost."
    ):
        print("nothing was changed")
        raise typer.Exit(1)
    done = ask(directory, "abandon", stream=name)
    instead = done["instead"]
    then = f"{NAME(*instead)} is restored once this node holds it" if instead else "the stream is deleted"
    print(f"{stream}: {NAME(*done['position'])} is given up; {then}")
