"""An elector that elects nobody: the leader is fixed from the start, or named by hand.

A replica without peers has itself for its leader. In a cluster it is the manual failover: an operator (or a
test) calls `revoke` at one node and `grant` at another; that both hold a grant for a while costs only time,
as with any elector.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from replicator.model import NodeId

logger = logging.getLogger(__name__)


class StaticElector:
    """The `Elector` whose leader is *leader* until `grant`, `revoke` or `transfer` says otherwise.

    This node is granted while it is the leader and electable, from the first tick on. *on_grant* and
    *on_revoke* are called at changes of `leading`; what they raise is logged.
    """

    def __init__(
        self,
        node: NodeId,
        leader: NodeId | None,
        *,
        on_grant: Callable[[], None],
        on_revoke: Callable[[], None],
        tick_interval_s: float = 0.5,
        electable: bool = True,
    ) -> None:
        self._node = node
        self._leader = leader
        self._on_grant = on_grant
        self._on_revoke = on_revoke
        self.tick_interval_s = tick_interval_s
        self._electable = electable
        self._running = False
        self._closed = False
        self._leading = False
        self.stood_at = 0.0

    @property
    def leading(self) -> bool:
        """Whether this node is granted now."""
        return self._leading

    @property
    def leader(self) -> NodeId | None:
        """Whom this node was told to take for the leader; None if nobody, and after `close`."""
        return None if self._closed else self._leader

    def grant(self) -> None:
        """Make this node the leader."""
        self._leader = self._node
        self._report()

    def revoke(self) -> None:
        """Make nobody the leader, as far as this node is concerned."""
        self._leader = None
        self._report()

    def tick(self, now: float) -> None:
        """The first tick grants what was fixed at the start; nothing is ever due later."""
        self._running = True
        self._report()

    def receive(self, node: NodeId, payload: bytes) -> None:
        """Ignored: there is nothing to agree on."""

    def transfer(self, to: NodeId | None) -> None:
        """Take *to* for the leader from now on; whoever runs *to* must grant it there. With None there
        is nobody to give leadership to, and nothing changes."""
        if to is not None:
            self._leader = to
            self._report()

    def set_electable(self, electable: bool) -> None:
        """Hold the grant back while this node cannot lead; it is the leader again as soon as it can."""
        self._electable = electable
        self._report()

    def set_behind(self, behind: bool) -> None:
        """Ignored: nobody else stands."""

    def close(self) -> None:
        """Stop for good; `leading` is false from here on. Safe to call twice."""
        self._closed = True
        self._report()

    def _report(self) -> None:
        leading = self._running and not self._closed and self._electable and self._leader == self._node
        if leading == self._leading:
            return
        self._leading = leading
        logger.info("elector leading=%s node=%s", leading, self._node)
        try:
            (self._on_grant if leading else self._on_revoke)()
        except Exception:
            logger.exception("elector callback failed leading=%s node=%s", leading, self._node)
