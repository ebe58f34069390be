"""One checker per invariant. Each looks on as things happen and raises `Violation` at the first wrong one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.checkers.base import CHECKED, Checker, Violation

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ["CHECKED", "Checker", "Violation", "all_checkers"]


def all_checkers(world: World) -> list[Checker]:
    """A checker of each kind; the ones that keep the history come first."""
    from tests.simulation.checkers import (
        acceptances,
        acknowledgements,
        adoption,
        ancestry,
        bounds,
        chains,
        contents,
        leases,
        members,
        promises,
        tombstones,
    )

    modules = (
        acceptances, promises, chains, ancestry, acknowledgements, adoption, leases, members, tombstones,
        bounds, contents,
    )  # fmt: skip
    return [module.CHECKER(world) for module in modules]
