"""The lease: the primary's right to call itself primary *now*, lent by a majority (R24-R26).

A lender promises no other owner until its own clock says that what it lent has passed. The holder counts
from the *send* time of the question that was answered, less a margin for clocks whose rates differ, so
it stops believing before any lender stops refusing. Only rates of clocks are trusted, never their times.

One thing voids a lease before its time: its owner's own word (`LeaseReturned`), which a worker says with its
last breath when its engine dies. A closed connection proves nothing. The kernel closes those of a process
that died, yet a living one loses them too: to a router that forgets or resets, to an address that moves, to
ZeroMQ itself, which dials anew after any error; and a port that refuses to be dialled may be a firewall's
answer. Whoever hears that the primary's connections are gone knows no more than one who hears nothing, so
where nobody is left to speak (a whole node, or a worker in the engine's own process) the timers decide (I9).
"""

from __future__ import annotations

import math

from replicator.core.config import Config
from replicator.core.messages import Echo
from replicator.core.quorum import ReplicaId, quorum_value
from replicator.model import MemberRecord, NodeId, Owner, Process

QUESTIONS_MAX = 64


class Lender:
    """One replica's word not to promise any other owner before an instant of its own clock."""

    def __init__(
        self, config: Config, process: Process, promised_owner: Owner | None, now: float, lent_s: float = 0.0
    ) -> None:
        self._config = config
        self._process = process
        # What was lent before a restart is forgotten, and only the promised owner can have been lent to.
        # Without peers that was an earlier process of this node, which the store's lock shows to be gone.
        # The maximum of then, *lent_s*, may have been another one than that of now.
        self.owner = promised_owner
        waits = promised_owner is not None and not config.standalone
        self.until = now + max(lent_s, config.lease_max_s) if waits else -math.inf

    def blocks(self, owner: Owner, now: float) -> bool:
        """Whether a promise to *owner* must wait: the lease is lent to another one."""
        return self.owner is not None and self.owner != owner and now < self.until

    def lend(self, owner: Owner, lease_s: float, echo: Echo | None, now: float) -> bool:
        """Lend to *owner*, if its question proves that it has heard us within one lease (T22).

        One that asks for more than the maximum gets nothing: it would count on all that it asked for, and
        a lender that starts anew waits for the maximum only.
        """
        fresh = echo is not None and echo.process == self._process and 0 <= now - echo.at <= lease_s
        if not fresh or lease_s > self._config.lease_max_s or self.blocks(owner, now):
            return False
        self.owner, self.until = owner, max(self.until, now + lease_s)  # another's has passed
        return True

    def take_back(self, owner: Owner) -> None:
        """The owner has ended its tenure and gives the lease back (R26)."""
        if self.owner == owner:
            self.until = -math.inf

    def echo(self, now: float) -> Echo:
        """What the next question must carry to be lent anything."""
        return Echo(self._process, now)


class Holder:
    """What a primary has been lent, by replica, on its own clock."""

    def __init__(self, config: Config, me: ReplicaId) -> None:
        self._config = config
        self._lent = {me: math.inf}  # oneself lends for as long as one promises nobody else
        self._asked: dict[int, float] = {}
        self.echoes: dict[NodeId, Echo] = {}
        self.question = 0
        self.deadline = 0.0

    def ask(self, now: float) -> int:
        """Number the next question and remember when it is sent."""
        self.question += 1
        self._asked[self.question] = now
        self._asked.pop(self.question - QUESTIONS_MAX, None)
        return self.question

    def answer(self, replica: ReplicaId, question: int, lends: bool, record: MemberRecord) -> None:
        """Count an answer and move the deadline."""
        sent_at = self._asked.get(question)
        if lends and sent_at is not None:
            until = sent_at + self._config.lease_s - self._config.lease_margin_s
            self._lent[replica] = max(self._lent.get(replica, 0.0), until)
        self.count(record)

    def count(self, record: MemberRecord) -> None:
        """The instant until which a majority lends."""
        self.deadline = quorum_value(lambda replica: self._lent.get(replica, 0.0), record)
