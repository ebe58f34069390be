"""Why a serving primary claims above its own epoch (R8, R11, R22, R23)."""

from __future__ import annotations

from replicator.core.reign import Reign
from replicator.core.rivals import stuck_for
from replicator.core.tenure import Tenure

FORGOTTEN_MAX = 65_536  # deleted streams remembered in one epoch; a higher one begins without them


def reasons_to_claim_above(reign: Reign, tenure: Tenure) -> list[str]:
    """Stuck members, rot, streams that the tenure was not given and that could be now, too many deletions."""
    state, config = reign.state, reign.state.config
    held = sorted(tenure.withheld - reign.withheld.keys())
    why = [f"{node} promised a higher epoch" for node in stuck_for(reign, config.bump_after_s)]
    why += [f"stream {stream} has rotted since its adoption" for stream in reign.recovery.rotten]
    why += [f"stream {s} is no longer withheld" for s in held if tenure.may_have(s, reign.head(s))]
    if len(state.forgotten) >= FORGOTTEN_MAX:
        why.append(f"{len(state.forgotten)} streams were deleted in this epoch")
    return why
