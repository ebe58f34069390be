"""Names a leader now and then, by PySyncObj's Raft core over our own control mesh.

A grant says "you may try to become primary"; nothing but time depends on its being right. The Raft core
(`raft`) keeps terms, votes and heartbeats. This module decides *when* a node may stand for election and
whose election it hears, so that a returning node or a busy process disturbs nobody:

- **Nobody stands unasked.** A node whose leader has been silent for its random timeout first asks whether it
  would be elected (Ongaro's pre-vote), again and again; only a majority's yes starts an election. So a node
  that hears nobody never raises its term, and no table of connections has to be kept.
- **Nobody is elected over a live leader.** Votes are refused while a leader was heard within the shortest
  election timeout, and so long after a start; a leader refuses always. Only an election that the leader
  itself has asked for (a transfer) is marked and passes. A node left behind in a term that nobody leads
  comes back down to the term of the leader that it hears.
- **Who is behind lets others go first.** A node that lacks what its leader has committed waits a timeout
  longer before it stands: the others could take over without fetching anything.
- **Time in which nobody looked is nobody's silence.** A tick that comes late by half an election timeout
  starts all clocks anew, the follower's and the leader's, a few times in a row at most.

A fresh process has forgotten its term and its vote. It waits a timeout before it votes, and learns the
present term from heartbeats and from the answers to its pre-votes.

On the wire are typed MessagePack letters of at most `LETTER_BYTES_MAX`; whatever else comes is dropped.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from replicator.adapters.raft import (
    AppendEntries,
    NextNodeIdx,
    Raft,
    RaftSaying,
    RequestVote,
    ResponseVote,
    Saying,
    Term,
    TimeoutNow,
)
from replicator.model import NodeId

logger = logging.getLogger(__name__)

LETTER_BYTES_MAX = 512
STALLS_MAX = 3  # late ticks in a row that are forgiven: a process that is always late must stand, too

_Nonce = Annotated[int, Meta(ge=0, lt=2**32)]


class PreVote(Saying, frozen=True, tag="pre_vote"):
    """Would you vote for me? Changes nothing at the one who is asked."""

    nonce: _Nonce


class PreVoteAnswer(Saying, frozen=True, tag="pre_vote_answer"):
    """Whether the sender would; *term* is its own, for a candidate that has forgotten the present one."""

    nonce: _Nonce
    granted: bool
    term: Term


Said = PreVote | PreVoteAnswer | RaftSaying


class Letter(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What travels between electors. *transfer* marks an election that the leader has asked for;
    *electable* tells a leader to whom it can give leadership."""

    electable: bool
    transfer: bool
    saying: Said


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Letter).decode


