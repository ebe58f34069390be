"""I4: the commits of a stream form one chain, and callbacks never go backwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from replicator.core.effects import Commit, Effect, EndTenure, MarkCommitted, Standby, Supersede
from replicator.model import Epoch, Head, Position, StreamName
from tests.simulation.checkers.base import Checker, Violation
from tests.simulation.history import Committed, Content, is_quorum
from tests.simulation.node import Node
from tests.simulation.trace import show

if TYPE_CHECKING:
    from tests.simulation.world import World


class Chains(Checker):
    """Follows commits, and tells the history of them: those that an engine is told of, and those that a
    primary notes for itself, as of a stream that its tenure began without."""

    watches: ClassVar[tuple[type, ...]] = (Commit, MarkCommitted, EndTenure, Supersede, Standby)

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._ended: set[tuple[str, Epoch]] = set()

    def performed(self, node: Node, effect: Effect) -> None:
        if isinstance(effect, Commit):
            self._commit(node, effect)
        elif isinstance(effect, MarkCommitted):
            if node.is_owner:
                self._note(node, effect.stream, effect.position)
        elif isinstance(effect, EndTenure):
            self._ended.add((node.name, effect.epoch))
        elif isinstance(effect, Supersede):
            self._supersede(node, effect)
        elif isinstance(effect, Standby) and not self._is_committed(
            effect.head.stream, self.history.content_of(effect.head)
        ):
            self._held_by_majority(node, effect.head)

    def _commit(self, node: Node, effect: Commit) -> None:
        history, stream = self.history, effect.stream
        if not node.engine.epoch or (node.name, node.engine.epoch) in self._ended:
            raise Violation("R17a", f"{node.name} commits {stream}@{effect.position} without a tenure")
        for other in history.commits.get(stream, [])[-3:]:
            if other.epoch == node.reign and other.position.sequence > effect.position.sequence:
                raise Violation("I4", f"{node.name}: callbacks of {stream} go back to {effect.position}")
        content = self._note(node, stream, effect.position)
        if effect.handle and history.handles[effect.handle] != content:
            raise Violation("I4", f"{node.name}: {stream}@{effect.position} is not payload {effect.handle}")
        history.commit_count += 1

    def _note(self, node: Node, stream: StreamName, position: Position) -> Content:
        """Tell the history, once; a primary notes what it commits a moment before its engine is told."""
        history = self.history
        digest = history.positions.get((stream, position))
        if digest is None:
            raise Violation("I4", f"{node.name} commits {stream}@{position}: what is that?")
        commit = Committed(self.world.now, node.name, node.reign, position, history.contents[digest])
        newest = history.newest_commit(stream)
        if newest is not None and not self._one_chain(newest.content, commit.content):
            raise Violation("I4", f"{stream}@{position} and @{newest.position} both committed")
        known = history.commits.get(stream, [])[-1:]
        if not known or (known[0].epoch, known[0].position) != (commit.epoch, position):
            history.commit(stream, commit)
        return commit.content

    def _one_chain(self, left: Content, right: Content) -> bool:
        return self.history.keeps(left, right) or self.history.keeps(right, left)

    def _supersede(self, node: Node, effect: Supersede) -> None:
        digest = self.history.positions.get((effect.stream, effect.by))
        if digest is None or not self._is_committed(effect.stream, self.history.contents[digest]):
            raise Violation("R17", f"{node.name}: superseded by {effect.by}, which has not committed")
        if not self.history.keeps(self.history.contents[digest], self.history.handles[effect.handle]):
            raise Violation("R17", f"{node.name}: {effect.by} does not build on payload {effect.handle}")

    def _held_by_majority(self, node: Node, head: Head) -> None:
        """An adopted base is as good as committed before any engine has been told of it."""
        history, stream = self.history, StreamName(head.stream)
        content = history.content_of(head)
        for (name, epoch), accepted in history.accepted_contents.items():
            later = [one for sequence, one in accepted.items() if sequence >= head.sequence]
            if name != stream or epoch < head.epoch or not all(history.descends(c, content) for c in later):
                continue
            holders = history.holders(stream, epoch, head.sequence)
            if any(is_quorum(record, holders) for record in history.records):
                return
        raise Violation("R15", f"{node.name} offers {show(head)}, which has not committed")

    def _is_committed(self, stream: str, content: Content) -> bool:
        commits = self.history.commits.get(StreamName(stream), [])
        return any(self.history.descends(one.content, content) for one in reversed(commits))


CHECKER = Chains
