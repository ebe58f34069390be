"""What a node that is not yet a member tells of itself: whom it waits for, and what may be wrong with them.

A cluster is founded when all members are up, and a node whose store is new waits to be taken in (R20). Both
may take for ever where an address, a key or a peer is not as it should be, so the log says now and then how
far it has come. Used on the control thread only.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator

from replicator.addresses import format_address
from replicator.model import Role
from replicator.settings import Settings
from replicator.worker.mesh import Mesh

log = logging.getLogger(__name__)

TELL_INTERVAL_S = 10.0
_WAITING = (Role.FOUNDING, Role.JOINING)


class Newcomer:
    """Tells at the start who this node is, and then, until it is a member, what it waits for."""

    def __init__(self, settings: Settings, mesh: Mesh) -> None:
        self._settings = settings
        self._mesh = mesh
        self._role = Role.BACKUP
        self.deadline = math.inf

    def begin(self, role: Role, now: float) -> None:
        """The node has started."""
        settings = self._settings
        others = sorted(settings.peers.keys() - {settings.node})
        words = {Role.FOUNDING: ", ".join(others), Role.JOINING: "a primary"}
        log.info(
            "node started node=%s address=%s role=%s waits_for=%r",
            settings.node,
            settings.address,
            role,
            words.get(role, ""),
        )
        self.changed(role, now)

    def changed(self, role: Role, now: float) -> None:
        """The node has another role."""
        self._role = role
        is_waiting = role in _WAITING and not self._settings.standalone
        self.deadline = now + TELL_INTERVAL_S if is_waiting else math.inf

    def tick(self, now: float) -> None:
        """Tell what is waited for, if it is time to."""
        if now >= self.deadline:
            self.deadline = now + TELL_INTERVAL_S
            reasons = "; ".join(self._silent()) or "the members' agreement"
            log.warning("still %s node=%s waits_for=%r", self._role, self._settings.node, reasons)

    def _silent(self) -> Iterator[str]:
        """The peers that nothing was heard of, each with its address and what may be wrong."""
        for node, address in sorted(self._settings.peers.items()):
            where = f"{node} at {format_address(address)}"
            if node == self._settings.node or node in self._mesh.heard:
                continue
            if node not in self._mesh.reached:
                yield f"{where} cannot be reached: it does not run, or has other keys"
            else:
                yield f"{where} says nothing: it has another address for this node, or another cluster's name"
