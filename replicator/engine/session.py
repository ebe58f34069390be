"""The session: what the engine's threads and the link's thread share.

The engine's threads submit here and look for what has come; the link's thread (`keeper`) takes what is to
be sent and hands in what the worker says. One lock guards the backlog, what is lent and the present tenure;
it is held for microseconds, never while a ticket's callbacks run or the link is used. With a worker process a
checkpoint mostly takes the direct line (`engine.lending`), which `submit` itself writes to.

A worker may come and go; what the engine has asked for (tenures, to follow) is told to each new one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Generic, TypeVar

from replicator.bell import Bell
from replicator.engine.backlog import Backlog, Ending, Entry, TellsOfCommit
from replicator.engine.checkpoint import Arrival, Checkpoint
from replicator.engine.fork import guard
from replicator.engine.lending import Lending
from replicator.engine.parcel import Parcel
from replicator.engine.resignation import Resignation
from replicator.engine.restoring import RestoredOne, Restoring
from replicator.engine.shelf import Shelf
from replicator.engine.tenure import BaseTenure
from replicator.engine.ticket import Settled, Signal, Ticket
from replicator.errors import ReplicatorError, TenureEnded, WrongState
from replicator.link import messages as link
from replicator.link.lease import LeaseWords
from replicator.model import Epoch, Sequence, StreamName
from replicator.settings import Settings

log = logging.getLogger(__name__)

TenureT = TypeVar("TenureT", bound=BaseTenure)


class Closed(WrongState):
    """The replicator is closed, or closing: what waits ends."""


class Session(Generic[TenureT]):
    """Shared state. `changed` fires when a tenure, a standby, a status, a start, a failure or the close
    has come; `settled` fires when tickets have ended."""

    def __init__(self, settings: Settings, tenure_type: type[TenureT]) -> None:
        self.settings = settings
        self.words = LeaseWords.create()
        self.bell = Bell()
        self.changed = Signal()
        self.settled = Signal()
        self.started = False  # a worker has said so, once
        self.closing = False  # nothing is taken any more
        self.failure: Callable[[], ReplicatorError] | None = None  # the worker was given up
        self._tenure_type = tenure_type
        self._lock = threading.Lock()
        self._backlog = Backlog(settings.backlog_bytes_max, settings.acks)
        self.lending = Lending(self._lock, self._backlog, self.bell)
        self._calls: deque[link.ToWorker] = deque()  # what is to be said besides checkpoints
        self.tenure: TenureT | None = None  # that is on
        self._taken = False  # the present tenure
        self._resignation = Resignation()
        self._restoring = Restoring()
        self._wanted: dict[type[link.Ready | link.Follow], link.Ready | link.Follow] = {}
        self._shelf = Shelf()
        self._endings: deque[Ending] = deque()  # what became of checkpoints, not told yet
        self._telling: Iterable[Settled] = ()  # what has left the backlog, and is told just now
        self._follower = 0  # the number of the newest
        self._nonces = count(1)
        self._reports: dict[int, bytes | None] = {}  # by number, those that somebody waits for
        self.link_thread: threading.Thread | None = None
        self.is_forked = False
        guard(self)

    # ── the engine's threads ──

    def check_process(self, waits: str = "") -> None:
        """Raise `WrongState` in a forked child, and of a call that *waits* in a ticket's callback, too."""
        if self.is_forked:
            raise WrongState("a Replicator cannot be used in a forked child; make one in the child itself")
        if waits and threading.current_thread() is self.link_thread:
            raise WrongState(f"{waits} waits for the link's thread, so no ticket's callback may call it")

    def check_usable(self, waits: str = "") -> None:
        """As `check_process`; raises `Closed` after close(), or what the worker failed of, as well."""
        self.check_process(waits)
        if self.closing:
            raise Closed("the Replicator is closed")
        if self.failure is not None:
            raise self.failure()

    def submit(self, epoch: Epoch, stream: str, parcel: Parcel | None, copied: bool) -> Ticket:
        """Take a checkpoint (None: a deletion) in the tenure of *epoch*."""
        backlog, now = self._backlog, time.monotonic()
        if parcel is not None and backlog.held_bytes + parcel.size_bytes > backlog.bytes_max:
            self.lending.take_back()  # nobody may have looked, though all of it has been read
        try:
            with self._lock:
                tenure = self.tenure
                is_ending = self._resignation.epoch == epoch or self.closing
                if is_ending or tenure is None or tenure.epoch != epoch:
                    raise self._refusal(epoch)
                ticket = backlog.offer(epoch, stream, parcel, now)
                if len(backlog.outbox) == 1:
                    self.lending.send(now)
        finally:  # also if a signal's handler has raised in the midst: what was taken goes
            if backlog.outbox:
                self.bell.ring()
            if backlog.free:
                self.lending.let_go()
        if copied:
            ticket.released.set()
        return ticket

    def next_sequence(self, epoch: Epoch, stream: StreamName) -> Sequence:
        """What the next submit of the stream will get."""
        with self._lock:
            tenure = self.tenure
            if tenure is None or tenure.epoch != epoch or self._resignation.epoch == epoch or self.closing:
                raise self._refusal(epoch)
            return Sequence(self._backlog.next_sequence(stream))

    def resign(self, epoch: Epoch, successor: str | None) -> None:
        """Hand over; nothing if that tenure is over. Takes no lock, so a signal's handler may call it."""
        tenure = self.tenure
        if tenure is not None and tenure.epoch == epoch and self._resignation.wish(epoch, successor):
            self.call(link.Resign(epoch, successor))

    def call(self, message: link.ToWorker) -> None:
        """Have something said to the worker that is there; lost if there is none."""
        self._calls.append(message)
        self.bell.ring()

    def want(self, wish: link.Ready | link.Follow) -> None:
        """Tell this worker, and every later one."""
        if self._wanted.get(type(wish)) != wish:
            self._want_anew(wish)

    @contextmanager
    def following(self) -> Iterator[None]:
        """Want committed checkpoints, from the first, as long as this lasts. If somebody else has begun to
        follow before this ends, it is his to say when nobody does."""
        self.check_usable()
        number = self._follower = next(self._nonces)
        self._want_anew(link.Follow(True))
        try:
            yield
        finally:
            if self._follower == number:
                self.want(link.Follow(False))
                if self._follower != number:  # who has begun in between was told first, perhaps
                    self._want_anew(link.Follow(True))

    def is_started(self) -> bool | None:
        """True once a worker has started; raises what it failed of."""
        self.check_usable()
        return self.started or None

    def take_tenure(self) -> TenureT | None:
        """The tenure that is on, once. Whoever asks again gives it back: it is resigned."""
        self.check_usable(waits="tenures()")
        with self._lock:
            tenure = self.tenure
            if tenure is None or not self._taken:
                self._taken = tenure is not None
                return tenure
        self.resign(tenure.epoch, None)
        return None

    def take_offer(self) -> Checkpoint | None:
        """The committed checkpoint that has waited longest for a warm standby."""
        self.check_usable(waits="follow()")
        with self._lock:
            return self._shelf.take()

    def done_with_offer(self, checkpoint: Checkpoint) -> None:
        """The engine has loaded what it took: a newer one may come."""
        self.check_process()
        with self._lock:
            self._shelf.done(checkpoint)
        self.call(link.StandbyTaken(checkpoint.stream, checkpoint.position))

    @contextmanager
    def asking_status(self) -> Iterator[int]:
        """Ask the worker for its status; the number is for `report`, as long as this lasts."""
        nonce = next(self._nonces)
        self._reports[nonce] = None
        self.call(link.AskStatus(nonce))
        try:
            yield nonce
        finally:
            del self._reports[nonce]

    def report(self, nonce: int) -> bytes | None:
        """The status that was asked for, when it has come."""
        self.check_usable()
        return self._reports[nonce]

    def open_tickets(self) -> list[Ticket]:
        """All tickets that have not ended."""
        with self._lock:
            entries, telling = self._backlog.entries(), self._telling
        tickets = [entry.ticket for entry in entries] + [item.ticket for item in telling]
        return [ticket for ticket in tickets if not ticket.done()]

    def close_up(self) -> None:
        """Take nothing any more."""
        with self._lock:
            self.closing = True
        self.changed.fire()

    # ── the link's thread: what goes ──

    def take_calls(self) -> list[link.ToWorker]:
        """The messages besides checkpoints that wait."""
        return [self._calls.popleft() for _ in range(len(self._calls))]

    def next_entry(self) -> Entry | None:
        """The checkpoint that has the credit to go to the worker next, over the link. It counts as sent: if
        that fails, all that the worker has is lost, and this with it."""
        backlog = self._backlog
        with self._lock:
            while self.lending.send(time.monotonic()):
                pass
            if backlog.outbox:
                backlog.sent(backlog.outbox[0], time.monotonic())
            return backlog.outbox.popleft() if backlog.outbox else None

    def has_outgoing(self) -> bool:
        """Whether one of the two has something."""
        return bool(self._calls or self._backlog.outbox)

    # ── the link's thread: what comes ──

    def handle(self, message: link.ToEngine, parts: list[memoryview]) -> None:
        """Take in what the worker says."""
        if isinstance(message, Ending):
            self._endings.append(message)
            self.tell_endings()
            return
        match message:
            case _ if isinstance(message, RestoredOne):
                self._restoring.take_in(message, parts, self._shelf)
            case link.Started():
                self.started = True
                self._calls.extend(self._wanted.values())
            case link.TenureStarted():
                self._start_tenure(message)
            case link.TenureEnded() if self.tenure is not None and self.tenure.epoch == message.epoch:
                self._end_tenure(message.reason)
            case link.ResignRefused() if self.tenure is not None and self.tenure.epoch == message.epoch:
                self._go_on(self.tenure, message.reason)
            case link.StandbyOffered():
                with self._lock:
                    is_wanted = link.Follow(True) in self._wanted.values()
                    if self._shelf.put(Arrival(message, parts), is_wanted):
                        self.call(link.StandbyTaken(message.stream, message.position))
            case link.StandbyDeleted():
                with self._lock:
                    self._shelf.forget(StreamName(message.stream))
            case link.StatusReply() if message.nonce in self._reports:
                self._reports[message.nonce] = message.report
            case _:
                return
        self.changed.fire()

    @property
    def withholds(self) -> bool:
        """Whether a commit waits for the lease to come back, or for the tenure's end."""
        return bool(self._endings)

    def tell_endings(self) -> None:
        """Tell what became of checkpoints, in order; a commit only under the lease (R25).

        What the worker said may have lain here while this process stood still. Another node may be primary
        by now, so the commit is withheld: until the tenure is resumed, or ends with an unknown outcome.
        """
        while self._endings and self._may_report(self._endings[0]):
            with self._lock:
                self._telling = self._backlog.settle(self._endings.popleft(), time.monotonic())
            self._tell()
            self._backlog.lay_in()

    def _may_report(self, message: Ending) -> bool:
        tenure = self.tenure
        if tenure is None or not isinstance(message, TellsOfCommit) or tenure.active:
            return True
        until_ns = message.until_ns if isinstance(message, link.Committed) else 0
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) < until_ns

    def released(self, handle: int) -> None:
        """Nobody reads the payload of *handle* any more."""
        with self._lock:
            self._backlog.released(handle)
        self.lending.let_go()

    def worker_gone(self, reason: str) -> None:
        """There is no worker any more: no lease, no tenure, nothing is read or said."""
        self.words.clear()
        self._end_tenure(reason)
        with self._lock:
            self._backlog.lost()
            self.lending.lost()
            self._shelf.lost()
        self.lending.let_go()
        self._calls.clear()
        self._restoring.clear()

    def fail(self, failure: Callable[[], ReplicatorError]) -> None:
        """The worker was given up; every call raises that from now on."""
        self.failure = failure
        self.changed.fire()

    def close(self) -> None:
        """The end; called when no thread sends or receives any more."""
        self.worker_gone("the Replicator was closed")
        self.words.close()
        self.bell.close()

    def disown(self) -> None:
        """In a forked child: whatever is held here belongs to the parent."""
        self.is_forked = True
        self.lending.disown()
        if self.tenure is not None:
            self.tenure.deactivate()

    # ── within ──

    def _want_anew(self, wish: link.Ready | link.Follow) -> None:
        self._wanted[type(wish)] = wish
        if isinstance(wish, link.Follow):
            self._shelf.stop_waiting()
        if self.started:
            self.call(wish)

    def _refusal(self, epoch: Epoch) -> TenureEnded:
        if self.tenure is None or self.tenure.epoch != epoch:
            return TenureEnded(f"the tenure of epoch {epoch} is over; take the next one from tenures()")
        return TenureEnded(f"the tenure of epoch {epoch} is being handed over: nothing is taken any more")

    def _start_tenure(self, start: link.TenureStarted) -> None:
        self._end_tenure("a newer tenure has started")
        epoch = Epoch(start.epoch)
        restored, sequences = self._restoring.start(start.epoch)
        slot = self.words.slot(start.lease_slot)
        tenure = self._tenure_type(self, epoch, slot, restored, start.unchanged, start.instants)
        self._backlog.lay_in()
        with self._lock:
            for stream, sequence in sequences.items():
                self._backlog.go_on(stream, sequence)
            self._shelf.clear()
            self._taken = False
            self.tenure = tenure
        log.info("tenure started epoch=%d streams=%d unchanged=%s", epoch, len(restored), start.unchanged)

    def _go_on(self, tenure: TenureT, reason: str) -> None:
        """A handover is refused: the engine's, if it has named a successor; else it was an operator's."""
        with self._lock:
            if (later := self._resignation.refused(tenure.epoch)) is None:
                return
            tenure.resign_refused = reason if not later else None
        log.warning("handover refused, the tenure goes on epoch=%d reason=%s", tenure.epoch, reason)
        for successor in later:
            self.resign(tenure.epoch, successor)

    def _end_tenure(self, reason: str) -> None:
        with self._lock:
            tenure, self.tenure = self.tenure, None
            self._endings.clear()
            count, self._telling = self._backlog.end(reason)
        self.lending.let_go()
        if tenure is not None:
            tenure.end(reason)
            log.info("tenure ended epoch=%d open=%d reason=%s", tenure.epoch, count, reason)
        self._tell()
        self.changed.fire()

    def _tell(self) -> None:
        for item in self._telling:
            item.tell()
        self._telling = ()
        self.settled.fire()
