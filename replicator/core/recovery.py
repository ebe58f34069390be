"""Recovery: from promises to adopted streams (R7-R10).

For each stream the head with the highest (accepted epoch, sequence) among the promises of members is
chosen, brought here if it is lacking, and accepted again under the new epoch. Nothing is served before a
majority has adopted it. A chosen head that nobody can read is waited for, its stream alone, and dropped
only if it provably never committed.

Only stores that the newest member record names have a say. Another incarnation of a member's node may hold
what has been deleted and forgotten since it was replaced; chunks may be fetched from it (I10, R23).
"""

from __future__ import annotations

import math
from collections.abc import Set

from msgspec import Struct

from replicator.core.events import Why
from replicator.core.quorum import ReplicaId, could_have_committed, is_named, quorum_sets
from replicator.core.report import Report
from replicator.core.state import State
from replicator.model import Digest, Epoch, Head, Manifest, MemberRecord, NodeId, StreamName

FETCHES_BEFORE_UNAVAILABLE = 3
ANY_ORDER = (math.inf, math.inf)  # every head's order is below it


class Lack(Struct):
    """A chosen head that is not held here, and how far its recovery has come."""

    is_firm: bool = False  # adopted by somebody in this epoch
    is_accepting: bool = False  # asked of the own store, which will say what became of it
    failures: int = 0  # of fetches
    waits_for_room: bool = False  # the disk is full: it is tried again when there is room (R21)
    below: tuple[float, float] = ANY_ORDER  # whatever a late promise says of what the operator gave up

    @property
    def is_bound(self) -> bool:
        """Whether it may be adopted already: within the epoch nothing older can take its place."""
        return self.is_firm or self.is_accepting


