"""Recovery: from promises to adopted streams (R7-R10).

For each stream the head with the highest (accepted epoch, sequence) among the promises is chosen, brought
here if it is lacking, and accepted again under the new epoch. Nothing is served before a majority has
adopted it. A chosen head that nobody can read is waited for, its stream alone, and dropped only if it
provably never committed.
"""

from __future__ import annotations

import math

from replicator.core.claim import Report
from replicator.core.events import Why
from replicator.core.quorum import ReplicaId, could_have_committed, quorum_sets
from replicator.core.state import State
from replicator.model import Digest, Epoch, Head, Manifest, MemberRecord, NodeId, StreamName

FETCHES_BEFORE_UNAVAILABLE = 3


class Recovery:
    """Chooses, holds and adopts the heads of one epoch at the primary itself."""

    def __init__(
        self, state: State, epoch: Epoch, record: MemberRecord, reports: dict[NodeId, Report]
    ) -> None:
        self._state = state
        self.epoch = epoch
        self._record = record
        self._reports = dict(reports)
        self.chosen: dict[StreamName, Head] = {}
        self.unavailable: dict[StreamName, Head] = {}
        self._lacking: dict[StreamName, int] = {}  # chosen, not held here yet; failed fetches so far
        self._due: dict[StreamName, None] = {}  # those of them to be fetched as soon as there is a place
        self._accepting: set[StreamName] = set()  # asked of the own store, which will say what became of it
        self._firm: set[StreamName] = set()  # adopted by somebody in this epoch: no longer to be dropped
        self._retry_at = math.inf
        for stream in sorted({stream for report in reports.values() for stream in report.heads}):
            self._choose(stream)
        self._firm.update(self.chosen.keys() - self._lacking.keys())
        self.exceptions = frozenset(
            stream
            for stream, head in state.heads.items()
            if not head.readable or not head.same_as(self.chosen.get(stream))
        )
        state.adopt_heads(epoch, self.exceptions)

    @property
    def deadline(self) -> float:
        return self._retry_at

    @property
    def holds_all(self) -> bool:
        """Whether every chosen head that can be read is accepted here in the epoch."""
        return self._lacking.keys() <= self.unavailable.keys()

    def holds(self, stream: StreamName) -> bool:
        """Whether the stream's chosen head can be read here, so that it stays chosen."""
        return stream not in self._lacking

    @property
    def rotten(self) -> list[StreamName]:
        """Streams that cannot be read and were adopted first: not in this epoch can they be dropped (R8)."""
        return sorted(self.unavailable.keys() & self._firm)

    @property
    def dropped(self) -> frozenset[StreamName]:
        """Streams of which nothing is left but a head here that never committed and cannot be read."""
        return frozenset(self._state.heads.keys() - self.chosen.keys())

    def has_heard(self, node: NodeId) -> bool:
        """Whether that node's heads have been looked at."""
        return node in self._reports

    # ── choosing (R7) ──

    def _choose(self, stream: StreamName, below: tuple[int, int] | None = None, alone: bool = False) -> None:
        """Choose the stream's head; with *below* the highest under that order.

        *alone* says that the bulk adoption has passed it by, so that an own head is accepted by itself.
        """
        heads = [report.heads[stream] for report in self._reports.values() if stream in report.heads]
        heads = [head for head in heads if below is None or head.order < below]
        self.chosen.pop(stream, None)
        self._lacking.pop(stream, None)
        if not heads:
            return
        best = max(heads, key=lambda head: (head.order, head.readable))
        self.chosen[stream] = best
        own = self._state.heads.get(stream)
        if alone or own is None or not best.same_as(own) or not own.readable:
            self._lack(stream)

    def _lack(self, stream: StreamName) -> None:
        self._lacking[stream] = 0
        self._due[stream] = None

    def _sources(self, stream: StreamName) -> tuple[NodeId, ...]:
        """Who reported the chosen head as readable, and who may hold it though they were not heard."""
        chosen = self.chosen[stream]
        return tuple(
            node
            for node, report in sorted(self._reports.items())
            if node != self._state.me.node
            and chosen.same_as(report.heads.get(stream))
            and report.heads[stream].readable
        )

    def _provably_uncommitted(self, stream: StreamName) -> bool:
        """(heads not older than it) + (members not heard) are no majority: it cannot have committed (R8)."""
        order = self.chosen[stream].order
        heard = {report.replica: report.heads.get(stream) for report in self._reports.values()}
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

        What nobody has adopted in this epoch may be chosen anew.
        """
        self._reports[report.replica[0]] = report
        for stream in list(self.unavailable):
            if stream not in self._firm:
                self._choose(stream, alone=True)
            self._lack(stream)
        self.step()

    def step(self) -> None:
        """Fetch what is lacking, a bounded number of streams at a time, each once until it is tried again."""
        state = self._state
        while self._due and len(state.fetching) < state.config.fetches_max:
            stream = next(iter(self._due))
            del self._due[stream]
            if stream in state.fetching or stream not in self._lacking:
                continue
            sources, own = self._sources(stream), state.heads.get(stream)
            if sources or (own is not None and own.readable and own.same_as(self.chosen[stream])):
                state.fetch(stream, Digest(self.chosen[stream].digest), None, sources, verify=True)
            else:
                self._give_up(stream)
        if self._lacking and self._retry_at == math.inf:
            self._retry_at = state.now + state.config.fetch_retry_s

    def retry(self) -> None:
        """Try again what is still lacking, whatever has become of its fetch."""
        self._retry_at = math.inf
        self._due.update(dict.fromkeys(stream for stream in self._lacking if stream not in self._accepting))
        self.step()

    def _give_up(self, stream: StreamName) -> None:
        """Nobody can read it now: drop it if that is safe, else wait for it, its stream alone."""
        # What the own store has been asked to accept may be adopted already: it is dropped no longer.
        is_firm = stream in self._firm or stream in self._accepting
        if not is_firm and self._provably_uncommitted(stream):
            self._choose(stream, below=self.chosen[stream].order, alone=True)
            if stream not in self.chosen:
                self.unavailable.pop(stream, None)
        elif not self.chosen[stream].same_as(self.unavailable.get(stream)):
            head = self.unavailable[stream] = self.chosen[stream]
            self._state.notice(
                f"stream {stream}: its newest checkpoint (epoch {head.epoch}, sequence {head.sequence}) "
                "cannot be read on any reachable node; waiting for one that holds it (R8)"
            )

    def abandon(self, stream: StreamName) -> Head | None:
        """The operator gives an unreadable head up, the one exception of I3; None if there is none.

        It stays unavailable until an older one, or the stream's tombstone, is durable here in its place.
        """
        head = self.unavailable.get(stream)
        if head is not None:
            self._firm.discard(stream)  # that was the one given up
            self._choose(stream, below=head.order, alone=True)
            self.step()
        return head

    def on_rotten(self, stream: StreamName, digest: Digest) -> None:
        """A chosen head that was held here cannot be read any longer, before it is served."""
        chosen = self.chosen.get(stream)
        if chosen is not None and chosen.digest == digest and stream not in self._lacking:
            self._lacking[stream] = 0
            self._retry_at = min(self._retry_at, self._state.now + self._state.config.fetch_retry_s)

    def on_fetched(self, stream: StreamName, digest: Digest, manifest: Manifest | None) -> None:
        """A fetch has ended, in failure without a manifest. Whosever it was, its place is free now."""
        chosen = self.chosen.get(stream)
        if stream in self._lacking and chosen is not None and chosen.digest == digest:
            if manifest is not None:
                self._accepting.add(stream)
                self._state.accept(manifest, self.epoch)
            elif stream not in self._accepting:
                self._failed(stream)
        self.step()

    def _failed(self, stream: StreamName) -> None:
        self._lacking[stream] += 1
        if self._lacking[stream] >= FETCHES_BEFORE_UNAVAILABLE:
            self._give_up(stream)

    def on_accepted(self, manifest: Manifest) -> bool:
        """A chosen head is held and adopted here; true if the stream had been unavailable."""
        stream = StreamName(manifest.stream)
        chosen = self.chosen.get(stream)
        if chosen is not None and chosen.digest == manifest.digest:
            self._accepting.discard(stream)
            self._firm.add(stream)
        elif stream not in self.unavailable:
            return False  # else it is the tombstone of one that was abandoned
        self._lacking.pop(stream, None)
        self.step()
        return self.unavailable.pop(stream, None) is not None

    def on_refused(self, manifest: Manifest, why: Why) -> bool:
        """An acceptance was refused: held already, or to be fetched again. As `on_accepted`."""
        stream = StreamName(manifest.stream)
        self._accepting.discard(stream)
        head = self._state.heads.get(stream)
        if why is Why.STALE and head is not None and head.digest == manifest.digest:
            return self.on_accepted(manifest)
        if why is Why.INCOMPLETE and stream in self._lacking:
            self._failed(stream)
        return False
