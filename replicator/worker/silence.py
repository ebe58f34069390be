"""The worker's end of the link as the driver sees it, and the end of a node that has no engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from replicator.link.messages import ToEngine, ToWorker
from replicator.model import Buffer


class End(Protocol):
    """What `link.endpoint.WorkerEnd` and `Silence` have in common."""

    @property
    def sources(self) -> Sequence[object]:
        """What to poll for reading."""

    def send(self, message: ToEngine, parts: Iterable[Buffer] = ()) -> object:
        """Queue a message for the engine; never waits."""

    def receive(self) -> Iterator[tuple[ToWorker, list[memoryview]]]:
        """What the engine has sent, each message with its parts."""

    def close(self, linger_s: float = ...) -> None: ...


class Silence:
    """The link to nobody: a node that stores and votes, without an engine beside it."""

    sources = ()

    def send(self, message: ToEngine, parts: Iterable[Buffer] = ()) -> None:
        """Nobody is told."""

    def receive(self) -> Iterator[tuple[ToWorker, list[memoryview]]]:
        """Nobody asks."""
        return iter(())

    def close(self, linger_s: float = 0) -> None:
        """Nothing was open."""
