"""I3: what committed in an earlier epoch is restored in every later tenure, itself or as an ancestor."""

from __future__ import annotations

from typing import ClassVar

from replicator.core.effects import Commit, Effect, MarkCommitted, StartTenure
from replicator.model import StreamName
from tests.simulation.checkers.base import Checker, Violation
from tests.simulation.history import Committed, Tenure
from tests.simulation.node import Node


class Ancestry(Checker):
    """Compares every tenure with every commit of the epochs before it, whichever is known first."""

    watches: ClassVar[tuple[type, ...]] = (Commit, MarkCommitted)

    def tenure(self, node: Node, tenure: Tenure, effect: StartTenure) -> None:
        for stream, commits in self.history.commits.items():
            earlier = [one for one in commits if one.epoch < tenure.epoch]
            if earlier:
                newest = max(earlier, key=lambda one: (one.epoch, one.position.sequence))
                self._compare(stream, newest, tenure)
        for head in effect.heads:
            content = tenure.restored[StreamName(head.stream)]
            commit = Committed(tenure.time, node.name, tenure.epoch, head.position, content)
            self._compare_later(StreamName(head.stream), commit)
            self.history.commit(StreamName(head.stream), commit)

    def performed(self, node: Node, effect: Effect) -> None:
        if isinstance(effect, Commit) or (isinstance(effect, MarkCommitted) and node.is_owner):
            self._compare_later(effect.stream, self.history.commits[effect.stream][-1])

    def _compare_later(self, stream: StreamName, commit: Committed) -> None:
        for tenure in self.history.tenures.values():
            if tenure.epoch > commit.epoch:
                self._compare(stream, commit, tenure)

    def _compare(self, stream: StreamName, commit: Committed, tenure: Tenure) -> None:
        if stream in tenure.unavailable:
            return
        content = tenure.restored.get(stream)
        what = f"{stream}@{commit.position}, committed in {commit.epoch}"
        if content is None and commit.content not in self.history.tombstones:
            raise Violation("I3", f"{what}, is gone in the tenure of {tenure.epoch} at {tenure.node}")
        if content is not None and not self.history.keeps(content, commit.content):
            place = self.history.places[content]
            raise Violation("I3", f"{what}, is lost: {tenure.node} has {place} in {tenure.epoch}")


CHECKER = Ancestry
