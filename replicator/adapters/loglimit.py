"""The log limit: what others can cause as often as they like is logged once in a while (R28)."""

from __future__ import annotations

LOG_INTERVAL_S = 10.0
KINDS_MAX = 256


class LogLimit:
    """Says of each kind of thing whether it is to be logged now. Used on one thread.

    Kinds are few, or whoever causes them could fill the log with new ones. Of more than `KINDS_MAX` the one
    that was logged longest ago is forgotten (I12).
    """

    def __init__(self) -> None:
        self._logged: dict[tuple[str, ...], float] = {}  # when; in that order

    def permits(self, now: float, *kind: str) -> bool:
        """Whether `LOG_INTERVAL_S` have passed since this said so of that kind. *now* never goes back."""
        logged_at = self._logged.get(kind)
        if logged_at is not None and now - logged_at < LOG_INTERVAL_S:
            return False
        self._logged.pop(kind, None)
        self._logged[kind] = now
        if len(self._logged) > KINDS_MAX:
            del self._logged[next(iter(self._logged))]
        return True
