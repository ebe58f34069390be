"""A node's clock: linear in true time, with a rate and an offset that nobody can see."""

from __future__ import annotations


class Clock:
    """Local seconds as a function of true seconds; goes on while the node is paused or down."""

    def __init__(self, rate: float, offset: float) -> None:
        self.rate = rate
        self._offset = offset

    def local(self, true: float) -> float:
        """What this clock shows at a true instant."""
        return self._offset + self.rate * true

    def true(self, local: float) -> float:
        """The true instant at which this clock shows *local*."""
        return (local - self._offset) / self.rate

    def change_rate(self, true: float, rate: float) -> None:
        """Go on at another rate, without a step."""
        self._offset += (self.rate - rate) * true
        self.rate = rate

    def reboot(self, true: float, local: float) -> None:
        """Start again at *local*, as CLOCK_BOOTTIME does when the machine comes up."""
        self._offset = local - self.rate * true
