"""PySyncObj's Raft core without its network, its log and its timer: the only `import pysyncobj` there is.

PySyncObj keeps the term, the vote, the heartbeats and the step-down of a leader that hears no majority;
`elector` decides when it may stand for election and which messages it gets. Its log is empty and stays so:
nothing is replicated, so no vote is refused for an old log, a fresh process is as good as any, and there is
nothing to pickle, compact, truncate or catch up on. No callback of ours is registered with it.

There is no journal either. Its term would never be our epoch; its file is an mmap that is never synced and
kills the process when the disk is full (SIGBUS). What it would prevent is a second vote in one term after a
restart, hence two leaders of one term: their first heartbeats depose them, which costs time, not data.

Its messages travel as the typed sayings below, with its own names and fields; the constants are what an
empty log makes of them. Commands, snapshots and whatever else it would unpickle have no type here, so they
can neither be sent nor received.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field
from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, syncobj
from pysyncobj.journal import MemoryJournal
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from replicator.errors import ReplicatorError, SettingsError
from replicator.model import NodeId

PRIVATES = ("raftLog", "raftElectionDeadline", "raftLeader", "lastResponseTime", "setCurrentTerm", "setState")

Term = Annotated[int, Meta(ge=0, le=2**62)]


class Saying(Struct, frozen=True, tag_field="type", forbid_unknown_fields=True):
    """What electors say to each other."""


class RequestVote(Saying, frozen=True, tag="request_vote"):
    """Vote for me in this term."""

    term: Term
    last_log_index: Literal[1]
    last_log_term: Literal[0]


class ResponseVote(Saying, frozen=True, tag="response_vote"):
    """You have my vote in this term; no is not answered."""

    term: Term


class AppendEntries(Saying, frozen=True, tag="append_entries"):
    """A leader's heartbeat."""

    term: Term
    commit_index: Literal[1]
    entries: tuple[()]
    previous_index: Literal[1] = field(name="prevLogIdx")
    previous_term: Literal[0] = field(name="prevLogTerm")


class NextNodeIdx(Saying, frozen=True, tag="next_node_idx"):
    """The answer to a heartbeat."""

    next_node_idx: Literal[2]
    reset: bool
    success: bool


class TimeoutNow(Saying, frozen=True, tag="timeout_now"):
    """I give leadership to you: stand for election at once."""

    term: Term


RaftSaying = RequestVote | ResponseVote | AppendEntries | NextNodeIdx | TimeoutNow
Post = Callable[[NodeId, RaftSaying], bool]


class Raft:
    """One node's SyncObj; all that is touched of its private parts (`PRIVATES`) is touched in this class.

    Its election timer never goes off by itself, only in `stand`. To it all peers are always connected, as
    ZeroMQ's sockets are. Raises SettingsError for timers that do not fit together.
    """

    def __init__(self, node: NodeId, peers: frozenset[NodeId], post: Post, **timers: float) -> None:
        self._nodes = {peer: Node(peer) for peer in peers}
        self._transport = _Mesh(post)
        conf = configure(autoTick=False, connectionTimeout=timers["raftMaxTimeout"], **timers)
        try:
            self._object: Any = SyncObj(
                Node(node), self._nodes.values(), conf, nodeClass=Node, transport=self._transport
            )
        except AssertionError as error:
            raise SettingsError([f"election timers do not fit together: {timers}"]) from error
        for name in PRIVATES:
            if not hasattr(self._object, f"_SyncObj__{name}"):
                raise ReplicatorError(f"this version of PySyncObj has no {name}; install the pinned one")
        self._object._SyncObj__raftLog = _EmptyLog()
        for peer in self._nodes.values():
            self._transport._onNodeConnected(peer)

    @property
    def term(self) -> int:
        return int(self._object.raftCurrentTerm)

    @property
    def leading(self) -> bool:
        return bool(self._object._isLeader())

    @property
    def leader(self) -> NodeId | None:
        leader = self._object._getLeader()
        return None if leader is None else leader.id

    def tick(self) -> None:
        self._object._SyncObj__raftElectionDeadline = math.inf
        self._object.doTick(0)

    def stand(self, term_min: int) -> None:
        """Become a candidate now, in a term above *term_min* and the present one."""
        if term_min > self.term:
            self.set_term(term_min)
        self._object._SyncObj__raftElectionDeadline = -math.inf
        self._object.doTick(0)

    def set_term(self, term: int) -> None:
        self._object._SyncObj__setCurrentTerm(term, None)

    def deliver(self, node: NodeId, saying: RaftSaying) -> None:
        self._transport._onMessageReceived(self._nodes[node], msgspec.to_builtins(saying))

    def transfer(self, to: NodeId) -> bool:
        """Ask *to* to stand for election; false if PySyncObj denies it."""
        reasons: list[int] = []
        self._object.transferLeadership(self._nodes[to], lambda _, reason: reasons.append(reason))
        return reasons == [FAIL_REASON.SUCCESS]

    def step_down(self) -> None:
        self._object._SyncObj__setState(syncobj._RAFT_STATE.FOLLOWER)
        self._object._SyncObj__raftLeader = None

    def start_clocks(self) -> None:
        """Count every peer as heard just now, so that a leader does not step down for its own pause."""
        heard_at = self._object._SyncObj__lastResponseTime
        heard_at.update(dict.fromkeys(heard_at, syncobj.monotonicTime()))

    def close(self) -> None:
        self._object.destroy()


class _EmptyLog(MemoryJournal):  # type: ignore[misc]
    """A log of the one entry that PySyncObj cannot do without; the no-op of each election is not kept."""

    def __init__(self) -> None:
        super().__init__()
        super().add(b"\x01", 1, 0)

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Keep nothing."""


class _Mesh(Transport):  # type: ignore[misc]
    """Hands PySyncObj's messages over; one that has no type here (a snapshot, a command) is an error."""

    def __init__(self, post: Post) -> None:
        super().__init__(None, None, None)
        self._post = post

    @property
    def ready(self) -> bool:
        return True

    def send(self, node: Any, message: dict[str, Any]) -> bool:
        return self._post(node.id, msgspec.convert(message, RaftSaying))


def configure(**values: object) -> Any:
    """PySyncObj's settings from *values*; raises ReplicatorError for a name that it would silently ignore."""
    conf = SyncObjConf()
    unknown = sorted(name for name in values if not hasattr(conf, name))
    if unknown:
        raise ReplicatorError(f"PySyncObj has no setting {', '.join(unknown)}")
    return SyncObjConf(**values)
