"""The ticket: what `submit` returns at once, and what it ends as.

A ticket is a `concurrent.futures.Future`, so `result`, `add_done_callback`, `wait` and `as_completed`
work, and it can be awaited. After `submit` the outcome is unknown until the ticket ends; there is no
"failed" (R17a): it ends as `Committed` or `Superseded` (`StoredLocally` with ``REPLICATOR_ACKS=local``),
or raises `CommitUnknown` when the tenure ended first.
"""

from __future__ import annotations

import logging
import threading
import time
from _thread import RLock
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from math import isnan
from typing import ClassVar, Protocol, TypeVar

from msgspec import Struct

from replicator.errors import ReplicatorError
from replicator.model import NodeId, Position, StreamName

log = logging.getLogger(__name__)

Found = TypeVar("Found")
Waiter = Callable[[], object]  # called when there is no need to wait any more


class Committed(Struct, frozen=True):
    """A majority holds the checkpoint: it, or a later one, is what the next primary restores.

    *position* is what the sinks of this checkpoint may commit. *holders* are the members known to hold it.
    *stages* are spans in seconds by name: ``waiting`` in the engine for credit; in the worker ``publish``
    (compressed and sent), ``store`` (durable here) and ``commit`` (durable at a majority), which a deletion
    does not have; and ``total`` from submit to this report.
    """

    position: Position
    holders: tuple[NodeId, ...]
    stages: dict[str, float]


class Superseded(Struct, frozen=True):
    """The checkpoint at *position* gave way to a later one of its stream; the one at *by* has committed.

    Whatever a sink prepared for it is committed with *by* (R14: a later commit commits the earlier ones).
    """

    position: Position
    by: Position


class StoredLocally(Struct, frozen=True):
    """The checkpoint is durable on this node alone (``REPLICATOR_ACKS=local``) and may be lost with it."""

    position: Position


Outcome = Committed | Superseded | StoredLocally


def bounded(timeout_s: float) -> float:
    """A timeout as a wait takes it, in seconds: an endless one ends after centuries. Raises ValueError for
    what is not a number, which would never end and never begin."""
    if isnan(timeout_s):
        raise ValueError("a timeout is a number of seconds, not nan")
    return min(timeout_s, threading.TIMEOUT_MAX)


def deadline_of(timeout_s: float | None) -> float | None:
    """When a wait of so long that begins now is over, by the monotonic clock; None: never."""
    return None if timeout_s is None else time.monotonic() + bounded(timeout_s)


class Latch:
    """A door that opens once: ``is_set()``, ``wait(timeout)``, ``await``. Nearly free until someone waits."""

    __slots__ = ("_open", "waiters")
    lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self._open = False
        self.waiters: set[Waiter] | None = None  # one of each thread and task; None: nobody ever waited

    def set(self) -> None:
        """Open it and let everybody through, now and later."""
        with self.lock:
            self._open = True
            waiters = tuple(self.waiters or ())
        for waiter in waiters:  # a signal's handler may raise: whoever sets it again goes on
            with suppress(RuntimeError):  # several threads may set it at once; a task's loop may be closed
                waiter()
            self._leave(waiter)

    def is_set(self) -> bool:
        """Whether it is open."""
        return self._open

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is open, at most *timeout* seconds; whether it is."""
        if not self.is_set():
            # Not a Future: a signal's handler that raises in the midst of one leaves its lock held, for which
            # whoever opens the door would wait for ever, or has it raise RuntimeError in its place.
            door = threading.Lock()
            door.acquire()
            try:
                self._enter(door.release)
                door.acquire(timeout=-1 if timeout is None else max(0, bounded(timeout)))
            finally:
                self._leave(door.release)
        return self.is_set()

    def __await__(self) -> Generator[None, None, None]:
        from asyncio import Event, get_running_loop  # an engine without asyncio does not pay for it

        if not self.is_set():
            opened = Event()
            waiter = partial(get_running_loop().call_soon_threadsafe, opened.set)
            try:
                self._enter(waiter)
                yield from opened.wait().__await__()
            finally:
                self._leave(waiter)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'open' if self.is_set() else 'closed'}>"

    def _enter(self, waiter: Waiter) -> None:
        """Have that called when the door opens, for one who waits."""
        with self.lock:
            self.waiters = self.waiters or set()
            self.waiters.add(waiter)
        if self._open:  # meanwhile, perhaps, and whoever did so has not seen this one
            self.set()

    def _leave(self, waiter: Waiter) -> None:
        """That one waits no longer: it leaves nothing behind. Takes no lock: the collector may end a task."""
        if waiters := self.waiters:
            waiters.discard(waiter)


class Reader(Protocol):
    """Knows how far payloads have been read where they lie."""

    def has_read(self, position: int) -> bool: ...
    def take_back(self) -> None: ...
    def await_read(self) -> None: ...


class Released(Latch):
    """A latch that may be open though nobody was told: whoever looks finds out, whoever waits is told."""

    __slots__ = ("position", "reader")

    def __init__(self) -> None:
        super().__init__()
        self.reader: Reader | None = None  # it opens when that one has read
        self.position = 0  # up to there

    def set(self) -> None:
        """Open it and let everybody through, now and later."""
        self.reader = None
        Latch.set(self)  # `super` takes longer

    def is_set(self) -> bool:
        """Whether it is open."""
        reader = self.reader
        if reader is not None and reader.has_read(self.position):
            reader.take_back()
        return self._open

    def _enter(self, waiter: Waiter) -> None:
        super()._enter(waiter)
        if (reader := self.reader) is not None:  # else whoever lends the payload sees that somebody waits
            reader.await_read()


class Signal:
    """A change that may happen again and again. Take `next`, look, then wait: no change is missed.

    Any number of threads and tasks wait, any thread fires.
    """

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = Latch()

    def next(self) -> Latch:
        """Opens at the next change."""
        return self._next

    def fire(self) -> None:
        """Tell of a change."""
        latch = self._next
        try:
            with Latch.lock:
                latch, self._next = self._next, Latch()
            latch.set()
        except BaseException:  # of a signal's handler: who waits for this change waits for no other
            if latch is not self._next:
                latch.set()
            raise

    def wait_for(self, check: Callable[[], Found | None], timeout: float | None = None) -> Found | None:
        """Wait until *check* finds something, at most *timeout* seconds; it is asked at every change."""
        deadline = deadline_of(timeout)
        while True:
            latch = self.next()
            if (found := check()) is not None:
                return found
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                return None
            latch.wait(left_s)


class _Guard(RLock):  # type: ignore[misc]  # it may be derived from
    """A Future's lock, for one that nobody waits for by it. That of a Future is entered in Python, where a
    signal's handler that raises leaves it held for ever, and whoever ends the Future waits for that."""

    def notify_all(self) -> None:
        """Nobody waits here."""


