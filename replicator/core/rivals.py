"""Rivals: followers that have promised a higher epoch than the primary's (R3, R11, R25, T28).

One of them may be stuck there, left over from a claim that failed: the primary claims above it. So many
that the others are no majority mean that somebody else owns the future: the tenure ends.
"""

from __future__ import annotations

from replicator.core.messages import Refusal
from replicator.core.progress import Follower
from replicator.core.quorum import is_quorum, quorum_sets
from replicator.core.reign import Reign


def note_refusal(reign: Reign, follower: Follower, message: Refusal) -> None:
    """A follower refuses; remember since when, if it has promised more, or as much to another (R11)."""
    follower.full, promised = message.full, message.promised
    if promised is None or promised.epoch < reign.epoch:
        return
    if promised.owner != reign.state.me and follower.stuck_since is None:
        follower.stuck_since = reign.state.now


def rivals_hold_majority(reign: Reign) -> bool:
    """Whether those that have promised nothing newer are no majority any longer (R25)."""
    stuck = {f.replica for f in reign.progress.followers.values() if f.stuck_since is not None}
    everybody = {replica for each in quorum_sets(reign.record) for replica in each}
    return not is_quorum(everybody - stuck, reign.record)


def stuck_for(reign: Reign, seconds: float) -> list[str]:
    """The followers that have been at a higher promise for longer than that (R11)."""
    followers, since = reign.progress.followers.values(), reign.state.now - seconds
    return [f.node for f in followers if f.stuck_since is not None and f.stuck_since < since]
