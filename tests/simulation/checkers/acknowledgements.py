"""I5: an acknowledgement means that manifest and chunks are found again after power loss at that moment."""

from __future__ import annotations

from typing import ClassVar

from replicator.core.effects import Effect, Send, StoredLocally
from replicator.core.messages import Ack, Acked, Adopted
from replicator.model import StreamName
from tests.simulation.checkers.base import Checker, Violation
from tests.simulation.node import Node


class Acknowledgements(Checker):
    """Looks on the disk, where only durable things are, whenever an ack leaves."""

    watches: ClassVar[tuple[type, ...]] = (Send, StoredLocally)

    def performed(self, node: Node, effect: Effect) -> None:
        if isinstance(effect, Send) and isinstance(effect.message, Ack):
            for acked in effect.message.acks:
                self._look(node, effect.message.epoch, acked)
        elif isinstance(effect, Send) and isinstance(effect.message, Adopted):
            pass  # I6 counts the acceptances that have truly been written
        elif isinstance(effect, StoredLocally):
            content = self.history.handles[effect.handle]
            streams = node.disk.image.streams.values()
            held = {self.history.content_of(one.manifest) for retained in streams for one in retained}
            if content not in held:
                raise Violation("I5", f"{node.name} says that payload {effect.handle} is stored")

    def _look(self, node: Node, epoch: int, acked: Acked) -> None:
        image = node.disk.image
        newest = image.newest(StreamName(acked.stream))
        what = f"{node.name} acks {acked.stream} {acked.sequence} in {epoch}"
        if newest is None:
            if not self._was_tombstone(acked):
                raise Violation("I5", f"{what}, has nothing")
            return
        if (newest.accepted_epoch, newest.manifest.sequence) < (epoch, acked.sequence):
            raise Violation("I5", f"{what}, has {newest.manifest.position} in {newest.accepted_epoch}")
        for retained in image.streams[StreamName(acked.stream)]:
            if retained.manifest.digest == acked.digest and not image.has_all(retained.manifest):
                raise Violation("I5", f"{what}, lacks chunks of it")

    def _was_tombstone(self, acked: Acked) -> bool:
        return self.history.contents.get(acked.digest) in self.history.tombstones  # type: ignore[call-overload]


CHECKER = Acknowledgements
