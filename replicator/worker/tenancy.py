"""The tenancy: what the worker keeps for its engine, from the first restored head to the last ticket.

It turns the core's effects for the engine into messages of the link: restored heads and the start of a
tenure, its lease word and its end, what became of each checkpoint. Payloads are kept here under the
handle that the core knows them by; the core never sees a byte of them.

A tenure starts for the engine when all its heads are loaded. A head that turns out to be unreadable at
that moment is told to the core, which has it fetched from another replica, and is tried once more; if
nobody mends it within `MEND_TIMEOUT_S` the tenure starts without it, `restored` of its stream raises, and
the core, which is told first, takes nothing of the stream until it can bring it in another tenure (R8, R22).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial

from replicator.core.effects import (
    Abort,
    Commit,
    EndTenure,
    HeldByAll,
    Release,
    SetLease,
    StartTenure,
    StoredLocally,
    Supersede,
)
from replicator.core.events import Accepted, AcceptRefused, HeadRotten, StartedWithout, Why
from replicator.link import messages as link
from replicator.link.lease import LeaseSlot, LeaseWords
from replicator.model import Digest, Epoch, Head, Payload, StreamName
from replicator.worker.inbox import Loaded, Post
from replicator.worker.loader import Loader
from replicator.worker.silence import End
from replicator.worker.standby import Standbys

MEND_TIMEOUT_S = 2.0
STAGES = ("publish", "store", "commit")  # each begins where the one before ends
NANOSECONDS = 1_000_000_000
FOREVER_NS = 2**62  # a node alone needs nobody's lease
# What was in flight when the primary claimed above a stuck member commits in the newer epoch, under its
# lease, before the tenure has a word for it (R11): the engine may report that for so long.
DRAINED_NS = NANOSECONDS // 10


class Tenancy:
    """Used on the control thread only."""

    def __init__(
        self,
        end: End,
        words: LeaseWords,
        loader: Loader,
        deliver: Callable[[HeadRotten | StartedWithout | Post], None],
        standbys: Standbys,
        acks: str = "quorum",
    ) -> None:
        self._end = end
        self._standbys = standbys
        self._acks = acks
        self._words = words
        self._loader = loader
        self._deliver = deliver
        self._payloads: dict[int, Payload] = {}
        self._stages: dict[int, list[float]] = {}  # instants: submitted, published, stored
        self._count = 0  # of tenures; the next one's slot
        self._slot: LeaseSlot | None = None
        self._epoch: Epoch | None = None  # whose slot that is
        self._starting: StartTenure | None = None
        self._loading: set[StreamName] = set()
        self._mending: dict[StreamName, tuple[Loaded, float]] = {}  # and when each is given up
        self._untold = 0  # heads that were given up and that the core has not heard of yet
        self._instants: dict[str, float] = {}  # the moments of the present takeover, by name

    # ── payloads and tickets ──

    def keep(self, handle: int, payload: Payload, now: float) -> None:
        """Take a submitted payload into custody until the core releases it."""
        self._payloads[handle] = payload
        self._stages[handle] = [now]

    def payload(self, handle: int) -> Payload:
        """The payload of a handle. Raises KeyError if it is gone, which is a defect and ends the worker: to
        publish nothing in its place would delete the stream."""
        return self._payloads[handle]

    def published(self, handle: int, now: float) -> None:
        """The data path has broadcast the payload: note the instant."""
        stages = self._stages.get(handle)
        if stages is not None and len(stages) == 1:
            stages.append(now)

    def stored(self, effect: StoredLocally, now: float) -> None:
        stages = self._stages.get(effect.handle)
        if stages is not None and len(stages) == 2:
            stages.append(now)
        if self._acks == "local":  # nobody else waits for it, and telling it wakes the engine's process
            self._tell(effect.handle, link.Stored(effect.handle))

    def committed(self, effect: Commit, now: float) -> None:
        spans = _spans([*self._stages.pop(effect.handle, ()), now])
        now_ns = int(now * NANOSECONDS)
        until_ns = self._slot.deadline_ns if self._slot is not None else 0
        if until_ns <= now_ns:
            until_ns = now_ns + DRAINED_NS
        what = (effect.handle, effect.position, effect.holders, spans, until_ns)
        self._tell(effect.handle, link.Committed(*what))

    def held_by_all(self, effect: HeldByAll, now: float) -> None:
        if self._acks == "all":
            self._tell(effect.handle, link.HeldByAll(effect.handle, effect.holders))

    def superseded(self, effect: Supersede, now: float) -> None:
        self._stages.pop(effect.handle, None)
        self._tell(effect.handle, link.Superseded(effect.handle, effect.by))

    def aborted(self, effect: Abort, now: float) -> None:
        self._stages.pop(effect.handle, None)
        self._tell(effect.handle, link.Aborted(effect.handle, effect.reason))

    def released(self, effect: Release, now: float) -> None:
        if self._payloads.pop(effect.handle, None) is not None:
            self._end.send(link.Released(effect.handle))

    def _tell(self, handle: int, message: link.ToEngine) -> None:
        """Tell the engine what became of its checkpoint; 0 is none of its own."""
        if handle:
            self._end.send(message)

    # ── the lease word ──

    def set_lease(self, effect: SetLease, now: float) -> None:
        """Write the deadline; the first one of an epoch takes the next slot and ends the one before."""
        if effect.epoch != self._epoch:
            if not effect.deadline or effect.epoch < (self._epoch or 0):
                return  # of a tenure that has ended
            self._take_slot(effect.epoch)
        assert self._slot is not None
        self._slot.deadline_ns = int(min(effect.deadline * NANOSECONDS, FOREVER_NS))
        self._start_if_loaded(now)

    def _take_slot(self, epoch: Epoch) -> None:
        if self._slot is not None:
            self._slot.deadline_ns = 0
        self._count += 1
        self._slot = self._words.slot(self._count)
        self._slot.deadline_ns = 0
        self._epoch = epoch

    # ── the start and the end of a tenure ──

    def note(self, moment: str, now: float) -> None:
        """A moment of a takeover: granted, detected, claimed, fetched. The grant begins a new one."""
        if moment == "granted":
            self._instants = {}
        self._instants[moment] = now

    @property
    def epoch(self) -> Epoch | None:
        """The epoch of the tenure that the engine has or is about to get."""
        return self._epoch

    @property
    def deadline(self) -> float:
        """When `tick` has something to do."""
        return min((until for _, until in self._mending.values()), default=math.inf)

    def start(self, effect: StartTenure, now: float) -> None:
        """Load all heads that the engine has not got; the tenure starts when the last one is there."""
        if effect.epoch != self._epoch:
            self._take_slot(effect.epoch)
        self._forget_start()
        self._starting = effect
        self._instants.setdefault("fetched", self._instants.get("claimed", now))
        self._instants["adopted"] = now
        for head in effect.unavailable:
            self._unavailable(head, "nobody that can be reached has its bytes, or too few disks have room")
        offered = self._standbys.offered(effect.heads)
        wanted = [head for head in effect.heads if not head.tombstone and head.stream not in offered]
        for head in effect.heads if len(wanted) < len(effect.heads) else ():
            if head.tombstone:
                self._end.send(link.RestoredDeleted(effect.epoch, head.stream, head.position))
            elif head.stream in offered:
                self._end.send(link.RestoredKnown(effect.epoch, head.stream, head.position))
        self._loading.update([StreamName(head.stream) for head in wanted])
        self._loader.load(effect.epoch, wanted)
        self._standbys.tenure_begins()
        self._start_if_loaded(now)

    def end(self, effect: EndTenure, now: float) -> None:
        """Close the lease word first, then tell the engine."""
        if effect.epoch == self._epoch and self._slot is not None:
            self._slot.deadline_ns = 0
            self._slot = self._epoch = None
        self._forget_start()
        self._instants = {}
        self._end.send(link.TenureEnded(effect.epoch, effect.reason))
        self._standbys.tenure_ended()

    def loaded(self, results: Iterable[Loaded], now: float) -> None:
        """Heads of the tenure are restored, or cannot be read; small ones come several at once."""
        restored = []
        for result in results:
            stream = StreamName(result.head.stream)
            if self._starting is None or result.epoch != self._starting.epoch or stream not in self._loading:
                continue
            if result.payload is not None:
                names, parts = link.part_frames(result.payload)
                what = (result.head.position, result.payload.meta, names, result.payload.is_mapping)
                restored.append((link.Restored(result.epoch, stream, *what), parts))
            elif stream not in self._mending:
                self._mending[stream] = result, now + MEND_TIMEOUT_S
                self._deliver(HeadRotten(stream, Digest(result.head.digest)))
                continue
            else:
                self._give_up(result, now)
            self._loading.discard(stream)
            self._mending.pop(stream, None)
        if len(restored) > 1:
            small = tuple((message, tuple(map(bytes, parts))) for message, parts in restored)
            self._end.send(link.RestoredSmall(small))
        elif restored:
            self._end.send(*restored[0])
        self._start_if_loaded(now)

    def written(self, event: Accepted | AcceptRefused) -> None:
        """The store has come to a manifest, and with it to the chunks that were queued before: if it is that
        of a head which could not be read, it has been fetched, and is tried again; if it is still lacking
        something, it is fetched once more."""
        result, _ = self._mending.get(StreamName(event.manifest.stream), (None, 0.0))
        if result is None or result.head.digest != event.manifest.digest:
            return
        if not isinstance(event, AcceptRefused) or event.why not in (Why.INCOMPLETE, Why.FULL):
            self._loader.load(result.epoch, [result.head])

    def tick(self, now: float) -> None:
        """Start without what nobody has mended in time."""
        for stream, (result, until) in list(self._mending.items()):
            if now >= until:
                self._give_up(result, now)
                self._loading.discard(stream)
                self._mending.pop(stream)

    def _give_up(self, result: Loaded, now: float) -> None:
        """Do without it. The core has to know before the engine does, which may submit at once."""
        assert result.epoch is not None
        self._unavailable(result.head, result.error)
        self._untold += 1
        stream, digest = StreamName(result.head.stream), Digest(result.head.digest)
        self._deliver(StartedWithout(result.epoch, stream, digest))
        self._deliver(Post(partial(self._told, now)))

    def _told(self, now: float) -> None:
        self._untold -= 1
        self._start_if_loaded(now)

    def _unavailable(self, head: Head, text: str) -> None:
        assert self._epoch is not None
        self._end.send(link.RestoredUnavailable(self._epoch, head.stream, head.position, text))

    def _start_if_loaded(self, now: float) -> None:
        """Tell the engine, which looks at the lease word at once: it has to be written by then."""
        effect, slot = self._starting, self._slot
        is_loaded = not self._loading and not self._untold
        if effect is not None and is_loaded and slot is not None and slot.deadline_ns:
            self._instants["restored"] = now
            self._end.send(link.TenureStarted(effect.epoch, self._count, effect.unchanged, self._instants))
            self._standbys.tenure_started()
            self._forget_start()

    def _forget_start(self) -> None:
        self._starting = None
        self._loader.drop()
        self._loading.clear()
        self._mending.clear()


def _spans(instants: list[float]) -> dict[str, float]:
    """How long each stage took, when all their instants are known; a tombstone has none."""
    if len(instants) != len(STAGES) + 1:
        return {}
    return {name: end - start for name, start, end in zip(STAGES, instants, instants[1:], strict=False)}
