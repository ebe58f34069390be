"""Where a primary stands in its epoch, and what follows what."""

from __future__ import annotations

import enum


class Phase(enum.StrEnum):
    """Where the primary stands."""

    OFF = "off"
    RECOVERING = "recovering"  # a majority has promised; heads are chosen, fetched, adopted
    DRAINING = "draining"  # after a bump: what was in flight commits in the new epoch first (R11)
    SERVING = "serving"


PHASE_CHANGES: dict[Phase, frozenset[Phase]] = {
    Phase.OFF: frozenset({Phase.RECOVERING}),
    Phase.RECOVERING: frozenset({Phase.RECOVERING, Phase.DRAINING, Phase.SERVING, Phase.OFF}),
    Phase.DRAINING: frozenset({Phase.RECOVERING, Phase.SERVING, Phase.OFF}),
    Phase.SERVING: frozenset({Phase.RECOVERING, Phase.OFF}),
}
