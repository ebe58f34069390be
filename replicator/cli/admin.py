"""Asks a running node through the socket in its data directory, and says what to do when none answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from replicator.errors import Unavailable


def ask(data_dir: Path, command: str, **arguments: str) -> dict[str, Any]:
    """The reply of the node that runs on *data_dir*.

    Raises `Unavailable` when no node runs there, and with the node's own words when it refuses.
    """
    from replicator.worker import admin  # late: its asyncio is not needed by the other commands

    try:
        reply = admin.ask(data_dir, {"command": command, **arguments})
    except Unavailable as error:
        raise Unavailable(f"{error}; is the node running? --data-dir names another one") from error
    if "error" in reply:
        raise Unavailable(str(reply["error"]))
    return reply
