"""One tree of exceptions. Each says what happened, whether the checkpoint can still commit, and what to do.

A library's own exceptions (ZeroMQ, LMDB, PySyncObj) are turned into these at the adapter that calls it.
"""

from __future__ import annotations

from msgspec import MsgspecError

# What msgspec raises on bytes that are not what they should be: also for text that is not UTF-8, and for
# nesting without end.
UNREADABLE = (MsgspecError, ValueError, RecursionError)


class ReplicatorError(Exception):
    """The root of everything that this package raises on purpose."""


class SettingsError(ReplicatorError):
    """One or more ``REPLICATOR_*`` values are wrong; *problems* has one line per wrong variable."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(problems)  # as it is, or it would not come whole out of another process
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


class StoreError(ReplicatorError):
    """The local store cannot be used. Nothing is acknowledged until the process has restarted (R21)."""


class StoreInUse(StoreError):
    """Another process has this data directory open; stop it or choose another ``REPLICATOR_DATA_DIR``."""


class StoreFull(StoreError):
    """No room for a new checkpoint. What is stored stays; goes on by itself when there is room again."""


class StoreDamaged(StoreError):
    """A record failed its checksum: the store is faulty, and never silently shorter (R21)."""


class CheckpointUnreadable(StoreError):
    """A checkpoint's bytes are damaged or absent here and nobody reachable has them (R8, R22). An engine that
    cannot go on without stays in ``tenure.wait_ended()``: the next tenure has them, or they are abandoned."""


class TransportError(ReplicatorError):
    """A socket could not be bound or a key not be used; the message names the address or file."""


class MessageError(ReplicatorError):
    """Bytes from the network are not a message of this protocol; they are dropped and counted (R28)."""


class TenureEnded(ReplicatorError):
    """The tenure is over: this node is no longer primary. Take the next one from ``tenures()``."""


class CommitUnknown(TenureEnded):
    """The tenure ended before the commit was known. The checkpoint may or may not be what the next
    primary restores; only a later epoch may abort what was prepared for it (R17a)."""


class PayloadTooLarge(ReplicatorError):
    """The payload is larger than ``REPLICATOR_PAYLOAD_BYTES_MAX``; it was not taken and cannot commit."""


class Backlogged(ReplicatorError):
    """The memory bound for waiting checkpoints is reached; this one was not taken. Submit a later one."""


class WorkerDied(ReplicatorError):
    """The replication worker ended unexpectedly; the tenure is over and the worker is started again."""


class WorkerFailed(ReplicatorError):
    """The worker could not be started or kept failing; the message holds its last words."""


class WrongState(ReplicatorError):
    """A call that does not fit the state: used after ``close()``, or in a forked child process."""


class Unavailable(ReplicatorError):
    """The answer cannot be given now (no such stream, nothing committed yet, node unreachable)."""
