"""The mesh: control messages in their envelopes, out to the peers and in from them (R28).

Every message travels with the protocol version, the cluster, who sends it, the counter of this
store, and the newest counter heard of the recipient's (R21). What comes in is looked at only when all of
that fits: bytes that are no message, another version or cluster, a node that is no peer, and an envelope
that names another node than the sender's key (T16) are dropped, counted and logged, each reason of each
peer as often as the `LogLimit` permits.

Acknowledgments to one node are gathered until something else goes to it or `flush` is called: a store that
made many streams durable with one sync answers for all of them with one message.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from replicator.adapters.loglimit import LogLimit
from replicator.adapters.ports import Control
from replicator.addresses import Address
from replicator.codec.frames import decode_envelope, encode_envelope
from replicator.core.events import Received
from replicator.core.messages import ACKS_PER_MESSAGE, PROTOCOL_VERSION, Ack, Envelope, Message
from replicator.core.replica import Replica
from replicator.errors import MessageError
from replicator.model import Incarnation, NodeId, Owner, Process

log = logging.getLogger(__name__)

STRANGER = NodeId("(stranger)")


class NoControl:
    """The control channel of a node without peers."""

    sockets: Iterable[object] = ()

    def send(self, to: NodeId, frame: bytes) -> bool:
        """There is nobody."""
        return False

    def receive(self) -> Iterator[tuple[NodeId | None, bytes]]:
        """Nobody speaks."""
        return iter(())

    def mend(self, now: float) -> None:
        """Nobody is connected."""

    def unconnected(self) -> list[tuple[NodeId, Address]]:
        """Nobody should be."""
        return []

    def close(self) -> None:
        """Nothing was open."""


class Mesh:
    """Wraps `Control`; used on the control thread only."""

    def __init__(
        self, control: Control, cluster: str, me: Owner, peers: frozenset[NodeId], core: Replica
    ) -> None:
        self.control = control
        self._cluster = cluster
        self._me = me
        self._peers = peers
        self._core = core
        self.heard: dict[NodeId, float] = {}  # when a message of the peer passed the checks last
        self._acks: dict[NodeId, Ack] = {}  # gathered, not yet sent
        self._refused: dict[tuple[NodeId, str], int] = {}
        self._log_limit = LogLimit()

    def send(self, to: NodeId, message: Message) -> bool:
        """Send without waiting; False, and lost, if the peer is unknown or its queue is full."""
        if to not in self._peers:
            return False
        if isinstance(message, Ack):
            return self._gather(to, message)
        self._send_acks(to)
        return self._post(to, message)

    def flush(self) -> None:
        """Send the acknowledgments gathered so far; called when a turn is over."""
        for to in list(self._acks):
            self._send_acks(to)

    def _gather(self, to: NodeId, ack: Ack) -> bool:
        gathered = self._acks.get(to)
        if gathered is not None:
            if gathered.epoch == ack.epoch and len(gathered.acks) + len(ack.acks) <= ACKS_PER_MESSAGE:
                ack = Ack(ack.epoch, gathered.acks + ack.acks)
            else:
                self._send_acks(to)
        self._acks[to] = ack
        return True

    def _send_acks(self, to: NodeId) -> None:
        gathered = self._acks.pop(to, None)
        if gathered is not None:
            self._post(to, gathered)

    def _post(self, to: NodeId, message: Message) -> bool:
        me = self._me
        who = (me.node, me.incarnation, me.process)
        counter, recipient, remembered = self._core.counters(to)
        envelope = Envelope(PROTOCOL_VERSION, self._cluster, *who, counter, remembered, message, recipient)
        return self.control.send(to, encode_envelope(envelope))

    def open(self, key_node: NodeId | None, frame: bytes, now: float) -> Received | None:
        """What has arrived in a frame from the node that its key authenticates, if it passes the checks."""
        try:
            envelope = decode_envelope(frame)
            self._check(envelope, key_node)
        except MessageError as error:
            self._refuse(key_node, str(error), now)
            return None
        node, process = NodeId(envelope.node), Process(envelope.process)
        self.heard[node] = now
        incarnation = Incarnation(envelope.incarnation)
        remembered = envelope.remembered_of(self._me.incarnation)
        return Received(node, incarnation, process, envelope.counter, remembered, envelope.message)

    @property
    def refused(self) -> int:
        """How many messages were dropped, for status."""
        return sum(self._refused.values())

    def _check(self, envelope: Envelope, key_node: NodeId | None) -> None:
        """Raise MessageError with a reason from a small fixed set."""
        if envelope.version != PROTOCOL_VERSION:
            raise MessageError(f"protocol version is not {PROTOCOL_VERSION}")
        if envelope.cluster != self._cluster:
            raise MessageError(f"cluster is not {self._cluster}")
        if envelope.node not in self._peers:
            raise MessageError("sender is not a peer")
        if key_node is not None and key_node != envelope.node:
            raise MessageError("sender's key is another node's")

    def _refuse(self, key_node: NodeId | None, reason: str, now: float) -> None:
        what = (key_node or STRANGER, reason)
        count = self._refused[what] = self._refused.get(what, 0) + 1
        if self._log_limit.permits(now, *what):
            log.warning("message refused sender=%s reason=%r count=%d", what[0], reason, count)
