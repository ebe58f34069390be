"""How fast a node that lags may fetch while the others commit: in bursts, and at a bounded rate (R18).

Serving a late joiner takes processor time and disk waits from the very nodes whose acknowledgements commit.
Spread evenly it would slow every commit down; in bursts most commits meet none of it. The bound counts only
while checkpoints are being published, which a node that lags hears itself, and never for what a claim waits
for: nobody commits then. Plain state without a clock: the time is an argument.
"""

from __future__ import annotations

BURST_S = 0.25  # a burst asks for as much as may be fetched in this time, and the next begins when it is over
PUBLISHING_S = 1.0  # without a publication for so long, nobody is held up


class Pace:
    """What has been asked for, as the time that it takes at *bytes_per_s*; 0: there is no bound."""

    def __init__(self, bytes_per_s: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._paid_at = 0.0  # what has been asked for is within the bound then
        self._is_spent = False  # the burst is over
        self._publications = 0
        self._publishing_until = 0.0

    def heard(self, publications: int, now: float) -> None:
        """So many publications have been heard since the node has started."""
        if publications != self._publications:
            self._publications = publications
            self._publishing_until = now + PUBLISHING_S

    def asked(self, size_bytes: int, now: float) -> None:
        """So much has been asked for."""
        if self._bytes_per_s:
            self._paid_at = max(self._paid_at, now) + size_bytes / self._bytes_per_s
            self._is_spent = self._is_spent or self._paid_at - now >= BURST_S

    def rests(self, now: float) -> bool:
        """Whether nothing more is to be asked for now."""
        if now >= min(self._paid_at, self._publishing_until):
            self._paid_at, self._is_spent = min(self._paid_at, now), False
        return self._is_spent
