"""R23 broken where a disk is told what has committed."""

from __future__ import annotations

from replicator.core.effects import Accept, MarkCommitted
from replicator.core.events import Event
from replicator.model import StreamName
from tests.simulation.disk import Disk


class ComparesSequencesAlone(Disk):
    """Commit marks are ordered by sequence: those of a stream that is begun anew free nothing (T18)."""

    def _mark(self, mark: MarkCommitted) -> None:
        known = self.image.committed.get(mark.stream)
        if known is None or known.position.sequence < mark.position.sequence:
            super()._mark(mark)

    def _accept(self, effect: Accept) -> Event:
        stream = StreamName(effect.manifest.stream)
        known, event = self.image.committed.get(stream), super()._accept(effect)
        if known is not None:
            self.image.committed.setdefault(stream, known)
        return event
