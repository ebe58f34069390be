"""A cluster of real cores in which nothing happens by itself, with words to ask what they did.

The commands are those of the transcripts; see `tests/transcripts/harness.py`.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from typing import TypeVar

from replicator.core.effects import Publish, Send, SetLease
from replicator.core.events import Received
from replicator.core.messages import Message
from replicator.core.replica import Replica
from replicator.core.state import State
from replicator.model import Incarnation, NodeId, Owner, Process
from tests.simulation.history import Content
from tests.simulation.node import Node
from tests.transcripts.harness import Bench

T = TypeVar("T")

# Commands: a candidate has asked, and all have answered.
PROBED = ("deliver *->* Probe", "deliver *->* ProbeAnswer")


class Cluster(Bench):
    """Commands in, and what the cores asked for since the last `forget` out."""

    def __init__(self, *names: str, founded: bool = True) -> None:
        super().__init__()
        # No checkers: rules are tested with words that no honest replica would say.
        self.stop_checking()
        self._from = 0
        self.do(("founded " if founded else "new ") + " ".join(names))
        if not founded:
            self.do(f"start {' '.join(names)}")

    def do(self, *commands: str) -> Cluster:
        """Run commands, one after the other."""
        for command in commands:
            self.run(command)
        return self

    def with_primary(self, name: str) -> Cluster:
        """The elector names *name*, and everything that follows has happened."""
        return self.do(f"grant {name}", "settle", "advance 0.07", "settle")

    def forget(self) -> Cluster:
        """Ask only about what happens from now on."""
        self._from = len(self.trace.entries)
        return self

    def live(self, seconds: float) -> Cluster:
        """Let time pass in small steps, everything happening as it comes."""
        for _ in range(round(seconds / 0.05)):
            self.do("advance 0.05", "settle")
        return self

    # ── what happened ──

    def effects(self, name: str, kind: type[T]) -> list[T]:
        """Effects of that kind that *name* asked for, in order."""
        return [
            subject
            for _, who, verb, subject in self.trace.entries[self._from :]
            if who == name and verb == "do" and isinstance(subject, kind)
        ]

    def sent(self, name: str, kind: type[T]) -> list[T]:
        """Messages of that kind that *name* sent, in order."""
        return [send.message for send in self.effects(name, Send) if isinstance(send.message, kind)]

    def order(self, name: str) -> Ordered[type]:
        """The types of everything that *name* handled and did, in order; of sends the message's."""
        kinds: list[type] = []
        for _, who, verb, subject in self.trace.entries[self._from :]:
            if who == name and verb in ("handle", "do"):
                kinds.append(type(subject.message) if isinstance(subject, Send) else type(subject))
        return kinds

    def lease_word(self, name: str) -> float:
        """What the engine's lease word of that node says: the deadline, 0 when it is cleared."""
        words = self.effects(name, SetLease)
        return words[-1].deadline if words else 0.0

    def content_for(self, effect: Publish) -> Content:
        """As in the world; and what an operator abandoned is deleted by a tombstone of no engine's."""
        if effect.handle == 0 and effect.tombstone:
            return self.history.create(
                0, effect.stream, effect.epoch, effect.sequence, None, b"", tombstone=True
            )
        return super().content_for(effect)

    # ── the insides, for set-up and for what cannot be seen from outside ──

    def node(self, name: str) -> Node:
        return self.nodes[NodeId(name)]

    def core(self, name: str) -> Replica:
        replica = self.node(name).replica
        assert replica is not None
        return replica

    def state(self, name: str) -> State:
        return self.core(name)._state

    def owner(self, name: str) -> Owner:
        """The owner that *name*'s process is."""
        return self.state(name).me

    def hear(
        self,
        name: str,
        sender: str,
        message: Message,
        *,
        process: Process | None = None,
        incarnation: Incarnation | None = None,
        counter: int = 0,
        remembered: int | None = 0,
    ) -> None:
        """Hand a message to *name* as if *sender* had sent it, as its present process or as another."""
        me = self.owner(sender)
        self.node(name).deliver(
            Received(
                node=NodeId(sender),
                incarnation=incarnation or Incarnation(me.incarnation),
                process=process or Process(me.process),
                counter=counter,
                remembered=remembered,
                message=message,
            )
        )
