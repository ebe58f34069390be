"""``replicator keygen``: keys for a cluster's nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from replicator.cli.common import node_name


def keygen(
    nodes: Annotated[list[str], typer.Argument(help="The names of all nodes.", metavar="NODE...")],
    directory: Annotated[Path, typer.Option("-o", "--output", help="The directory to write to.")],
) -> None:
    """Make the keys of a cluster's nodes.

    Writes a secret key for each node and one file with the public keys of all. A node needs its own secret
    (REPLICATOR_SECRET_KEY_FILE) and the public keys (REPLICATOR_PEER_KEYS_FILE), never another's secret.
    Files that are there already are not overwritten.

    \b
    replicator keygen edge-1 edge-2 edge-3 -o keys
    """
    from replicator.adapters.curve import generate_keys

    if len(set(nodes)) < len(nodes):
        raise typer.BadParameter("a node is named twice")
    names = list(map(node_name, nodes))
    for path in generate_keys(names, directory):
        print(path)
