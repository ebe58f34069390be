"""I7: what is restored is byte for byte what was submitted."""

from __future__ import annotations

from replicator.model import Head, Manifest
from tests.simulation.checkers.base import Checker, Violation
from tests.simulation.image import chunk_digests
from tests.simulation.node import Node


class Contents(Checker):
    """Looks at what an engine reads of a restored head; rot that is noticed is not yet a broken promise."""

    def restored(self, node: Node, head: Head, manifest: Manifest | None, payload: bytes | None) -> None:
        what = f"{head.stream} at {head.position}"
        if manifest is None:
            raise Violation("I7", f"{node.name} is handed {what}, not on its disk")
        if head.tombstone:
            return
        if payload is None and node.disk.image.damaged.isdisjoint(chunk_digests(manifest)):
            raise Violation("I7", f"{node.name}: chunks of {what} are missing")
        if payload is not None and payload != self.history.payloads[self.history.content_of(head)]:
            raise Violation("I7", f"{node.name}: {what} is not what was submitted")


CHECKER = Contents
