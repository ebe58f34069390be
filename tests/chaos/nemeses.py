"""The nemeses: what is done to a cluster, and how it is undone.

Each is a function of the world that does something and gives the `Fault`, or None when it cannot be done
just now. Two may be at work at once, never two on the same processes. `primary` is hit half of the time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

from replicator.errors import Unavailable
from tests.chaos.network import Cut, Network
from tests.chaos.world import World
from tests.integration.memory import MIB

SHORT_S, LONG_S = (0.1, 1.0), (0.5, 4.0)
BALLAST = "ballast"


class Fault(NamedTuple):
    """A fault at work: whose processes it has, what it has done, how to undo it, and after how long."""

    nodes: tuple[str, ...]
    what: str
    heal: Callable[[], None]
    hold_s: float


class Nemesis(NamedTuple):
    """*strike* does it; *needs* is what the run must have: "network", "disk", or nothing."""

    name: str
    weight: float
    needs: str
    strike: Callable[[World, set[str]], Fault | None]


def _victim(world: World, busy: set[str]) -> str | None:
    """A node whose processes are free: the primary half of the time, one that comes back now and then."""
    free = [name for name in world.names if name not in busy]
    if world.random.random() < 0.7:
        free = [name for name in free if name not in world.joining]
    if world.primary in free and world.random.random() < 0.5:
        return world.primary
    return world.random.choice(free) if free else None


def _role(world: World, name: str) -> str:
    return "primary" if name == world.primary else "backup"


def _start(world: World, *names: str) -> None:
    for name in names:
        world.down[name] -= 1
        world.start(name)


def _hold(world: World, span: tuple[float, float] = LONG_S) -> float:
    return world.random.uniform(*span)


# ── processes ──


def kill(world: World, busy: set[str]) -> Fault | None:
    """SIGKILL for engine and worker, as when a machine is lost."""
    if (name := _victim(world, busy)) is None:
        return None
    what = f"kill of the {_role(world, name)}"
    world.set_down(name, 1)
    world[name].kill()
    return Fault((name,), what, partial(_start, world, name), _hold(world))


def kill_engine(world: World, busy: set[str]) -> Fault | None:
    """SIGKILL for the engine alone."""
    if (name := _victim(world, busy)) is None:
        return None
    what = f"kill of the {_role(world, name)}'s engine"
    world.set_down(name, 1)
    world[name].kill_engine()
    return Fault((name,), what, partial(_start, world, name), _hold(world, SHORT_S))


def kill_worker(world: World, busy: set[str]) -> Fault | None:
    """SIGKILL for the worker alone; the engine starts another."""
    if (name := _victim(world, busy)) is None:
        return None
    what = f"kill of the {_role(world, name)}'s worker"
    world[name].kill_worker()
    world.ask_later(name)
    return Fault((name,), what, lambda: None, _hold(world, SHORT_S))


def kill_all(world: World, busy: set[str]) -> Fault | None:
    """SIGKILL for every process of every node, as when the power goes."""
    if busy or world.joining:
        return None
    for name in world.names:
        world.set_down(name, 1)
    world.cluster.kill_all()
    return Fault(
        tuple(world.names), "kill of all", partial(_start, world, *world.names), _hold(world, SHORT_S)
    )


def stop(world: World, busy: set[str]) -> Fault | None:
    """SIGSTOP for a node's processes, and SIGCONT later."""
    return _stop(world, busy, "stop of the {}", "stop")


def stop_worker(world: World, busy: set[str]) -> Fault | None:
    """SIGSTOP for the worker alone: its engine goes on."""
    return _stop(world, busy, "stop of the {}'s worker", "stop_worker")


def stop_engine(world: World, busy: set[str]) -> Fault | None:
    """SIGSTOP for the engine alone: its worker goes on to vote, to store, and to hold the lease."""
    return _stop(world, busy, "stop of the {}'s engine", "stop_engine")


def _stop(world: World, busy: set[str], text: str, method: str) -> Fault | None:
    if (name := _victim(world, busy)) is None:
        return None
    what = text.format(_role(world, name))
    world.set_down(name, 1)
    getattr(world[name], method)()

    def heal() -> None:
        world[name].cont()
        world.set_down(name, -1)

    return Fault((name,), what, heal, _hold(world))


def terminate(world: World, busy: set[str]) -> Fault | None:
    """SIGTERM: the last commit, a handover, an orderly end; then a new life."""
    if (name := _victim(world, busy)) is None:
        return None
    what = f"end of the {_role(world, name)}"
    world.set_down(name, 1)
    world[name].terminate()
    return Fault((name,), what, partial(_start, world, name), _hold(world, SHORT_S))


def hand_over(world: World, busy: set[str]) -> Fault | None:
    """An operator tells the primary to make room, for somebody or for anybody."""
    if not world.primary or world.primary in busy:
        return None
    to = world.random.choice([None, *(name for name in world.names if name != world.primary)])
    try:
        world[world.primary].hand_over(to)
    except (Unavailable, OSError):
        return None
    return Fault((), "handover", lambda: None, _hold(world, SHORT_S))


# ── disks ──