class PySyncObjElector:
    """The `Elector` of a cluster. Used on one thread; hand in what has arrived before each tick.

    *send* takes a peer and at most `LETTER_BYTES_MAX` bytes, never waits, and may lose them. *on_grant* and
    *on_revoke* are called within `tick`, `receive`, `transfer`, `set_electable` and `close`, at changes of
    `leading`; what they raise is logged. All spans are in seconds of the clock given to `tick`. *peers* name
    at least one other node. Raises SettingsError for timers that do not fit together.
    """

    def __init__(
        self,
        node: NodeId,
        peers: frozenset[NodeId],
        *,
        send: Callable[[NodeId, bytes], bool],
        on_grant: Callable[[], None],
        on_revoke: Callable[[], None],
        election_timeout_min_s: float = 0.4,
        election_timeout_max_s: float = 0.8,
        append_interval_s: float = 0.08,
        leader_fallback_s: float = 0.4,
        tick_interval_s: float = 0.02,
    ) -> None:
        self._node = node
        self._peers, self._send = peers - {node}, send
        self._on_grant = on_grant
        self._on_revoke = on_revoke
        self._timeout_min_s = election_timeout_min_s
        self._timeout_max_s = election_timeout_max_s
        self._append_interval_s = append_interval_s
        self.tick_interval_s = tick_interval_s
        self._electable, self._behind = True, False

        self._now = -math.inf  # of the latest tick: nothing happens between ticks, however late they are
        self._deadline = math.inf  # when a leader's silence has lasted too long
        self._heard_at = math.inf  # when a leader was heard last, or the clocks were started
        self._stalls = 0
        self._asks = 0  # pre-votes asked since the deadline
        self.stood_at = -math.inf  # when the newest candidacy of this node began
        self._ask_at = -math.inf
        self._nonce = 0
        self._granted: set[NodeId] = set()
        self._term_seen = 0
        self._voted: set[NodeId] = set()  # whose vote PySyncObj, which does not ask whose, has counted
        self._transferring = False
        self._answered: dict[NodeId, float] = {}  # which electable peers answered, and when
        self._give_up_at = math.inf  # when a leader that gives away its leadership just leaves it
        self._leading = self._closed = False
        self._logged_at = -math.inf
        self._raft = Raft(
            node,
            self._peers,
            self._post,
            raftMinTimeout=election_timeout_min_s,
            raftMaxTimeout=election_timeout_max_s,
            appendEntriesPeriod=append_interval_s,
            leaderFallbackTimeout=leader_fallback_s,
        )

    @property
    def leading(self) -> bool:
        """Whether this node is granted now."""
        return self._leading

    @property
    def leader(self) -> NodeId | None:
        """Whom it takes for the leader: None while nobody is heard, and after `close`."""
        if self._leading:
            return self._node
        return None if self._closed or self._leaderless else self._raft.leader

    @property
    def term(self) -> int:
        """PySyncObj's term, for status and tests only: it starts again at 0, and is never an epoch."""
        return self._raft.term

    def tick(self, now: float) -> None:
        """Run what is due: heartbeats, step-down, pre-votes, elections. Never waits."""
        if self._closed:
            return
        late = now - self._now > self._timeout_min_s / 2
        started = self._now > -math.inf
        self._now = now
        if late and self._stalls < STALLS_MAX:
            self._stalls += started
            self._start_clocks()
        with self._contained():
            if self._raft.leading:
                self._give_away()
            elif self._electable and self._leaderless and self._now >= self._deadline + self._handicap_s:
                self._ask()
            self._raft.tick()
        self._report()

    def receive(self, node: NodeId, payload: bytes) -> None:
        """Take a peer's letter; anything else, and anything before the first tick, is dropped."""
        if self._closed or self._now == -math.inf or node not in self._peers:
            return
        try:
            if len(payload) > LETTER_BYTES_MAX:
                raise ValueError("too long")
            letter = _decode(payload)
        except (ValueError, RecursionError) as error:
            logger.debug("elector letter dropped node=%s bytes=%d reason=%s", node, len(payload), error)
            return
        with self._contained():
            self._take(node, letter)
        self._report()

    def transfer(self, to: NodeId | None) -> None:
        """Give leadership away: to *to*, whom the caller knows to be able, else to an electable peer that
        answers; else leave it, and let the others stand first. A node that does not lead just does not
        stand for a while."""
        if self._closed:
            return
        with self._contained():
            if not self._raft.leading:
                self._abstain()
            elif any(self._raft.transfer(peer) for peer in self._successors(to)):
                self._give_up_at = min(self._give_up_at, self._now + self._timeout_min_s / 2)
            else:
                self._step_down()
        self._report()

    def set_electable(self, electable: bool) -> None:
        """Whether this node stands for election; it votes in any case. A leader gives way."""
        self._electable = electable
        if self._raft.leading and not electable and self._give_up_at == math.inf:
            self.transfer(None)

    def set_behind(self, behind: bool) -> None:
        """Whether this node lacks what others may hold: it stands all the same, but after them."""
        self._behind = behind

    def close(self) -> None:
        """Stop for good; `leading` is false from here on. Safe to call twice."""
        if not self._closed:
            self._closed = True
            with self._contained():
                self._raft.close()
            self._report()

    # ── elections ──

    @property
    def _leaderless(self) -> bool:
        """Whether the leader has been silent for this node's whole timeout."""
        return self._now >= self._deadline and not self._raft.leading

    @property
    def _handicap_s(self) -> float:
        return self._timeout_max_s if self._behind else 0.0

    @property
    def _free(self) -> bool:
        """Whether a vote of this node would depose nobody that it hears."""
        return self._now - self._heard_at >= self._timeout_min_s and not self._raft.leading

    def _start_clocks(self) -> None:
        self._heard_at = self._now
        self._postpone()
        self._raft.start_clocks()

    def _postpone(self) -> None:
        """Wait for a leader, for a timeout drawn anew."""
        self._deadline = self._now + random.uniform(self._timeout_min_s, self._timeout_max_s)
        self._asks = 0

    def _abstain(self) -> None:
        """Do not stand until all others have had their turn."""
        self._deadline = max(self._deadline, self._now + 2 * self._timeout_max_s)

    def _ask(self) -> None:
        """Ask all peers for their pre-vote, about once a heartbeat interval."""
        if self._asks == 0 or self._now >= self._ask_at:
            self.stood_at = self.stood_at if self._asks else self._now
            self._asks += 1
            self._ask_at = self._now + self._append_interval_s * random.uniform(0.75, 1.25)
            self._nonce = random.getrandbits(32)
            self._granted.clear()
            for peer in self._peers:
                self._post(peer, PreVote(self._nonce))

    def _would_elect(self, candidate: NodeId) -> bool:
        """The answer to a pre-vote. Of two that ask at the same time, the higher name goes first, so that
        they do not split the votes; but only once, as it may not be able to win."""
        return self._free and not (self._leaderless and self._asks == 1 and candidate < self._node)

    def _count(self, node: NodeId, answer: PreVoteAnswer) -> None:
        if answer.nonce != self._nonce or not self._leaderless or not self._electable:
            return
        self._term_seen = max(self._term_seen, answer.term)
        if answer.granted:
            self._granted.add(node)
            if 2 * (len(self._granted) + 1) > len(self._peers) + 1:
                self._stand()

    def _stand(self, transfer: bool = False) -> None:
        """Start PySyncObj's election. If it is lost, the next round comes sooner than a leader's timeout:
        all know that there is none, and split votes must not cost a second failover time."""
        self._postpone()
        self._deadline = self._now + random.uniform(self._append_interval_s, self._timeout_min_s)
        self._voted.clear()
        self._granted.clear()
        self._transferring = transfer
        self.stood_at = self._now if transfer else self.stood_at
        try:
            self._raft.stand(self._term_seen)
        finally:
            self._transferring = False

    # ── letters ──

    def _post(self, node: NodeId, saying: Said) -> bool:
        """Send a saying of ours or of PySyncObj's; a failed send is a lost one."""
        if isinstance(saying, ResponseVote):
            self._postpone()  # the candidate gets its time
        try:
            return self._send(node, _encode(Letter(self._electable, self._transferring, saying)))
        except Exception:
            logger.exception("elector send failed node=%s", node)
            return False

    def _take(self, node: NodeId, letter: Letter) -> None:
        match letter.saying:
            case PreVote(nonce):
                self._post(node, PreVoteAnswer(nonce, self._would_elect(node), self._raft.term))
            case PreVoteAnswer() as answer:
                self._count(node, answer)
            case RequestVote() as request:
                if letter.transfer or self._free:
                    self._raft.deliver(node, request)
            case ResponseVote() as vote:
                if self._electable and vote.term == self._raft.term and node not in self._voted:
                    self._voted.add(node)
                    self._raft.deliver(node, vote)
            case AppendEntries() as heartbeat:
                self._follow(node, heartbeat)
            case NextNodeIdx() as answer:
                self._raft.deliver(node, answer)
                self._stalls = 0
                self._answered.pop(node, None)
                if letter.electable:
                    self._answered[node] = self._now
            case TimeoutNow(term):
                # A process that has just started may not have heard its leader yet.
                is_leader = node == self._raft.leader and term == self._raft.term
                if self._electable and (is_leader or (self._raft.leader is None and term > self._raft.term)):
                    self._term_seen = max(self._term_seen, term)
                    self._stand(transfer=True)

    def _follow(self, node: NodeId, heartbeat: AppendEntries) -> None:
        if heartbeat.term < self._raft.term and self._leaderless:
            self._raft.set_term(heartbeat.term)  # nobody leads our term: join the leader that there is
        self._raft.deliver(node, heartbeat)
        if heartbeat.term == self._raft.term and node == self._raft.leader:
            self._heard_at = self._now
            self._stalls = 0
            self._postpone()

    # ── leading ──

    def _successors(self, to: NodeId | None) -> list[NodeId]:
        """*to*, then electable peers that answered lately, the freshest first."""
        since = self._now - self._timeout_min_s
        fresh = [peer for peer, at in self._answered.items() if at > since and peer != to]
        fresh.sort(key=lambda peer: (-self._answered[peer], peer))
        return [to, *fresh] if to in self._peers else fresh

    def _give_away(self) -> None:
        """Go on with a transfer that is under way; start one if this node must not lead."""
        if self._now >= self._give_up_at:
            self._step_down()
        elif not self._electable and self._give_up_at == math.inf:
            self.transfer(None)

    def _step_down(self) -> None:
        self._raft.step_down()
        self._abstain()

    def _report(self) -> None:
        """Tell the change of `leading`, if there is one."""
        leading = self._raft.leading and not self._closed
        if leading == self._leading:
            return
        self._leading = leading
        self._give_up_at = math.inf
        self._answered.clear()
        logger.info("elector leading=%s node=%s term=%d", leading, self._node, self._raft.term)
        try:
            (self._on_grant if leading else self._on_revoke)()
        except Exception:
            logger.exception("elector callback failed leading=%s node=%s", leading, self._node)

    @contextmanager
    def _contained(self) -> Iterator[None]:
        """Keep PySyncObj's exceptions from the control thread. They leave it in a state half changed, so a
        leader steps down: it may not be able to send heartbeats, whatever it takes itself for."""
        try:
            yield
        except Exception:
            if self._now - self._logged_at >= self._timeout_max_s:
                self._logged_at = self._now
                logger.exception("elector failed node=%s", self._node)
            if self._raft.leading:
                self._step_down()
