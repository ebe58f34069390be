"""What a node tells of its peers: whom it waits for until it is a member, and who is out of reach since.

A cluster is founded when all members are up, and a node whose store is new waits to be taken in (R20). Both
may take for ever where an address, a key or a peer is not as it should be, so the log says now and then how
far it has come. Of members it is said once who is cut off, and once that they are back: a majority goes on
without them, and nobody would know until it is needed. Used on the control thread only.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator

from replicator.adapters.ports import MEND_INTERVAL_S
from replicator.addresses import PORTS_PER_NODE, format_address
from replicator.model import NodeId, Role
from replicator.settings import Settings
from replicator.worker.mesh import Mesh

log = logging.getLogger(__name__)

TELL_INTERVAL_S = 10.0
_WAITING = (Role.FOUNDING, Role.JOINING)


class Neighbours:
    """Tells at the start who this node is, and then what is wrong with whom."""

    def __init__(self, settings: Settings, mesh: Mesh) -> None:
        self._settings = settings
        self._mesh = mesh
        self._role = Role.BACKUP
        self._tell_at = math.inf  # whom a node waits for that is no member yet
        self._since: dict[NodeId, float] = {}  # when a member was found out of reach, if it still is
        self._told: set[NodeId] = set()
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
        self._tell_at = now + TELL_INTERVAL_S
        self.deadline = math.inf if self._settings.standalone else now + MEND_INTERVAL_S

    def tick(self, now: float) -> None:
        """Look, and tell what is to be told."""
        if now < self.deadline:
            return
        self.deadline = now + MEND_INTERVAL_S
        faults = dict(self._faults(now))
        if self._role not in _WAITING:
            self._tell_changes(faults, now)
        elif now >= self._tell_at:
            self._tell_at = now + TELL_INTERVAL_S
            reasons = "; ".join(faults.values()) or "the members' agreement"
            log.warning("still %s node=%s waits_for=%r", self._role, self._settings.node, reasons)

    def _tell_changes(self, faults: dict[NodeId, str], now: float) -> None:
        for node in sorted(self._told - faults.keys()):
            self._told.discard(node)
            log.info("peer within reach again node=%s peer=%s", self._settings.node, node)
        self._since = {node: self._since.get(node, now) for node in faults}
        for node, since in self._since.items():
            if now - since >= TELL_INTERVAL_S and node not in self._told:
                self._told.add(node)
                what = (self._settings.node, node, faults[node])
                log.warning("peer out of reach node=%s peer=%s reason=%r", *what)

    def _faults(self, now: float) -> Iterator[tuple[NodeId, str]]:
        """The peers that are not as they should be, each with its address and what may be wrong."""
        closed: dict[NodeId, list[str]] = {}
        for node, address in sorted(self._mesh.control.unconnected()):
            closed.setdefault(node, []).append(format_address(address))
        for node, address in sorted(self._settings.peers.items()):
            where = f"{node} at {format_address(address)}"
            ports = closed.get(node, ())
            if len(ports) == PORTS_PER_NODE:
                yield node, f"{where} cannot be reached: it does not run, or has other keys"
            elif ports:
                yield node, f"{node} is reached, but not at {', '.join(ports)}: all its ports are needed"
            elif node != self._settings.node and self._is_missed(node, now):
                reason = "it has another address for this node, or another cluster's name"
                yield node, f"{where} says nothing: {reason}"

    def _is_missed(self, node: NodeId, now: float) -> bool:
        """Whether it should have said something: to a primary it says all the time that it is there, to one
        that waits it has said so once, and backups have nothing to say to each other."""
        heard_at = self._mesh.heard.get(node, -math.inf)
        if self._role is Role.PRIMARY:
            return now - heard_at >= TELL_INTERVAL_S
        return self._role in _WAITING and heard_at == -math.inf
