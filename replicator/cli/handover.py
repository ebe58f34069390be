"""``replicator handover``: another node becomes primary, in good order."""

from __future__ import annotations

from typing import Annotated

import typer

from replicator.cli.admin import ask
from replicator.cli.common import DataDir, find_data_dir, node_name


def handover(
    node: Annotated[str | None, typer.Argument(help="Who shall take over; by default who can best.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Make another node primary, in good order.

    To be run where the primary runs. Its last checkpoint commits first, and the other takes over at once.
    If the node named cannot take over, nothing changes.

    \b
    replicator handover edge-2
    """
    arguments = {} if node is None else {"to": node_name(node)}
    reply = ask(find_data_dir(data_dir), "handover", **arguments)
    print(f"{reply['primary']} takes over")
