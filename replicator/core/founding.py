"""How a cluster comes to be, and how a replica finds its place in it (R20).

A cluster is founded by one record of all members' incarnations, durable on *all* of them before any epoch
is promised: with less, a wiped founder and a silent one could found it a second time. The coordinator
(the first node by name) proposes when it has heard everybody, and declares it done when everybody has
stored it. A replica with a new store that meets a founded cluster is *joining*.
"""

from __future__ import annotations

import math

from replicator.core.config import Config
from replicator.core.events import Durable
from replicator.core.messages import Found, Founded, FoundStored, Hello
from replicator.core.quorum import is_named
from replicator.core.state import State
from replicator.model import Epoch, Incarnation, Member, MemberRecord, NodeId, Role


def _names(record: MemberRecord, config: Config) -> tuple[str, str]:
    """In words, whom the record names and whom the settings do."""
    members = sorted(member.node for member in record.members)
    return ", ".join(members), ", ".join(sorted({config.node, *config.peers}))


def misfit(durable: Durable, config: Config) -> str | None:
    """Why this store cannot be used with these settings, in one sentence; None if it can."""
    if durable.record is None or not durable.founded:
        return None
    members, configured = _names(durable.record, config)
    if members == configured:
        return None
    if config.standalone:
        return (
            f"the data directory belongs to the cluster of {members}: "
            "set REPLICATOR_PEERS as before, or choose an empty REPLICATOR_DATA_DIR"
        )
    if len(durable.record.members) == 1:
        return (
            "the data directory is that of a standalone node, whose checkpoints a new cluster cannot adopt: "
            "export what it holds, or choose an empty REPLICATOR_DATA_DIR"
        )
    return (
        f"the data directory belongs to the cluster of {members}, but REPLICATOR_PEERS "
        f"names {configured}: members cannot be added or removed yet"
    )


