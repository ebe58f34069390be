"""The life of one worker: bind the link, start it, carry messages between it and the session, bury it.

Everything here belongs to the link's thread. It sleeps until the worker says something, the engine has
something to say, or the worker's end is seen; a tenure does not outlive that moment.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from errno import EACCES, EROFS
from itertools import count, islice
from math import ceil, inf
from pathlib import Path
from typing import Any

from msgspec import Struct

from replicator import errors
from replicator.descriptor import above_standard
from replicator.engine.backlog import Entry
from replicator.engine.host import ChildProcess, Host, WorkerThread
from replicator.engine.session import Session
from replicator.errors import MessageError, ReplicatorError, SettingsError, StoreError, WorkerFailed
from replicator.link import messages as link
from replicator.link.endpoint import EngineEnd, Tracker

log = logging.getLogger(__name__)

SOCKET_PATH_BYTES_MAX = 100  # the kernel allows 107
START_TIMEOUT_S = 60.0  # a worker that has not opened its store by then is given up
LAST_MESSAGES_MS = 20  # what a dead worker had sent has arrived when the link is silent for so long
RELEASE_POLL_S = 0.001
READ_POLL_S = 0.01  # how long a Released may be missed that crosses the wish for it
FREE_TIMEOUT_S = 0.1
MESSAGES_PER_TURN = 256
SLEEP_S_MAX = 3600.0  # a poll takes no number of milliseconds that is much larger

_numbers = count(1)  # of all workers that this process has started: one may still be at its end


class Failure(Struct, frozen=True):
    """Why a worker ended: the name of a class of `errors`, and a text whose first line says it all."""

    kind: str
    text: str

    @property
    def reason(self) -> str:
        """The first line."""
        return self.text.partition(":\n")[0]

    def error(self) -> ReplicatorError:
        """A fresh exception of it."""
        found = getattr(errors, self.kind, None)
        if found is SettingsError:
            return SettingsError(self.text.splitlines())
        if isinstance(found, type) and issubclass(found, ReplicatorError):
            return found(self.text)
        return WorkerFailed(f"{self.kind}: {self.text}")


class Life:
    """One worker, from its start.

    Raises a `ReplicatorError` if it cannot be started; nothing is left behind then.
    """

    def __init__(self, session: Session[Any]) -> None:
        self.has_started = False  # the worker has opened its store and sockets
        self.last_words: Failure | None = None  # the worker's own word for why it ends
        self._session = session
        self._socket_path: Path | None = None
        self._unread: dict[int, Tracker] = {}  # by handle: payloads that ZeroMQ may still read
        self._releasing: set[int] = set()  # those of them that the worker reads no longer
        self._born_at = time.monotonic()
        with contextlib.ExitStack() as undo:
            self._end, self._host = self._start(undo)
            self._undo = undo.pop_all()

    def serve(self, stop_at: Callable[[], float | None]) -> Failure:
        """Carry messages until the worker has ended, or *stop_at* gives an instant that has passed."""
        self._end.watch(self._session.bell)
        self._end.watch(self._host)
        try:
            while True:
                self._send_all()
                if self._host.fileno() in self._sleep(stop_at):
                    return self._ended()
                self._receive()
                self._session.tell_endings()
                self._release_read()
                if time.monotonic() >= self._limit(stop_at()):
                    return Failure(WorkerFailed.__name__, "the worker did not start or end in time")
        except MessageError as error:
            return Failure(MessageError.__name__, str(error))

    def bury(self) -> None:
        """See that the worker is gone, and that nothing of the engine's memory is read any more."""
        self._session.words.clear()
        self._session.lending.use(None)
        self._end.send(link.Close())  # to a thread, which cannot be killed
        if self._host.stop():
            self._undo.close()
        until = time.monotonic() + FREE_TIMEOUT_S
        while not all(tracker.done for tracker in self._unread.values()) and time.monotonic() < until:
            time.sleep(RELEASE_POLL_S)

    # ── the start ──

    def _start(self, undo: contextlib.ExitStack) -> tuple[EngineEnd, Host]:
        settings, words, number = self._session.settings, self._session.words, next(_numbers)
        if settings.isolation == "thread":
            address = f"inproc://replicator-link-{number}"
            end = EngineEnd(address)
            undo.callback(end.close)
            return end, WorkerThread(settings, address, words, end)
        directory = _own_directory(settings.data_dir)
        path = directory / f"link-{os.getpid()}-{number}.sock"
        keep_fds: tuple[int, ...] = ()
        address = f"ipc://{path}"
        if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
            keep_fds = above_standard(os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            undo.callback(os.close, keep_fds[0])
            address = f"ipc:///proc/self/fd/{keep_fds[0]}/{path.name}"
        undo.callback(_remove, path)
        end = EngineEnd(address)
        undo.callback(end.close)
        path.chmod(0o600)
        self._socket_path = path
        return end, ChildProcess(settings, address, words, keep_fds)

    # ── one turn ──

    def _send_all(self) -> None:
        if self.has_started:
            calls = self._session.take_calls()  # a Resign among them came after the checkpoints that go now
            while (entry := self._session.next_entry()) is not None:
                self._submit(entry)
            for call in calls:
                self._end.send(call)

    def _submit(self, entry: Entry) -> None:
        parcel = entry.parcel
        if parcel is None:
            self._end.send(link.Delete(*entry.place))
        else:
            submit = link.Submit(*entry.place, parcel.meta, tuple(parcel.parts), parcel.is_mapping)
            tracker = self._end.send(submit, parcel.parts.values())
            if tracker is not None and not tracker.done:
                self._unread[entry.handle] = tracker

    def _sleep(self, stop_at: Callable[[], float | None]) -> set[object]:
        bell = self._session.bell
        bell.doze()
        now = time.monotonic()
        until = self._limit(stop_at())
        if self._releasing or self._session.withholds:
            until = min(until, now + RELEASE_POLL_S)
        if self._session.lending.is_awaited:
            until = min(until, now + READ_POLL_S)
        if self.has_started and self._session.has_outgoing():
            until = now
        timeout_ms = max(0, ceil(min(until - now, SLEEP_S_MAX) * 1000)) if until < inf else None
        ready = self._end.wait(timeout_ms)
        bell.wake()
        if bell.fileno() in ready:
            bell.silence()
        return ready

    def _receive(self) -> None:
        self._session.lending.take_back()
        for message, parts in islice(self._end.receive(), MESSAGES_PER_TURN):
            match message:
                case link.Released():
                    self._releasing.add(message.handle)
                case link.Unread():
                    log.warning("payloads take the link from now on: %s", message.reason)
                    self._session.lending.go_by_link()
                case link.Failed():
                    self.last_words = Failure(message.kind, message.text)
                case link.Started():
                    self.has_started = True
                    if self._socket_path is not None:  # the connection stands: nobody else needs the name
                        _remove(self._socket_path)
                    if (line := self._host.line) is not None and message.reads_memory:
                        self._end.use(line)
                        self._session.lending.use(line)
                    elif line is not None:  # the worker has closed its end: ours would be readable for ever
                        line.close()
                    self._session.handle(message, parts)
                case _:
                    self._session.handle(message, parts)

    def _release_read(self) -> None:
        """Release payloads when both the worker and ZeroMQ have let go of them."""
        for handle in tuple(self._releasing):
            tracker = self._unread.get(handle)
            if tracker is None or tracker.done:
                self._unread.pop(handle, None)
                self._releasing.discard(handle)
                self._session.released(handle)

    def _limit(self, stop_at: float | None) -> float:
        """When the worker is killed, as things stand: a start is given up at once when all is to end."""
        if self.has_started:
            return inf if stop_at is None else stop_at
        return self._born_at + START_TIMEOUT_S if stop_at is None else self._born_at

    def _ended(self) -> Failure:
        """The worker has ended: first no lease, then what it had still said."""
        self._session.words.clear()
        self._receive()
        while self._end.wait_for_link(LAST_MESSAGES_MS):
            self._receive()
        return self.last_words or Failure(errors.WorkerDied.__name__, self._host.why())


def _remove(path: Path) -> None:
    """Remove a socket's name; a disk that takes no change any more is no reason to stop."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("a socket's name stays: %s", error)


def _own_directory(data_dir: Path) -> Path:
    """The data directory, made if it is not there; swept of sockets of engines that were killed."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(data_dir, os.W_OK | os.X_OK):
            number = EROFS if os.statvfs(data_dir).f_flag & os.ST_RDONLY else EACCES
            raise OSError(number, os.strerror(number))
        for path in data_dir.glob("link-*-*.sock"):
            pid = path.name.split("-")[1]
            if not (pid.isdecimal() and Path("/proc", pid).exists()):
                path.unlink(missing_ok=True)
    except FileExistsError as error:
        raise StoreError(f"data directory {data_dir} cannot be used: it is a file") from error
    except OSError as error:
        raise StoreError(f"data directory {data_dir} cannot be used: {error.strerror}") from error
    return data_dir.absolute()
