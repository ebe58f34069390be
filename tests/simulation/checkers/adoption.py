"""I6: nothing is restored or committed in an epoch before a majority has accepted it in that epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from replicator.core.effects import Commit, Effect, StartTenure, WriteRecord
from replicator.model import Epoch, MemberRecord, StreamName
from tests.simulation.checkers.base import Checker, Violation
from tests.simulation.history import Tenure, is_quorum
from tests.simulation.node import Node

if TYPE_CHECKING:
    from tests.simulation.world import World


class Adoption(Checker):
    """Counts acceptances that are truly on disk, of present incarnations only (R9, R14, I10).

    By the record that the primary proposed last: a joint one counts from its proposal on, and so may the
    final one, since whoever claims under the joint record needs a majority of the new members too.
    """

    watches: ClassVar[tuple[type, ...]] = (WriteRecord, Commit)

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._proposed: dict[bytes, MemberRecord] = {}

    def tenure(self, node: Node, tenure: Tenure, effect: StartTenure) -> None:
        for head in effect.heads:
            self._count(node, tenure.epoch, StreamName(head.stream), head.sequence, "restored")

    def performed(self, node: Node, effect: Effect) -> None:
        if isinstance(effect, WriteRecord):
            self._proposed[node.process] = effect.record
        elif isinstance(effect, Commit):
            self._count(node, node.reign, effect.stream, effect.position.sequence, "committed")

    def _count(self, node: Node, epoch: Epoch, stream: StreamName, sequence: int, how: str) -> None:
        record = self._proposed.get(node.process)
        holders = self.history.holders(stream, epoch, sequence)
        if record is None or not is_quorum(record, holders):
            names = (
                [member.node for member in record.members if member.incarnation in holders] if record else []
            )
            raise Violation("I6", f"{node.name}: {stream} {sequence} is {how} in {epoch}, held by {names}")


CHECKER = Adoption
