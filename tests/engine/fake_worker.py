"""A worker that does what a test says: it speaks the link's protocol, in a thread, and knows no other."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from replicator.bell import Bell
from replicator.errors import ReplicatorError
from replicator.link import messages as link
from replicator.link.endpoint import WorkerEnd
from replicator.link.lease import LeaseWords
from replicator.model import Position
from replicator.settings import Settings

DEADLINE_S = 10.0
MessageT = TypeVar("MessageT")


def soon(check: Callable[[], object]) -> None:
    """Wait until *check* is true; the test fails if it does not come true."""
    until = time.monotonic() + DEADLINE_S
    while not check():
        assert time.monotonic() < until, "did not come true"
        time.sleep(0.001)


class FakeWorker:
    """The worker's end of the link. `run` stands for `replicator.worker.main.run`."""

    def __init__(self) -> None:
        self.refuses: ReplicatorError | None = None  # told instead of Started
        self.releases = True  # says at once that it has let go of a payload
        self.may_start = threading.Event()  # cleared: it is still busy with its imports
        self.may_start.set()
        self.starts = 0
        self.words: LeaseWords | None = None
        self.epoch = 0
        self._heard: queue.SimpleQueue[tuple[Any, list[bytes]]] = queue.SimpleQueue()
        self._orders: queue.SimpleQueue[Callable[[WorkerEnd], object]] = queue.SimpleQueue()
        self._bell = Bell()
        self._alive = False

    def run(self, settings: Settings, end: WorkerEnd, words: LeaseWords) -> int:
        """The worker's thread: say what the test says, keep what the engine says."""
        self.words, refuses = words, self.refuses
        self.may_start.wait()
        if refuses is not None:
            end.send(link.Failed(type(refuses).__name__, str(refuses)))
        else:
            end.send(link.Started(settings.node))
        self._alive = refuses is None
        self.starts += 1
        try:
            while self._alive:
                self._turn(end)
        finally:
            end.close()
        return 0

    def _turn(self, end: WorkerEnd) -> None:
        while not self._orders.empty():
            self._orders.get()(end)
        end.socket.poll(2)
        for message, parts in end.receive():
            self._heard.put((message, [bytes(part) for part in parts]))
            if isinstance(message, link.Submit) and self.releases:
                end.send(link.Released(message.handle))
            if isinstance(message, link.Close):
                self._alive = False

    # ── what a test does ──

    def say(self, message: link.ToEngine, *parts: bytes) -> None:
        """Have the worker say that."""
        self._orders.put(lambda end: end.send(message, parts))

    def hear(self, kind: type[MessageT]) -> tuple[MessageT, list[bytes]]:
        """The next message of that kind; others before it are passed over."""
        until = time.monotonic() + DEADLINE_S
        while True:
            message, parts = self._heard.get(timeout=max(0.001, until - time.monotonic()))
            if isinstance(message, kind):
                return message, parts

    def hears_nothing_but(self, kind: type[link.ToWorker]) -> bool:
        """Whether all that has been said since is of that kind."""
        heard = []
        while not self._heard.empty():
            heard.append(self._heard.get()[0])
        return all(isinstance(message, kind) for message in heard)

    def die(self) -> None:
        """End the thread without a word."""
        self._orders.put(lambda end: setattr(self, "_alive", False))

    def lend(self, span_s: float = 3600, slot: int = 1) -> None:
        """Write the lease word; a negative span lets it lapse."""
        assert self.words is not None
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self.words.slot(slot).deadline_ns = now_ns + int(span_s * 1e9)

    def start_tenure(self, epoch: int = 1, *restored: tuple[str, int, bytes], slot: int = 1) -> None:
        """Start a tenure with an active lease; *restored* are stream, sequence and payload."""
        self.epoch = epoch
        soon(lambda: self.words is not None)
        self.lend(slot=slot)
        for stream, sequence, payload in restored:
            place = (epoch, stream, Position(max(0, epoch - 1), sequence))
            self.say(link.Restored(*place, b"meta", ("",), False), payload)
        self.say(link.TenureStarted(epoch, slot))

    def commit(self, submit: link.Submit | link.Delete) -> None:
        """Commit it, held by two."""
        position = Position(submit.epoch, submit.sequence)
        self.say(link.Committed(submit.handle, position, ("a", "b"), {"commit": 0.5}))