class Ticket(Future[Outcome]):
    """What becomes of one checkpoint (or deletion). See `Future` for result, callbacks and waiting.

    Callbacks run on the link's thread: keep them short, never wait in one; an exception in one is logged.
    A timed-out or cancelled await leaves the ticket alone.

    *stream* and *position* say what it is about; the position is known before it is committed, and is what
    sinks name transactions by. If the tenure is renewed while it is under way (R11), the outcome's position
    has the newer epoch.

    *released* opens when the payload is read no longer and may be changed or reused: before the commit
    mostly, at once with ``copy=True``; always, whatever the outcome is.
    """

    stream: StreamName  # both are set by whoever makes the ticket that of a checkpoint
    position: Position

    def __init__(self) -> None:
        super().__init__()
        self._condition = _Guard()  # type: ignore[assignment]
        self.released = Released()
        ended = self._ended = Latch()
        super().add_done_callback(lambda _: ended.set())  # the first: who waits does not wait for the others

    def result(self, timeout: float | None = None) -> Outcome:
        """What it ends as, or raises; TimeoutError if that has not come after *timeout* seconds."""
        self.exception(timeout)
        return super().result()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What it raises at its end, if anything; TimeoutError as `result`."""
        if not (self.done() or self._ended.wait(timeout)):  # it is done before its latch opens
            raise TimeoutError
        return super().exception()

    def add_done_callback(self, fn: Callable[[Ticket], object]) -> None:  # not with any Future
        """Call *fn* with this ticket when it has ended, at once if it has."""
        super().add_done_callback(fn if self.done() else partial(_call, fn))  # type: ignore[arg-type]

    def cancel(self) -> bool:
        """A checkpoint that was submitted cannot be taken back: always False."""
        return False

    def __await__(self) -> Generator[None, None, Outcome]:
        yield from self._ended.__await__()
        return self.result()

    def __repr__(self) -> str:
        epoch, sequence = self.position.epoch, self.position.sequence
        return f"<Ticket {self.stream} ({epoch}, {sequence}) {self._ending()}>"

    def _ending(self) -> str:
        if not self.done():
            return "open"
        error = self.exception()
        return type(self.result() if error is None else error).__name__.lower()


def _call(callback: Callable[[Ticket], object], ticket: Ticket) -> None:
    """Call one of a ticket's callbacks on the link's thread: none keeps the others from being called."""
    try:
        callback(ticket)
    except Exception:
        raise  # `Future` logs it
    except BaseException:  # SystemExit, say, at which it would stop
        log.exception("callback failed stream=%s", ticket.stream)


class Settled(Struct, frozen=True):
    """A ticket and what it ends as: decided under a lock, told to the engine outside of it."""

    ticket: Ticket
    outcome: Outcome | ReplicatorError

    def tell(self) -> None:
        """End the ticket; its callbacks run now."""
        if isinstance(self.outcome, ReplicatorError):
            self.ticket.set_exception(self.outcome)
        else:
            self.ticket.set_result(self.outcome)
