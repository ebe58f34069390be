"""``replicator node``: a worker without an engine, which stores and votes but never becomes primary."""

from __future__ import annotations

from replicator import stderr
from replicator.errors import SettingsError
from replicator.settings import Settings, variable


def node() -> None:
    """Run a node without an engine, in the foreground.

    It stores and votes, and never becomes primary: two engines and one such node survive the loss of any
    one of them. Ends cleanly on Ctrl-C, on SIGTERM and with its terminal. Role changes are logged to standard
    error.

    \b
    REPLICATOR_NODE=edge-3 REPLICATOR_PEERS=edge-1=…,edge-2=…,edge-3=… replicator node
    """
    settings = Settings.from_env()
    if settings.standalone:
        raise SettingsError([f"{variable('peers')}: not set; a node without an engine needs peers to serve"])
    from replicator.worker.main import run_node

    stderr.log(settings.log_level)
    run_node(settings)
