"""Every small world is searched, for as many states as fit into a test run; `scripts/explore` goes on."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from tests.exploration.__main__ import line
from tests.exploration.explorer import Explorer
from tests.exploration.registry import Input
from tests.exploration.worlds import LED, WORLDS, A, B, World

STATES_MAX = 10_000


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_no_promise_is_broken(world: World) -> None:
    """No interleaving among the first ten thousand states of the world breaks one of I1 to I7."""
    explorer = Explorer(world)
    outcome = explorer.explore(STATES_MAX, depth_max=1_000, seconds_max=math.inf)
    print(line(outcome))
    assert not outcome.violation, [explorer.tell(step) for step in outcome.path]
    assert outcome.complete or outcome.states >= STATES_MAX


def test_the_same_search_twice() -> None:
    """A search is a fact: the same states and transitions each time."""
    (world,) = [world for world in WORLDS if world.name == "loose"]
    first, second = (Explorer(world).explore(STATES_MAX, 1_000, math.inf) for _ in range(2))
    assert (first.states, first.transitions, first.depth) == (second.states, second.transitions, second.depth)
    assert first.complete


def test_a_prologue_ends_where_it_says() -> None:
    """`LED`: one tenure, one commit, and every machine holds it."""
    explorer = Explorer(World("led", "", {}, {}, LED))
    state = explorer.start()
    machines = [explorer.machines[each] for each in state[:3]]
    assert [machine.accepted for machine in machines] == [{("s", 1): 1}] * 3
    assert explorer._ghosts[state[3]].committed


def test_copies_share_nothing_that_changes() -> None:
    """What happens to a copy leaves no trace in the machine that it was copied from."""
    explorer = Explorer(World("led", "", {}, {}, LED))
    machine = explorer.machines[explorer.start()[0]]
    before = machine.key()
    for given in (Input("submit", "s"), Input("tick"), Input("crash", 0)):
        other = machine.copy()
        assert other.key() == before
        other.apply(given)
        machine._image = None
        assert machine.key() == before != other.key()


def test_copied_machines_speak_for_themselves() -> None:
    """The parts of a copied core that call each other call the copy's."""
    explorer = Explorer(World("led", "", {}, {}, LED))
    core = explorer.machines[explorer.start()[0]].copy().core
    assert core is not None
    assert core._claimant._won.__self__ is core._primary  # type: ignore[attr-defined]
    assert core._promiser._give_way.__self__ is core  # type: ignore[attr-defined]
    assert core._primary.claimant._state is core._state is core._backup._state


def test_budgets_are_kept() -> None:
    """What a world does not name never happens; what it names happens as often as it says."""
    explorer = Explorer(World("calm", "", {"grant b": 1}, {}, nodes=frozenset({A, B})))
    state = explorer.start()
    steps = [step.given.verb for step, _ in explorer.successors(state)]
    assert steps == ["grant"]


@pytest.mark.parametrize(("violation", "status"), [("", 130), ("I3: lost", 1)])
def test_an_interrupted_search_is_no_success(violation: str, status: int) -> None:
    """It says so in a word; a broken promise seen before counts more."""
    script = (
        "import signal, sys\n"
        "from tests.exploration import __main__ as script\n"
        "from tests.exploration.explorer import Outcome\n"
        "def explore(self, *_):\n"
        "    if self.world.name != script.WORLDS[0].name: signal.raise_signal(signal.SIGTERM)\n"
        f"    return Outcome('w', 1, 1, 1, 1, 1, 1.0, True, 0, 0, {violation!r})\n"
        "script.Explorer.explore = explore\n"
        "sys.exit(script.main(['--quick']))\n"
    )
    root = Path(__file__).parent.parent.parent
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert (done.returncode, done.stderr) == (status, "interrupted\n")
