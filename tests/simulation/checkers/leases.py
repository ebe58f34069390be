"""I9: at most one active tenure at any true instant, while clock rates stay within the stated bound."""

from __future__ import annotations

from typing import ClassVar

from replicator.core.effects import Commit, Effect, SetLease
from tests.simulation.checkers.base import Checker, Violation
from tests.simulation.node import Node


class Leases(Checker):
    """Looks at all lease words, by each machine's own clock, whenever one of them is raised."""

    watches: ClassVar[tuple[type, ...]] = (SetLease, Commit)

    def performed(self, node: Node, effect: Effect) -> None:
        if isinstance(effect, SetLease) and effect.deadline:
            local = node.clock.local(self.world.now)
            if effect.deadline > local + node.config.lease_s and node.config.peers:
                raise Violation("R24", f"{node.name} sets a lease of {effect.deadline - local:.3f} s")
            if effect.deadline > local:
                self._look(node, effect.epoch)
        elif isinstance(effect, Commit) and effect.handle and not self._may_report(node):
            raise Violation("R25", f"{node.name} reports a commit of {effect.stream} while suspended")

    @staticmethod
    def _may_report(node: Node) -> bool:
        """Active; or claimed above the tenure's epoch, whose last tickets end in the newer one (R11)."""
        return node.engine.is_active or node.disk.image.promised_epoch > node.engine.epoch

    def _look(self, node: Node, epoch: int) -> None:
        for other in self.world.nodes.values():
            now = other.clock.local(self.world.now)
            for theirs, word in other.engine.lease_words.items():
                if (other is not node or theirs != epoch) and word > now:
                    raise Violation(
                        "I9",
                        f"{node.name} is active in {epoch} while {other.name} is in {theirs} "
                        f"for {word - now:.3f} s more",
                    )


CHECKER = Leases