class Founding:
    """Founds the cluster, or finds this replica's place in one that exists."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._heard: dict[NodeId, tuple[Incarnation, Hello]] = {}
        self._stored: dict[NodeId, MemberRecord] = {}
        self._proposed: MemberRecord | None = None
        self._settling: MemberRecord | None = None
        self._waiting_for = ""
        self._told: dict[NodeId, str] = {}  # what was said last of each peer's cluster
        self._hello_at = -math.inf

    @property
    def deadline(self) -> float:
        """When to say hello again; a settled member says it only when it is asked."""
        return self._hello_at if self._state.role in (Role.FOUNDING, Role.JOINING) else math.inf

    @property
    def waiting_for(self) -> str:
        """Whom the founding waits for, for status; who joins a cluster that exists waits for no founder."""
        return self._waiting_for if self._state.role is Role.FOUNDING else ""

    def tick(self) -> None:
        state = self._state
        if state.role not in (Role.FOUNDING, Role.JOINING) or state.now < self._hello_at:
            return
        self._hello_at = state.now + state.config.hello_interval_s
        if state.config.standalone:
            self._found_alone()
            return
        for peer in sorted(state.config.peers):
            self.greet(peer)
        self._propose()

    def _found_alone(self) -> None:
        state = self._state
        if self._proposed is None:
            self._proposed = MemberRecord(1, (Member(*state.id),))
            state.write_record(self._proposed, Epoch(0), True)

    def greet(self, node: NodeId) -> None:
        """Tell a peer what exists; the envelope tells what is remembered of it."""
        state = self._state
        record = state.record if state.founded else None
        state.send(node, Hello(state.founded, record, state.config.address, state.config.public_key))

    # ── the coordinator ──

    @property
    def _is_coordinator(self) -> bool:
        return self._state.config.node == min(self._state.config.peers | {self._state.config.node})

    def _propose(self) -> None:
        state = self._state
        absent = sorted(peer for peer in state.config.peers if peer not in self._heard)
        self._waiting_for = ", ".join(absent) or ("" if self._is_coordinator else "the founding coordinator")
        if absent or not self._is_coordinator or state.role is not Role.FOUNDING:
            return
        members = [Member(state.me.node, state.me.incarnation, state.config.address, state.config.public_key)]
        for node, (incarnation, hello) in self._heard.items():
            members.append(Member(node, incarnation, hello.address, hello.public_key))
        newest = max((r.version for r in (self._proposed, state.record) if r is not None), default=0)
        record = MemberRecord(newest + 1, tuple(sorted(members)))
        if self._proposed is not None and self._proposed.members == record.members:
            record = self._proposed
        elif state.record is not None and state.record.members == record.members:
            record = state.record
        if record != self._proposed:
            self._proposed = record
            self._stored.clear()
            state.write_record(record, Epoch(0), False)
        lacking = sorted(peer for peer in state.config.peers if self._stored.get(peer) != record)
        self._waiting_for = ", ".join(lacking)
        for peer in lacking:
            state.send(peer, Found(record))

    def _declare(self) -> None:
        """All founders have it durably, this one included: the cluster exists."""
        state = self._state
        record = self._proposed
        everybody = all(self._stored.get(peer) == record for peer in state.config.peers)
        if record is not None and everybody and state.record == record and not state.founded:
            state.write_record(record, Epoch(0), True)

    # ── messages ──

    def on_hello(self, node: NodeId, incarnation: Incarnation, hello: Hello) -> None:
        """Learn of a peer; tell it what exists, if it does not know."""
        state = self._state
        if state.founded:
            if not hello.founded:
                self.greet(node)
                self._confirm(node, incarnation)
            return
        if hello.founded and hello.record is not None:
            self._meet(node, hello.record)
            return
        self._heard[node] = (incarnation, hello)

    def _confirm(self, node: NodeId, incarnation: Incarnation) -> None:
        """A founder that missed the declaration hears it again."""
        record = self._state.record
        member = record.find(node) if record is not None else None
        if record is not None and member is not None and member.incarnation == incarnation:
            self._state.send(node, Founded(record))

    def _is_ours(self, node: NodeId, record: MemberRecord) -> bool:
        """Whether the record of a peer's cluster names whom the settings name. One that joined with others
        could not speak with all members, nor be started again. If not, it is said once: the peer goes on with
        its cluster for as long as nobody mends the settings."""
        theirs, ours = _names(record, self._state.config)
        text = f"{node} is of the cluster of {theirs}, REPLICATOR_PEERS names {ours}: refused"
        if theirs != ours and self._told.get(node) != text:
            self._told[node] = text
            self._state.notice(text)
        return theirs == ours

    def _meet(self, node: NodeId, record: MemberRecord) -> None:
        """A founded cluster exists: this incarnation is in its record, or it is joining."""
        state = self._state
        me = record.find(NodeId(state.me.node))
        if not self._is_ours(node, record) or me is None:
            return
        if me.incarnation == state.me.incarnation and state.promising is None:
            self._settle(record)
        else:
            state.record = record
            state.change_role(Role.JOINING, "the store has no record yet, the cluster has (R20)")

    def on_found(self, node: NodeId, record: MemberRecord) -> None:
        """Store a proposal durably, unless a cluster exists here already."""
        state = self._state
        is_open = state.role is Role.FOUNDING and self._is_ours(node, record)
        if not is_open or not is_named(state.id, record):
            return
        if state.record == record:
            state.send(node, FoundStored(record))
            return
        self._proposed = record
        state.write_record(record, Epoch(0), False)

    def on_found_stored(self, node: NodeId, record: MemberRecord) -> None:
        self._stored[node] = record
        self._declare()

    def on_founded(self, record: MemberRecord) -> None:
        """The coordinator has declared the cluster."""
        state = self._state
        me = record.find(NodeId(state.me.node))
        if not state.founded and me is not None and me.incarnation == state.me.incarnation:
            self._settle(record)

    def _settle(self, record: MemberRecord) -> None:
        """The record names this store. One that has promised already gets it in a primary's epoch.

        Peers that lag behind tell older records: of what is queued already only a newer one is written.
        """
        settling = self._settling.version if self._settling is not None else 0
        if self._state.promising is None and record.version > settling:
            self._settling = record
            self._state.write_record(record, Epoch(0), True)

    def on_record_written(self, record: MemberRecord, founded: bool) -> None:
        """The proposal, or the declaration, is durable here."""
        state = self._state
        if founded and not state.is_member:
            state.change_role(Role.JOINING, "the member record names another incarnation of this node (R20)")
            return
        if founded:
            state.change_role(Role.BACKUP, "the member record names this store")
            if record == self._proposed and self._is_coordinator:
                for peer in sorted(state.config.peers):
                    state.send(peer, Founded(record))
        elif self._is_coordinator:
            self._declare()
        else:
            state.send(min(state.config.peers), FoundStored(record))
