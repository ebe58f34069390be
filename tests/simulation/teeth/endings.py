"""A primary that ends no tenure for one of its reasons."""

from __future__ import annotations

import pytest

from replicator.core.primary import Primary


def go_on_despite(patch: pytest.MonkeyPatch, ignored: str) -> None:
    """What should end the tenure for that reason does not."""
    honest = Primary.end

    def end(self: Primary, reason: str, hand_over: bool = False) -> None:
        if reason != ignored:
            honest(self, reason, hand_over)

    patch.setattr(Primary, "end", end)
