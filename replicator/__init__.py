"""Replicator: checkpoints of edge stream engines, committed by a majority of disks.

An engine embeds it, and three or more nodes run the same engine. One of them is primary and works; what it
submits as a checkpoint is committed once a majority of disks holds it. When the primary dies, a backup
takes over from the last committed checkpoint, within a second, and no committed checkpoint is ever lost or
replaced by an older one while a majority of disks survives::

    from replicator import Replicator

    with Replicator.from_env() as replicator:            # REPLICATOR_NODE, REPLICATOR_PEERS, …
        for tenure in replicator.tenures():              # waits until this node is primary
            state = restore(tenure.restored)             # stream -> last committed checkpoint
            for event in source(state):
                state.apply(event)
                if not tenure.active:                    # one read of memory
                    break                                # deposed or suspended: stop emitting
                if state.checkpoint_due():
                    ticket = tenure.submit("orders", state.dump())   # microseconds, never waits
                    ticket.add_done_callback(commit_sources_and_sinks)

`AsyncReplicator` is the same with ``async for`` and ``await``. Without ``REPLICATOR_PEERS`` the same calls
give durable local checkpoints.

The tour, in reading order; a file imports only from what stands above it:

====================  ====================================================================================
`model`, `errors`     the nouns, and what can go wrong
`settings`            every ``REPLICATOR_*`` variable
`core`                the protocol: events in, effects out; no socket, file, clock or thread. Start with
                      `core.quorum`, then `core.promise`, `core.claim`, `core.primary`, `core.replica`
`descriptor`          keeps clear of the standard streams' numbers
`bell`                wakes a thread that sleeps
`multipart`           whole messages over a ZeroMQ socket, in the fewest steps
`codec`               chunks, compression, frames
`link`                what engine and worker say to each other: messages, the shared lease word, and
                      `link.line`, by which `submit` tells a worker process without waking a thread
`adapters`            the outside world behind Protocols: ZeroMQ, LMDB, PySyncObj
`worker`              what runs beside the engine: the driver pumps events into the core and effects out
`engine`              what is imported from here: `engine.replicator` waits, `engine.session` shares,
                      `engine.backlog` decides who goes next, `engine.lending` has payloads read where
                      they lie, `engine.keeper` keeps a worker alive
`cli`, `demo`         the commands, and the proof on real input
====================  ====================================================================================

Nothing is imported before it is asked for: the engine's process pays for ZeroMQ and msgspec alone, asyncio
only with `AsyncReplicator`; what stores, compresses and elects is loaded in the worker.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from replicator.engine.aio import AsyncReplicator, AsyncTenure
    from replicator.engine.checkpoint import Checkpoint, Restored
    from replicator.engine.replicator import Replicator
    from replicator.engine.tenure import Tenure
    from replicator.engine.ticket import Committed, Outcome, StoredLocally, Superseded, Ticket
    from replicator.errors import (
        Backlogged,
        CheckpointUnreadable,
        CommitUnknown,
        PayloadTooLarge,
        ReplicatorError,
        SettingsError,
        StoreError,
        StoreInUse,
        TenureEnded,
        TransportError,
        Unavailable,
        WorkerFailed,
        WrongState,
    )
    from replicator.model import Epoch, NodeId, Position, Sequence, StreamName
    from replicator.settings import Settings

# Where the public names are, those first that import least.
_HOMES = (
    "errors", "model", "settings", "engine.ticket", "engine.checkpoint", "engine.tenure", "engine.replicator",
    "engine.aio",
)  # fmt: skip

__all__ = [
    "AsyncReplicator",
    "AsyncTenure",
    "Backlogged",
    "Checkpoint",
    "CheckpointUnreadable",
    "CommitUnknown",
    "Committed",
    "Epoch",
    "NodeId",
    "Outcome",
    "PayloadTooLarge",
    "Position",
    "Replicator",
    "ReplicatorError",
    "Restored",
    "Sequence",
    "Settings",
    "SettingsError",
    "StoreError",
    "StoreInUse",
    "StoredLocally",
    "StreamName",
    "Superseded",
    "Tenure",
    "TenureEnded",
    "Ticket",
    "TransportError",
    "Unavailable",
    "WorkerFailed",
    "WrongState",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    modules = (import_module(f"{__name__}.{home}") for home in _HOMES)
    value = globals()[name] = next(getattr(module, name) for module in modules if hasattr(module, name))
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
