"""How long pages of a promise are awaited before they are asked for again: longer behind a slow link (R16).

A page that is asked for again while it is on its way is queued twice, and behind a slow link each such page
makes the next one later still. So whatever comes, wanted still or not, tells how long the next may take, and
each time that nothing has come the next time is twice as far away. What was never answered teaches nothing.
"""

from __future__ import annotations

import math

from msgspec import Struct

PATIENCE = 4  # so many times as long as the slowest of late took
PATIENCE_MAX_S = 10.0
DOUBLINGS_MAX = 2  # who is down now is to be asked soon when it is back


class Patience(Struct):
    """With one replica; *least_s* is for one that nothing is known of."""

    least_s: float
    silent_since: float = math.inf  # it is asked for something, and nothing has come from it since
    again_at: float = -math.inf  # before that instant nothing is asked for again
    took_s: float = 0.0  # by the slowest of late
    repeats: int = 0  # of what has not come

    @property
    def span_s(self) -> float:
        """For how long it may be silent."""
        return max(self.least_s, min(PATIENCE * self.took_s, PATIENCE_MAX_S))

    def asked(self, now: float) -> None:
        """It is asked, perhaps again, for what it has not told."""
        self.silent_since = min(self.silent_since, now)
        self.again_at = now + self.span_s * 2 ** min(self.repeats, DOUBLINGS_MAX)
        self.repeats += 1

    def came(self, now: float, asked_at: float | None) -> None:
        """A page of its has come, for which it was asked once, and more may be on their way.

        None: more than once, or for an older claim. It may be the answer to any question then, so that no
        more is learnt from it than the next one needs.
        """
        if asked_at is not None:
            self.took_s = max(self.took_s / 2, now - asked_at)
        elif self.silent_since < now:
            self.took_s = max(self.took_s, min(now - self.silent_since, self.span_s))
        self.silent_since, self.repeats = now, 1
        self.again_at = now + self.span_s

    def rest(self) -> None:
        """Nothing is waited for any longer."""
        self.silent_since, self.again_at, self.repeats = math.inf, -math.inf, 0
