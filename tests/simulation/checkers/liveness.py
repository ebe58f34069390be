"""I8: faults over, a majority healthy and connected: serving and committing within a bound, then at rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replicator.core.quorum import majority
from replicator.model import Head, Role, StreamName
from tests.simulation.checkers.base import Violation
from tests.simulation.trace import show

if TYPE_CHECKING:
    from tests.simulation.faults import Faults
    from tests.simulation.node import Node
    from tests.simulation.world import World

SERVING_WITHIN_S = 20.0
WORKING_WITHIN_S = 60.0
SCRUB_AFTER_S = 2.0
RESTING_WITHIN_S = 10.0
REPLACE_AFTER_S = 3.0
QUICK_MEAN_S = 0.1
BESIDE_COMMITS = 5
BRIMFUL_CHANCE = 0.7
HANGING_CHANCE = 0.3
IN_OFFICE_CHANCE = 0.5


class Liveness:
    """Drives the healed world to its end and says what is missing if it does not get there."""

    def __init__(self, world: World, faults: Faults) -> None:
        self._world = world
        self._faults = faults
        self._healed_at = world.now
        self._commits_before = 0

    def require(self, until: float, commits: int) -> None:
        """Serving with a fresh commit; working on *until* then and for so many *commits* in all; then all
        tickets have ended and all members hold the same heads."""
        world = self._world
        world.delete_chance = 0.0
        world.run_until(world.now + REPLACE_AFTER_S)
        self._faults.replace_faulty()
        self._commits_before = world.history.commit_count
        if not world.run_until(self._healed_at + SERVING_WITHIN_S, self._is_serving):
            raise Violation("I8", f"not serving {SERVING_WITHIN_S} s after the faults: {self._roles()}")
        self._faults.replace_faulty()  # who learned of it from its peers only now
        self._work_on(until, commits)
        for node in world.nodes.values():
            node.engine.rests = True
        # New heads may name chunks that have rotted under older ones: the next scrub finds them (R22).
        world.run_until(world.now + SCRUB_AFTER_S)
        for node in world.nodes.values():
            self._faults.disks.scrub(node)
        self._require_rest()

    def _require_rest(self) -> None:
        if not self._world.run_until(self._world.now + RESTING_WITHIN_S, self._is_at_rest):
            raise Violation("I8", f"{self._unrest()} {RESTING_WITHIN_S} s later: {self._roles()}")

    def require_beside_bad_disks(self) -> None:
        """The same while the disks of a minority stay full, or hang: one of their nodes is named the leader,
        or is primary; then they have room again, or go on, and all are at rest."""
        world, random = self._world, self._world.random
        nodes = list(world.nodes.values())
        hang = random.random() < HANGING_CHANCE
        in_office = [node for node in nodes if node.engine.is_active and hang]
        stays = bool(in_office) and random.random() < IN_OFFICE_CHANCE
        drawn = random.sample(nodes, (len(nodes) - 1) // 2)
        bad = list(dict.fromkeys([*in_office, *drawn]))[: len(drawn)] if stays else drawn
        if not bad or not any(node.config.has_engine for node in nodes if node not in bad):
            return
        what = "hanging beside" if hang else "full beside"
        world.trace.add(world.now, "fault", what, " ".join(node.name for node in bad))
        for node in bad:
            node.disk.set_full(not hang, brimful=not hang and random.random() < BRIMFUL_CHANCE)
        for node in nodes:
            node.engine.rests = False
            if node.engine.epoch and not stays:
                node.crash()
                world.ensure_running(node)
        for node in bad:
            node.disk.set_stopped(hang)
        world.elector.name(bad[0].name)
        self._commits_before = world.history.commit_count + BESIDE_COMMITS
        within_s = SERVING_WITHIN_S * (2 if hang else 1)  # each of those may be named in its turn
        if not world.run_until(world.now + within_s, self._is_serving):
            raise Violation("I8", f"not serving {within_s} s {what} disks: {self._roles()}")
        for node in nodes:
            node.disk.set_stopped(False)
            node.disk.set_full(False)
            node.engine.rests = True
        self._require_rest()

    def _is_serving(self) -> bool:
        active = [node for node in self._world.nodes.values() if node.engine.is_active]
        if len(active) == 1 and set(self._world.streams) <= self._lost(active[0]):
            # No disk can read any of them: they wait, but a stream of its own must be served (R8).
            self._world.add_stream()
        return bool(active) and self._world.history.commit_count > self._commits_before

    def _work_on(self, until: float, commits: int) -> None:
        """The engine works as long as the seed has to last, and faster if commits are lacking."""
        world = self._world
        world.run_until(until)
        world.submit_mean_s = min(world.submit_mean_s, QUICK_MEAN_S)
        world.paces = dict.fromkeys(world.streams, 1.0)
        bound = world.now + WORKING_WITHIN_S
        if not world.run_until(bound, lambda: world.history.commit_count >= commits):
            raise Violation("I8", f"{world.history.commit_count} commits in all: {self._roles()}")
        for node in world.nodes.values():
            self._faults.disks.scrub(node)

    def _lost(self, primary: Node) -> frozenset[StreamName]:
        """The streams whose newest checkpoint nobody can read, or could when the tenure began: they wait,
        each alone (R8)."""
        tenure = self._world.history.tenures.get(primary.engine.epoch)
        return tenure.unavailable | primary.engine.given_up if tenure is not None else frozenset()

    def _is_at_rest(self) -> bool:
        self._faults.replace_faulty()  # who could not be replaced before: a change was under way
        return not self._unrest()

    def _unrest(self) -> str:
        """What is not yet as it should be, or ''."""
        world = self._world
        primaries = [node for node in world.nodes.values() if node.engine.is_active]
        if len(primaries) != 1:
            return f"{len(primaries)} active primaries"
        heads = self._heads(primaries[0])
        for node in world.nodes.values():
            if node.engine.epoch and node.engine.unreleased:
                return f"payloads {sorted(node.engine.unreleased)} of {node.name} are not released"
            if any(line.in_flight for line in node.engine.lines.values()) and node.engine.epoch:
                return f"a ticket of {node.name} has not ended"
            if not node.is_running or node.role not in (Role.BACKUP, Role.PRIMARY):
                return f"{node.name} is {node.role}"
            for stream, head in heads.items():
                readable = [each for each in world.nodes.values() if each.disk.image.readable_head(stream)]
                if node not in readable and readable:  # what nobody can read, nobody can mend
                    return f"{stream} is rotten at {node.name}"
                # A head that never committed may stay behind where its stream is unknown to the rest.
                theirs = node.disk.image.newest(stream)
                if theirs is None or theirs.manifest.digest != head.digest:
                    have = show(theirs.head(True)) if theirs else "nothing"
                    return f"{node.name} has {have}, {primaries[0].name} has {show(head)}"
        return self._withheld_for_nothing(primaries[0])

    def _heads(self, primary: Node) -> dict[StreamName, Head]:
        """What all must hold: not what the tenure waits for, nor what was dropped and never adopted in it, as
        a rotten one that never committed (R8)."""
        tenure = self._world.history.tenures.get(primary.engine.epoch)
        heads = {stream: kept[-1].head(True) for stream, kept in primary.disk.image.streams.items()}
        return {
            stream: head
            for stream, head in heads.items()
            if tenure is None
            or stream in tenure.restored
            or (head.accepted_epoch == tenure.epoch and stream not in tenure.unavailable)
        }

    def _withheld_for_nothing(self, primary: Node) -> str:
        """A stream waits for its newest checkpoint only where that may have committed and nobody can read
        it; everybody has been heard by now (R8)."""
        nodes = self._world.nodes.values()
        for stream in sorted(self._lost(primary)):
            held = [each for node in nodes if (each := node.disk.image.newest(stream)) is not None]
            newest = max((head.head(True).order for head in held), default=(0, 0))
            holders = [
                node
                for node in nodes
                if (one := node.disk.image.newest(stream)) is not None and one.head(True).order == newest
            ]
            if len(holders) < majority(len(nodes)):
                return f"{stream} is withheld though its newest checkpoint never committed"
            if any(node.disk.image.readable_head(stream) for node in holders):
                return f"{stream} is withheld though it can be read"
        return ""

    def _roles(self) -> str:
        parts = [
            f"{node.name}={node.role}{'*' if node.engine.is_active else ''}"
            for node in self._world.nodes.values()
        ]
        return " ".join(parts) + f", elector names {sorted(self._world.elector.granted)}"
