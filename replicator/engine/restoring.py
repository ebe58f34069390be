"""What a tenure starts from, while it comes over the link: checkpoints, and the sequences to go on from.

Used by the link's thread alone.
"""

from __future__ import annotations

from replicator.engine.checkpoint import Arrival, Checkpoint, Restored
from replicator.engine.shelf import Shelf
from replicator.link import messages as link
from replicator.model import Sequence, StreamName

RestoredOne = (
    link.Restored
    | link.RestoredSmall
    | link.RestoredKnown
    | link.RestoredUnavailable
    | link.RestoredDeleted
)  # fmt: skip


class Restoring:
    """Gathers what is restored for the tenure that is about to start; that of an earlier one is forgotten."""

    def __init__(self) -> None:
        self._epoch = 0
        self._restored = Restored()
        self._sequences: dict[StreamName, Sequence] = {}

    def take_in(self, message: RestoredOne, parts: list[memoryview], shelf: Shelf) -> None:
        """One stream's, or some small ones'."""
        match message:
            case link.Restored():
                self._add(message, Arrival(message, parts))
            case link.RestoredSmall():
                for restored, contents in message.checkpoints:
                    self._add(restored, Arrival(restored, contents))
            case link.RestoredKnown():
                self._add(message, shelf.restored(StreamName(message.stream)))
            case link.RestoredUnavailable():
                self._add(message, message.text)
            case link.RestoredDeleted():
                self._add(message, None)

    def start(self, epoch: int) -> tuple[Restored, dict[StreamName, Sequence]]:
        """The tenure of *epoch* starts: what it has, and its streams' sequences."""
        found = (self._restored, self._sequences) if epoch == self._epoch else (Restored(), {})
        self.clear()
        return found

    def clear(self) -> None:
        """Forget all: the worker is gone."""
        self._epoch, self._restored, self._sequences = 0, Restored(), {}

    def _add(self, message: link.OfStream, found: Checkpoint | Arrival | str | None) -> None:
        if message.epoch != self._epoch:
            self._epoch, self._restored, self._sequences = message.epoch, Restored(), {}
        self._sequences[StreamName(message.stream)] = Sequence(message.position.sequence)
        if found is not None:
            self._restored.add(message.stream, found)
