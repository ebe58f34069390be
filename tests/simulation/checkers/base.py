"""What all checkers share."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from replicator.core.effects import Effect, StartTenure
    from replicator.core.events import Event
    from replicator.model import Head, Manifest
    from tests.simulation.disk import Disk, Operation
    from tests.simulation.history import Tenure
    from tests.simulation.node import Node
    from tests.simulation.world import World


class Violation(Exception):
    """A promise of the protocol is broken. *rule* names it."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


CHECKED = (Violation,)


class Checker:
    """Looks on; a subclass overrides what it wants to see, and names the effects that it *watches* and the
    disk operations whose *writes* it wants to see."""

    watches: ClassVar[tuple[type, ...]] = ()
    writes: ClassVar[tuple[type, ...]] = ()

    def __init__(self, world: World) -> None:
        self.world = world
        self.history = world.history

    def performed(self, node: Node, effect: Effect) -> None:
        """One of the watched effects of a core is about to be performed."""

    def wrote(self, disk: Disk, operation: Operation, event: Event | None) -> None:
        """One of the operations named in *writes* has just become durable, with that completion."""

    def tenure(self, node: Node, tenure: Tenure, effect: StartTenure) -> None:
        """An engine is handed a tenure."""

    def restored(self, node: Node, head: Head, manifest: Manifest | None, payload: bytes | None) -> None:
        """An engine reads a restored head: its manifest on the node's disk, its bytes if they can be read."""

    def submitted(self, node: Node, handle: int) -> None:
        """An engine has submitted a payload."""

    def finished(self) -> None:
        """The run is over, the cluster healed."""