class Recovery:
    """Chooses, holds and adopts the heads of one epoch at the primary itself."""

    def __init__(
        self, state: State, epoch: Epoch, record: MemberRecord, reports: dict[NodeId, Report]
    ) -> None:
        self._state = state
        self.epoch = epoch
        self._record = record
        self._reports: dict[ReplicaId, Report] = {}
        self._counting: list[Report] = []  # those of replicas that the newest record names
        self._take(*reports.values())
        self.chosen = dict(state.heads)  # right for every stream of which all reports say the same
        self.apart: set[StreamName] = set()  # all others: those that were ever looked at one by one
        self.unavailable: dict[StreamName, Head] = {}
        self._lacking: dict[StreamName, Lack] = {}
        self._due: dict[StreamName, None] = {}  # those of them to be fetched as soon as there is a place
        self.deadline = math.inf  # when what is lacking is tried again
        rotten = {stream for stream, head in state.heads.items() if not head.readable}
        for stream in sorted(rotten.union(*(report.differs for report in self._counting))):
            self._choose(stream)
        self.exceptions = frozenset(self._lacking.keys() & state.heads.keys())
        state.adopt_heads(epoch, self.exceptions)

    @property
    def wants_room(self) -> bool:
        """Whether a chosen head has found no room here."""
        return any(lack.waits_for_room for lack in self._lacking.values())

    @property
    def is_accepting(self) -> bool:
        """Whether the own store has been asked to accept a chosen head and has not answered yet."""
        return any(lack.is_accepting for lack in self._lacking.values())

    @property
    def lacking(self) -> Set[StreamName]:
        """The streams whose chosen heads are not accepted here in the epoch."""
        return self._lacking.keys()

    def holds(self, stream: StreamName) -> bool:
        """Whether the stream's chosen head can be read here, so that it stays chosen."""
        return stream not in self._lacking

    @property
    def rotten(self) -> list[StreamName]:
        """Streams that cannot be read and were adopted first: not in this epoch can they be dropped (R8)."""
        return sorted(s for s in self._lacking.keys() & self.unavailable if self._lacking[s].is_firm)

    @property
    def dropped(self) -> frozenset[StreamName]:
        """Streams of which nothing is left but a head here that never committed and cannot be read."""
        return frozenset({s for s in self.apart if s in self._state.heads and s not in self.chosen})

    def is_whole(self, replica: ReplicaId) -> bool:
        """Whether that replica reported every chosen head, readable: it could serve them all without room."""
        report, apart = self._reports.get(replica), self.apart & self.chosen.keys()
        told = {s: report.heads[s] for s in apart & report.heads.keys()} if report is not None else {}
        whole = {s for s, head in told.items() if head.readable and head.same_as(self.chosen[s])}
        return report is not None and whole == apart

    def has_heard(self, replica: ReplicaId) -> bool:
        """Whether that replica's heads have been looked at."""
        return replica in self._reports

    def _take(self, *reports: Report) -> None:
        self._reports.update({report.replica: report for report in reports})
        self._counting = [each for each in self._reports.values() if is_named(each.replica, self._record)]

    # ── choosing (R7) ──

    def _choose(
        self, stream: StreamName, below: tuple[float, float] = ANY_ORDER, alone: bool = False
    ) -> None:
        """Choose the stream's head, the highest under the order *below*.

        *alone* says that the bulk adoption has passed it by, so that an own head is accepted by itself.
        """
        lack = self._lacking.pop(stream, Lack())
        heads = [report.heads[stream] for report in self._counting if stream in report.heads]
        heads = [head for head in heads if head.order < min(below, lack.below)]
        self.apart.add(stream)
        self.chosen.pop(stream, None)
        if not heads:
            return
        best = max(heads, key=lambda head: (head.order, head.readable))
        self.chosen[stream] = best
        own = self._state.heads.get(stream)
        if alone or own is None or not best.same_as(own) or not own.readable:
            self._lack(stream, lack)

    def _lack(self, stream: StreamName, lack: Lack) -> None:
        lack.failures, lack.waits_for_room = 0, False
        self._lacking[stream] = lack
        self._due[stream] = None

    def _sources(self, stream: StreamName) -> list[tuple[bool, NodeId]]:
        """Who else reported the chosen head, those first that could read it all, and whether it was rotten
        there: it may be mended by now, and what has rotted there need not be what has rotted elsewhere."""
        me, chosen = self._state.me.node, self.chosen[stream]
        heads = {who[0]: report.heads.get(stream) for who, report in self._reports.items() if who[0] != me}
        return sorted((not h.readable, node) for node, h in heads.items() if h and h.same_as(chosen))

    def _provably_uncommitted(self, stream: StreamName) -> bool:
        """(heads not older than it) + (members not heard) are no majority: it cannot have committed (R8)."""
        order = self.chosen[stream].order
        heard = {report.replica: report.heads.get(stream) for report in self._counting}
        possible: set[ReplicaId] = set()
        for each in quorum_sets(self._record):
            for replica in each:
                head = heard.get(replica)
                if replica not in heard or (head is not None and head.order >= order):
                    possible.add(replica)
        return not could_have_committed(possible, self._record)

    # ── holding (R8) ──

    def add_report(self, report: Report) -> None:
        """A late promise: perhaps it holds what nobody else could read, or proves that it never committed.

        What nobody has adopted in this epoch, nor is asked to, may be chosen anew.
        """
        self._take(report)
        waiting = self.unavailable.keys() & (s for s, lack in self._lacking.items() if not lack.is_accepting)
        for stream in sorted(waiting):
            if not self._lacking[stream].is_firm:
                self._choose(stream, alone=True)
            self._lack(stream, self._lacking[stream])
        self.step()

    def step(self) -> None:
        """Fetch what is lacking, a bounded number of streams at a time, each once until it is tried again."""
        state = self._state
        while self._due and len(state.fetching) < state.config.fetches_max:
            stream = next(iter(self._due))
            del self._due[stream]
            if stream in state.fetching or stream not in self._lacking:
                continue
            chosen, sources, own = self.chosen[stream], self._sources(stream), state.heads.get(stream)
            holds = own is not None and own.readable and own.same_as(chosen)
            if not holds and all(is_rotten for is_rotten, _ in sources):
                self._give_up(stream)
            if (sources or holds) and chosen is self.chosen.get(stream):
                nodes = tuple(node for _, node in sources)
                state.fetch(stream, Digest(chosen.digest), None, nodes, verify=True, urgent=True)
        if self._lacking and self.deadline == math.inf:
            self.deadline = state.now + state.config.fetch_retry_s

    def retry(self) -> None:
        """Try again what is still lacking, whatever has become of its fetch."""
        self.deadline = math.inf
        due = (s for s, lack in self._lacking.items() if not (lack.is_accepting or lack.waits_for_room))
        self._due.update(dict.fromkeys(due))
        self.step()

    def on_room(self) -> None:
        """What found no room is tried again (R21)."""
        for lack in self._lacking.values():
            lack.waits_for_room = False
        self.retry()

    def _give_up(self, stream: StreamName) -> None:
        """Nobody can read it now: drop it if that is safe, else wait for it, its stream alone."""
        if self.drop(stream):
            if stream not in self.chosen:
                self.unavailable.pop(stream, None)
        elif not self.chosen[stream].same_as(self.unavailable.get(stream)):
            head = self.unavailable[stream] = self.chosen[stream]
            self._state.notice(
                f"stream {stream}: its newest checkpoint (epoch {head.epoch}, sequence {head.sequence}) "
                "cannot be read on any reachable node; waiting for one that holds it (R8), and nobody joins "
                "the members before that, or before it is abandoned (R27)"
            )

    def drop(self, stream: StreamName) -> bool:
        """Choose an older head instead of one that is not held here, if that is safe (R8)."""
        lack = self._lacking.get(stream)
        if lack is None or lack.is_bound or not self._provably_uncommitted(stream):
            return False
        self._choose(stream, below=self.chosen[stream].order, alone=True)
        return True

    def abandon(self, stream: StreamName) -> Head | None:
        """The operator gives an unreadable head up, the one exception of I3; None if there is none.

        It stays unavailable until an older one, or the stream's tombstone, is durable here in its place.
        """
        head, lack = self.unavailable.get(stream), self._lacking.get(stream)
        if lack is not None and lack.is_bound:
            return None
        if head is not None and lack is not None:
            lack.below = head.order
            self._choose(stream, alone=True)
            self.step()
        return head

    def on_rotten(self, stream: StreamName, digest: Digest) -> None:
        """A chosen head that was held here cannot be read any longer, before it is served."""
        chosen = self.chosen.get(stream)
        if chosen is not None and chosen.digest == digest and stream not in self._lacking:
            self.apart.add(stream)
            self._lacking[stream] = Lack(is_firm=True)
            self.deadline = min(self.deadline, self._state.now + self._state.config.fetch_retry_s)

    def on_fetched(self, stream: StreamName, digest: Digest, manifest: Manifest | None) -> None:
        """A fetch has ended, in failure without a manifest. Whosever it was, its place is free now."""
        chosen = self.chosen.get(stream)
        lack = self._lacking.get(stream)
        if lack is not None and chosen is not None and chosen.digest == digest:
            if manifest is not None:
                lack.is_accepting = True
                self._state.accept(manifest, self.epoch)
            elif not lack.is_accepting:
                self._failed(stream, lack)
        self.step()

    def _failed(self, stream: StreamName, lack: Lack) -> None:
        lack.failures += 1
        if lack.failures >= FETCHES_BEFORE_UNAVAILABLE:
            self._give_up(stream)

    def on_accepted(self, manifest: Manifest) -> None:
        """A chosen head is held and adopted here, or the tombstone of one that was abandoned for nothing."""
        stream = StreamName(manifest.stream)
        chosen = self.chosen.get(stream)
        if manifest.tombstone if chosen is None else manifest.digest == chosen.digest:
            self._lacking.pop(stream, None)
            self.unavailable.pop(stream, None)
            self.step()

    def on_refused(self, manifest: Manifest, why: Why) -> None:
        """An acceptance was refused: incomplete, it is fetched again, now or when there is room."""
        stream = StreamName(manifest.stream)
        lack = self._lacking.get(stream, Lack())
        lack.is_accepting, lack.waits_for_room = False, why is Why.FULL
        if why is Why.INCOMPLETE and stream in self._lacking:
            self._failed(stream, lack)
