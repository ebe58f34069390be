"""I1: a promise never falls, is durable before any answer of its epoch leaves, and has one owner."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from replicator.core.effects import Effect, ForgetTombstone, Send, StartTenure, WritePromise
from replicator.core.events import Event
from replicator.core.messages import Ack, Adopted, HeartbeatAnswer, MembersAccepted, Promised
from replicator.model import Head, Incarnation, Owner, StreamName
from tests.simulation.checkers.base import Checker, Violation
from tests.simulation.disk import Disk, Operation
from tests.simulation.history import is_quorum
from tests.simulation.node import Node

if TYPE_CHECKING:
    from tests.simulation.world import World

ANSWERS = frozenset({Promised, Ack, Adopted, MembersAccepted})


class Promises(Checker):
    """Follows every disk's promise, and what each promise answer may say (R1, R2, R15 of restarts)."""

    watches: ClassVar[tuple[type, ...]] = (Send, StartTenure)
    writes: ClassVar[tuple[type, ...]] = (WritePromise, ForgetTombstone)

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._promised: dict[Incarnation, tuple[int, Owner | None]] = {}
        self._heads: dict[tuple[Incarnation, int], dict[StreamName, tuple[int, int]]] = {}
        self._givers: dict[int, dict[Owner, set[Incarnation]]] = {}
        self._tenures: dict[int, tuple[str, bytes]] = {}

    def wrote(self, disk: Disk, operation: Operation, event: Event | None) -> None:
        if isinstance(operation, ForgetTombstone) and operation.stream not in disk.image.streams:
            for (who, _), heads in self._heads.items():
                if who == disk.image.incarnation:  # a claim that is told again later is answered without it
                    heads.pop(StreamName(operation.stream), None)
        if not isinstance(operation, WritePromise) or disk.image.is_old:
            return  # an old copy that was put back knows of nothing newer, until it hears a peer (R21)
        promise, who = operation.promise, disk.image.incarnation
        epoch, owner = self._promised.get(who, (0, None))
        if (promise.epoch, promise.owner) != (epoch, owner) and promise.epoch <= epoch:
            raise Violation("I1", f"{disk.node} promises {promise.epoch} after {epoch}")
        self._promised[who] = (promise.epoch, promise.owner)
        # A tombstone may be on its way to be forgotten: a promise overtakes that.
        newest = {s: one[-1] for s, one in disk.image.streams.items() if not one[-1].manifest.tombstone}
        self._heads.setdefault(
            (who, promise.epoch),
            {stream: (one.accepted_epoch, one.manifest.sequence) for stream, one in newest.items()},
        )
        givers = self._givers.setdefault(promise.epoch, {})
        givers.setdefault(promise.owner, set()).add(who)
        record = disk.image.record
        if record and sum(is_quorum(record, one) for one in givers.values()) > 1:
            raise Violation("I1", f"two owners have a majority for {promise.epoch}")

    def performed(self, node: Node, effect: Effect) -> None:
        if isinstance(effect, Send):
            message = effect.message
            lends = type(message) is HeartbeatAnswer and message.lends
            if lends or type(message) in ANSWERS:
                self._answers(node, message)  # type: ignore[arg-type]
        elif isinstance(effect, StartTenure):
            who = (node.name, bytes(node.process))
            if self._tenures.setdefault(effect.epoch, who) != who:
                raise Violation("I1", f"two processes have a tenure of epoch {effect.epoch}")

    def _answers(
        self, node: Node, message: Promised | Ack | Adopted | MembersAccepted | HeartbeatAnswer
    ) -> None:
        image = node.disk.image
        if image.promised_epoch < message.epoch:
            kind = type(message).__name__
            raise Violation("I1", f"{node.name} sends {kind}({message.epoch}), has {image.promised_epoch}")
        if isinstance(message, Promised) and message.page_count == 1:
            said: dict[str, Head] = {head.stream: head for head in message.heads}
            for stream, order in self._heads.get((image.incarnation, message.epoch), {}).items():
                head, held = said.get(stream), image.streams.get(stream)
                if held is None or (head is None and held[-1].manifest.tombstone):
                    continue  # forgotten, or on its way to be: the mirror is ahead of the disk there
                if head is None or (head.accepted_epoch, head.sequence) < order:
                    raise Violation("R2", f"{node.name} reports {head} of {stream}, had {order}")


CHECKER = Promises
