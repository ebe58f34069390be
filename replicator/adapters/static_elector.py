"""An elector that elects nobody: a replica without peers has itself for its leader."""

from __future__ import annotations

import logging
from collections.abc import Callable

from replicator.model import NodeId

logger = logging.getLogger(__name__)


class StaticElector:
    """The `Elector` of a node alone, which is granted while it is electable, from the first tick on.

    *on_grant* and *on_revoke* are called at changes of `leading`; what they raise is logged.
    """

    tick_interval_s = 0.5
    stood_at = 0.0

    def __init__(self, node: NodeId, *, on_grant: Callable[[], None], on_revoke: Callable[[], None]) -> None:
        self._node = node
        self._on_grant = on_grant
        self._on_revoke = on_revoke
        self._electable = True
        self._running = False
        self._closed = False
        self._leading = False

    @property
    def leading(self) -> bool:
        """Whether this node is granted now."""
        return self._leading

    @property
    def leader(self) -> NodeId | None:
        """This node; None after `close`."""
        return None if self._closed else self._node

    def tick(self, now: float) -> None:
        """The first tick grants; nothing is ever due later."""
        self._running = True
        self._report()

    def receive(self, node: NodeId, payload: bytes) -> None:
        """Ignored: there is nothing to agree on."""

    def transfer(self, to: NodeId | None) -> None:
        """Ignored: there is nobody to give leadership to."""

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
        leading = self._running and not self._closed and self._electable
        if leading == self._leading:
            return
        self._leading = leading
        logger.info("elector leading=%s node=%s", leading, self._node)
        try:
            (self._on_grant if leading else self._on_revoke)()
        except Exception:
            logger.exception("elector callback failed leading=%s node=%s", leading, self._node)
