"""The backup: accepts what the one owner of the promised epoch publishes, and fetches what it lacks.

Everything that arrives is held against the promise (R3, R4); acceptance is asked of the store and told
only when it is durable (R13). Holes, missing tails and heads that are lacking are all mended by one
mechanism, the fetch (R18). A stale or repeated manifest changes nothing and is answered (R19).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from msgspec import structs

from replicator.core.arrivals import Arrivals
from replicator.core.events import AcceptRefused, HeadRotten, ManifestReceived, Seen, Why
from replicator.core.lease import Lender
from replicator.core.messages import (
    Ack,
    Acked,
    Adopt,
    Adopted,
    Behind,
    Forget,
    Heartbeat,
    HeartbeatAnswer,
    Members,
    MembersAccepted,
    Progress,
    Reason,
)
from replicator.core.points import Points
from replicator.core.promise import Promiser
from replicator.core.state import State
from replicator.model import (
    Digest,
    Epoch,
    Generation,
    Head,
    Incarnation,
    Manifest,
    MemberRecord,
    NodeId,
    Owner,
    Promise,
    Role,
    Sequence,
    StreamName,
)


class Backup:
    """What a replica does for the owner of the epoch that it has promised."""

    def __init__(
        self,
        state: State,
        lender: Lender,
        promiser: Promiser,
        lease_until: Callable[[Owner], float],
    ) -> None:
        self._state = state
        self._lender = lender
        self._promiser = promiser
        self._lease_until = lease_until
        self._heard_at = -math.inf
        self._too_long_for: Owner | None = None  # whose lease was refused for its length, and said so
        self._arrivals = Arrivals(state)
        self._accepting: dict[StreamName, Digest] = {}
        self._wanted: dict[StreamName, tuple[Epoch, Digest]] = {}  # fetches, and for which epoch
        self._next: dict[StreamName, Manifest] = {}  # came while an older one was being fetched
        self._told: list[Head] = []  # said to be lacking last, and found no place
        self._rotten = {stream: Digest(h.digest) for stream, h in state.heads.items() if not h.readable}
        self._rotten_at = state.now
        self._no_room: dict[StreamName, Digest] = {}  # refused, and not fetched before there is room
        self._points = Points(state)
        self._pages: tuple[tuple[int, bytes], dict[int, Adopt]] = ((0, b""), {})
        self._recording = (0, 0)  # epoch and version of the newest member record queued to the store
        self._adopted: tuple[int, bytes] = (0, b"")

    # ── the owner ──

    @property
    def owner(self) -> Owner | None:
        """The primary that this replica follows, if it is another."""
        promise = self._state.promise
        return promise.owner if promise is not None and promise.owner != self._state.me else None

    def hears_primary(self) -> bool:
        """Whether a live primary has been heard within one lease: one that hears this node, too. For one that
        hears nobody, and cannot have the lease, a granted node does not wait until it gives up (R11)."""
        return self.owner is not None and self._state.now - self._heard_at < self._state.config.lease_s

    @property
    def is_behind(self) -> bool:
        """Whether something is known to be lacking here that others hold."""
        return bool(self._points or self._wanted)

    def _follows(self, node: NodeId, epoch: int) -> bool:
        """Whether *node* owns *epoch*, which is durably promised, and nothing newer is about to be."""
        promise, owner = self._state.promise, self.owner
        return (
            promise is not None
            and owner is not None
            and owner.node == node
            and promise.epoch == epoch
            and self._state.promising == promise
        )

    def on_promise_written(self) -> None:
        """A new epoch: what was wanted for the old one is not wanted any longer."""
        self._arrivals.begin()
        self._next.clear()
        self._told.clear()
        self._state.forgotten.clear()
        for stream in [s for s in self._wanted if s not in self._rotten]:
            del self._wanted[stream]
            self._state.cancel_fetch(stream)

    # ── heartbeats ──

    def on_heartbeat(self, node: NodeId, owner: Owner, message: Heartbeat) -> None:
        """Follow a newer owner, refuse an older one, lend the lease to the present one (R3, R24)."""
        state, promise = self._state, Promise(message.epoch, owner)
        held = state.promising
        if state.role is Role.FOUNDING:
            return
        if held is not None and held != promise and message.epoch <= held.epoch:
            self._promiser.refuse(node, message.epoch, Reason.PROMISED)
        elif held != promise:  # it proves that a majority has promised the higher epoch
            if state.reaches(message.epoch) and state.now >= self._lease_until(owner):
                self._promiser.promise(message.epoch, owner)
        elif state.promise == promise:
            self._answer(node, owner, message)

    def _answer(self, node: NodeId, owner: Owner, message: Heartbeat) -> None:
        state = self._state
        lends = state.may_promise and self._lender.lend(owner, message.lease_s, message.echo, state.now)
        if lends:
            self._heard_at = state.now
        if message.lease_s > state.config.lease_max_s and self._too_long_for != owner:
            self._too_long_for = owner
            state.notice(
                f"{node} asks for a lease of {message.lease_s} s and is lent none: at most "
                f"{state.config.lease_max_s} s here (REPLICATOR_LEASE_MAX_S, the same on all nodes) (R24)"
            )
        what = (self._lender.echo(state.now), state.full, state.can_lead, self._arrivals.seen_index)
        state.send(node, HeartbeatAnswer(message.epoch, message.question, lends, *what))
        for point in message.commits:
            self._points.take(point)
        if self._arrivals.told(message.publish_index):
            self._tell_progress(node, message.epoch)

    def on_lease_returned(self, epoch: int, owner: Owner) -> None:
        """The owner has ended its tenure by itself (R26)."""
        if self._state.promise == Promise(epoch, owner):
            self._lender.take_back(owner)
            self._heard_at = -math.inf

    # ── publications ──

    def on_seen(self, event: Seen | ManifestReceived) -> None:
        if self._follows(event.node, event.epoch):
            self._arrivals.came(event.publish_index, isinstance(event, Seen))
            # A quarter of the window is soon enough for it never to stand still, and spares most messages.
            if self._arrivals.untold >= self._state.config.window_frames_max // 4:
                self._tell_progress(event.node, event.epoch)

    def _tell_progress(self, node: NodeId, epoch: int) -> None:
        self._state.send(node, Progress(epoch, self._arrivals.tell()))

    def on_manifest(self, event: ManifestReceived) -> None:
        """A checkpoint has been published (R3, R19)."""
        state, promise = self._state, self._state.promise
        if promise is not None and event.epoch < promise.epoch:
            self._promiser.refuse(event.node, event.epoch, Reason.PROMISED)
            return
        owner = self.owner
        if owner is None or not self._follows(event.node, event.epoch):
            return
        self.on_seen(event)
        if owner.incarnation != event.incarnation or event.manifest.epoch != event.epoch:
            return
        stream, manifest = StreamName(event.manifest.stream), event.manifest
        if state.is_old(stream, event.epoch, manifest.sequence):
            self._ack_if(state.heads.get(stream), manifest.digest)
        elif stream in self._wanted and stream not in self._rotten:
            self._next[stream] = manifest  # the fetch runs to its end, or it would never end (T20)
        elif self._accepting.get(stream) != manifest.digest:
            self._accept(manifest, event.epoch)

    def _accept(self, manifest: Manifest, epoch: Epoch) -> None:
        self._accepting[StreamName(manifest.stream)] = Digest(manifest.digest)
        self._state.accept(manifest, epoch)

    def _ack_if(self, head: Head | None, digest: bytes) -> None:
        """Answer what is held already with the head's acknowledgment, if it counts now (R19)."""
        if head is not None and head.digest == digest and head.readable:
            self._ack(head)

    def _ack(self, head: Head) -> None:
        promise, owner = self._state.promise, self.owner
        if owner is not None and promise is not None and head.accepted_epoch == promise.epoch:
            acked = Acked(head.stream, head.generation, head.sequence, head.digest)
            self._state.send(NodeId(owner.node), Ack(promise.epoch, (acked,)))

    # ── what is lacking (R18) ──

    def on_behind(self, node: NodeId, message: Behind) -> None:
        """Fetch the heads that are lacking here, as many at a time as is allowed, and fit."""
        if self._follows(node, message.epoch):
            for theirs in message.heads:
                self._look_at(theirs, Epoch(message.epoch))
            self._told = [head for head in message.heads if head.stream not in self._state.fetching]

    def _look_at(self, theirs: Head, epoch: Epoch) -> None:
        """Acknowledge a head of the primary's that is here, or fetch it if there is a place."""
        stream = StreamName(theirs.stream)
        if self._state.is_old(stream, epoch, theirs.sequence):
            self._ack_if(self._state.heads.get(stream), theirs.digest)
        elif stream not in self._accepting and self._is_to_fetch(stream, theirs, epoch):
            fetch = self._state.fetching.get(stream)
            if stream in self._rotten and fetch is not None and fetch.digest != theirs.digest:
                self._state.cancel_fetch(stream)  # of rot that another head has taken the place of (R8)
            self._want(stream, Digest(theirs.digest), None, epoch)

    def _fetch_more(self) -> None:
        """A place is free for what found none: to be told of it again takes an interval."""
        while self._told and len(self._state.fetching) < self._state.config.fetches_max:
            self._look_at(self._told.pop(0), self._state.promised_epoch)

    def _is_to_fetch(self, stream: StreamName, theirs: Head, epoch: int) -> bool:
        """Whether it is not on its way, and may find room. A full disk refuses what is too large for it:
        what was not refused is tried, one at a time besides what is to be mended (R21)."""
        is_turn = stream in self._rotten or self._state.fetching.keys() <= self._rotten.keys()
        is_open = is_turn and self._no_room.get(stream) != theirs.digest
        fits = is_open or not self._state.lacks_room_for(theirs)
        return fits and not self._arrivals.is_coming(theirs, epoch)

    def _want(self, stream: StreamName, digest: Digest, manifest: Manifest | None, epoch: Epoch) -> None:
        if self._state.fetch(stream, digest, manifest, self._sources(), verify=stream in self._rotten):
            self._wanted[stream] = (epoch, digest)
            self._arrivals.settled(stream)

    def _sources(self) -> tuple[NodeId, ...]:
        """Whom to ask: the primary first."""
        owner = self.owner
        first = (NodeId(owner.node),) if owner is not None else ()
        return (*first, *(node for node in self._state.others if node not in first))

    def on_fetched(self, stream: StreamName, digest: Digest, manifest: Manifest | None) -> None:
        """What was wanted is here: accept it in the epoch it was wanted for. Or (None) nobody had it: the
        primary tells again what is lacking, and rot is tried again later."""
        wanted = self._wanted.pop(stream, None)
        if manifest is None:
            if stream in self._rotten:
                self._rotten[stream] = self._rotten.pop(stream)  # others have their turn first
            self._next.pop(stream, None)
        elif wanted is not None and wanted[1] == digest:
            # For a rotten head the store's refusal says that the chunks queued before it are written.
            self._accept(manifest, wanted[0])
        self._fetch_more()

    # ── what the store has done ──

    def on_accepted(self, head: Head) -> None:
        """Durable: now it may be acknowledged (R13)."""
        stream = StreamName(head.stream)
        self._accepting.pop(stream, None)
        self._no_room.pop(stream, None)
        self._arrivals.settled(stream)
        self._ack(head)
        self._points.arrived(stream)
        self._go_on(stream)

    def _go_on(self, stream: StreamName) -> None:
        """What came while the stream was busy is looked at now."""
        manifest, owner = self._next.pop(stream, None), self.owner
        if manifest is not None and owner is not None:
            who = NodeId(owner.node), Incarnation(owner.incarnation)
            self.on_manifest(ManifestReceived(*who, Epoch(manifest.epoch), manifest))

    def on_accept_refused(self, event: AcceptRefused) -> None:
        """Incomplete is fetched, stale is answered, fenced and full are nothing to tell."""
        stream = StreamName(event.manifest.stream)
        self._accepting.pop(stream, None)
        if event.why in (Why.STALE, Why.FENCED):
            self._mended(stream, Digest(event.manifest.digest))
        elif event.why is Why.FULL:
            self._no_room[stream] = Digest(event.manifest.digest)
        if event.epoch != self._state.promised_epoch:
            return
        if event.why is Why.INCOMPLETE:
            self._want(stream, Digest(event.manifest.digest), event.manifest, event.epoch)
        elif event.why is Why.STALE:
            self._ack_if(self._state.heads.get(stream), event.manifest.digest)
            self._go_on(stream)

    # ── bulk adoption, the member record, tombstones ──

    def on_adopt(self, node: NodeId, message: Adopt) -> None:
        """Adopt all heads as this process reported them, but for the exceptions (R10)."""
        if not self._follows(node, message.epoch):
            return
        key = (message.epoch, message.digest)
        if self._adopted == key:
            self._state.send(node, Adopted(message.epoch, Digest(message.digest)))
            return
        if not self._promiser.has_reported(message.epoch, message.digest):
            self._promiser.refuse(node, message.epoch, Reason.UNKNOWN_HEADS)
            return
        pages = self._pages[1] if self._pages[0] == key else {}
        pages[message.page] = message
        self._pages = (key, pages)
        is_queued = any(each[:2] == key for each in self._state.adopting)
        if len(pages) >= message.page_count and not is_queued:
            names = frozenset(StreamName(name) for page in pages.values() for name in page.exceptions)
            self._state.adopt_heads(Epoch(message.epoch), names, message.digest)

    def on_heads_adopted(self, epoch: Epoch, digest: bytes) -> None:
        """A bulk adoption is durable: one that a primary has asked for names a report."""
        owner = self.owner
        if owner is not None and digest:
            self._adopted = (epoch, digest)
            self._state.send(NodeId(owner.node), Adopted(epoch, digest))

    def on_members(self, node: NodeId, message: Members) -> None:
        """Accept the member record in the primary's epoch (R27)."""
        state, record = self._state, message.record
        newest = max(self._recording, state.record_order)
        if not self._follows(node, message.epoch) or (message.epoch, record.version) < newest:
            return
        if (state.record_epoch, state.record) == (message.epoch, record):
            state.send(node, MembersAccepted(message.epoch, record.version))
        elif self._recording != (message.epoch, record.version):
            self._recording = (message.epoch, record.version)
            state.write_record(record, Epoch(message.epoch), True)

    def on_record_written(self, record: MemberRecord, epoch: Epoch) -> None:
        owner, promise = self.owner, self._state.promise
        if owner is not None and promise is not None and promise.epoch == epoch:
            self._state.send(NodeId(owner.node), MembersAccepted(epoch, record.version))

    def on_forget(self, node: NodeId, message: Forget) -> None:
        """Every member holds these tombstones (R23)."""
        if self._follows(node, message.epoch):
            for acked in message.tombstones:
                stream = StreamName(acked.stream)
                self._points.forget(stream)
                self._state.forget(stream, Generation(acked.generation), Sequence(acked.sequence))

    # ── rot (R22) ──

    def on_rotten(self, event: HeadRotten) -> None:
        """The head cannot be read here: say so in promises, and fetch what is rotten. Told again, as whenever
        another asks for it who mends the same, it is no news: two would keep each other busy."""
        head = self._state.heads.get(event.stream)
        if head is None or head.digest != event.digest or self._rotten.get(event.stream) == event.digest:
            return
        self._state.heads[event.stream] = structs.replace(head, readable=False)
        self._rotten[event.stream] = event.digest
        self._no_room.pop(event.stream, None)
        self._rotten_at = self._state.now
        self.tick()

    def on_room(self) -> None:
        """What could not be mended for want of room is tried again (R21)."""
        self._no_room.clear()
        self._rotten_at = self._state.now
        self.tick()

    def _mended(self, stream: StreamName, digest: Digest) -> None:
        """The chunks of a rotten head have been written again."""
        head = self._state.heads.get(stream)
        if self._rotten.get(stream) == digest:
            del self._rotten[stream]
            if head is not None and head.digest == digest:
                self._state.heads[stream] = structs.replace(head, readable=True)

    @property
    def deadline(self) -> float:
        return self._rotten_at if self._rotten else math.inf

    def tick(self) -> None:
        """Try again to mend what is rotten, out of step with the primary, whose news wants places too."""
        if self._state.now < self.deadline:
            return
        self._rotten_at = self._state.now + self._state.config.fetch_retry_s * (1 + self._state.draw())
        for stream, digest in list(self._rotten.items()):
            head = self._state.heads.get(stream)
            if head is None or head.digest != digest:
                del self._rotten[stream]
                if self._wanted.get(stream, (0, None))[1] == digest:  # its fetch may have gone with a tenure
                    del self._wanted[stream]
            elif stream not in self._state.fetching and self._no_room.get(stream) != digest:
                self._want(stream, digest, None, Epoch(head.accepted_epoch))