def fill(world: World, busy: set[str]) -> Fault | None:
    """Somebody else fills the disk: to its last byte, or so far that no checkpoint fits any more."""
    free = [name for name in world.small if name not in busy and name not in world.joining]
    if not free:
        return None
    name = world.random.choice(free)
    what = f"full disk of the {_role(world, name)}"
    world.set_down(name, 1)
    path = world[name].data_dir / BALLAST
    _load(path, world.random.choice([0, 0, MIB, 8 * MIB]))

    def heal() -> None:
        path.unlink(missing_ok=True)
        world.down[name] -= 1
        world.ask_later(name)

    return Fault((name,), what, heal, _hold(world))


def _load(ballast: Path, left_bytes: int) -> None:
    """Take all room that there is on the ballast's disk but this; the node takes some at the same time."""
    for _ in range(100):
        room = os.statvfs(ballast.parent)
        with ballast.open("wb") as file, suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, max(room.f_bavail * room.f_frsize - left_bytes, 1))
            return


def wipe(world: World, busy: set[str]) -> Fault | None:
    """A disk is lost. Only while every other disk counts: more than that no majority survives."""
    if busy or not world.is_whole() or (name := _victim(world, busy)) is None:
        return None
    what = f"wiped disk of the {_role(world, name)}"
    world.set_down(name, 1)
    world[name].kill()
    world[name].wipe()
    return Fault((name,), what, partial(_start, world, name), _hold(world, SHORT_S))


# ── network ──


def _cutting(world: World, cuts: list[Cut], what: str) -> Fault:
    network = _network(world)
    network.cut(*cuts)
    world.set_cut(cuts, 1)

    def heal() -> None:
        network.mend(*cuts)
        world.set_cut(cuts, -1)

    return Fault((), what, heal, _hold(world))


def _network(world: World) -> Network:
    assert world.network is not None
    return world.network


def _side(world: World) -> list[str]:
    """Some nodes, never all: with the primary half of the time."""
    count = world.random.randint(1, max(1, len(world.names) // 2))
    others = [name for name in world.names if name != world.primary]
    side = world.random.sample(others, min(count, len(others)))
    if world.primary and world.random.random() < 0.5:
        side[0] = world.primary
    return side


def _between(side: list[str], world: World) -> list[Cut]:
    rest = [name for name in world.names if name not in side]
    return list(product(side, rest))


def _with(world: World, side: list[str]) -> str:
    return "with" if world.primary in side else "without"


def partition(world: World, busy: set[str]) -> Fault | None:
    """Some nodes are cut off from the others, in both directions."""
    side = _side(world)
    out = _between(side, world)
    what = f"partition {_with(world, side)} the primary"
    return _cutting(world, [*out, *(cut[::-1] for cut in out)], what)


def one_way(world: World, busy: set[str]) -> Fault | None:
    """Some nodes are not heard any more, or hear nothing any more."""
    side = _side(world)
    out = _between(side, world)
    if world.random.random() < 0.5:
        return _cutting(world, out, f"one-way partition {_with(world, side)} the primary, unheard")
    return _cutting(
        world, [cut[::-1] for cut in out], f"one-way partition {_with(world, side)} the primary, deaf"
    )


def pair(world: World, busy: set[str]) -> Fault | None:
    """Two nodes lose each other, in one direction or both; everybody else hears both."""
    first, second = world.random.sample(world.names, 2)
    if world.primary and world.random.random() < 0.5 and world.primary != second:
        first = world.primary
    cuts = [(first, second), (second, first)]
    if world.random.random() < 0.5:
        cuts = [world.random.choice(cuts)]
    what = "primary and a backup" if world.primary in (first, second) else "two backups"
    return _cutting(world, cuts, f"cut between {what}")


def flap(world: World, busy: set[str]) -> Fault | None:
    """A node's links break and mend many times a second: packets are lost in bursts."""
    side = _side(world)[:1]
    out = _between(side, world)
    flapping = _network(world).flap([*out, *(cut[::-1] for cut in out)])
    return Fault((), f"flapping links of the {_role(world, side[0])}", flapping.end, _hold(world))


def thin(world: World, busy: set[str]) -> Fault | None:
    """A node's link delays and loses."""
    name = world.random.choice(world.names)
    if name in world.thin:
        return None
    world.thin.add(name)
    network, draw = _network(world), world.random
    network.thin(name, draw.choice([2, 8, 30]), draw.choice([20, 60, 150]), draw.choice([1, 5, 20]))

    def heal() -> None:
        network.widen(name)
        world.thin.discard(name)

    return Fault((), f"thin link of the {_role(world, name)}", heal, _hold(world))


NEMESES = {
    nemesis.name: nemesis
    for nemesis in (
        Nemesis("kill", 3, "", kill),
        Nemesis("kill-engine", 1, "", kill_engine),
        Nemesis("kill-worker", 1, "", kill_worker),
        Nemesis("kill-all", 0.5, "", kill_all),
        Nemesis("stop", 2, "", stop),
        Nemesis("stop-worker", 1, "", stop_worker),
        Nemesis("stop-engine", 0.5, "", stop_engine),
        Nemesis("terminate", 1, "", terminate),
        Nemesis("hand-over", 1, "", hand_over),
        Nemesis("fill", 1, "disk", fill),
        Nemesis("wipe", 1, "", wipe),
        Nemesis("partition", 3, "network", partition),
        Nemesis("one-way", 2, "network", one_way),
        Nemesis("pair", 2, "network", pair),
        Nemesis("flap", 1, "network", flap),
        Nemesis("thin", 1, "network", thin),
    )
}
