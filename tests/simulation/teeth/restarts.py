"""R13 and R24 broken: what a node forgets of what it did before it was started again."""

from __future__ import annotations

import math
from typing import Any

import pytest
from msgspec import structs

from replicator.core.events import Durable
from replicator.core.lease import Lender
from replicator.core.state import State
from replicator.model import Epoch

Patch = pytest.MonkeyPatch


def begin_epochs_anew(patch: Patch) -> None:
    """Where all memory is lost, epochs begin below those that sinks have heard of."""
    honest = State.__init__

    def init(self: State, config: Any, durable: Durable, *args: Any) -> None:
        honest(self, config, structs.replace(durable, epoch_seen=Epoch(0)), *args)

    patch.setattr(State, "__init__", init)


def forget_leases(patch: Patch) -> None:
    """A restarted lender does not wait for what it may have lent."""
    honest = Lender.__init__

    def init(self: Lender, *args: Any) -> None:
        honest(self, *args)
        self.owner, self.until = None, -math.inf

    patch.setattr(Lender, "__init__", init)


def wait_by_the_present_settings(patch: Patch) -> None:
    """A lender that is started again with a shorter lease does not wait for a longer one that it has lent."""
    honest = Lender.__init__

    def init(self: Lender, *args: Any, lent_s: float = 0.0) -> None:
        honest(self, *args[:4])

    patch.setattr(Lender, "__init__", init)
