"""The blocking front door: `Replicator`.

It does nothing of its own but wait: what happens is decided in `backlog`, shared in `session`, and carried
by `keeper` and `life`. The asyncio front door (`aio`) has the same names.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic

import msgspec

from replicator.engine.checkpoint import Checkpoint
from replicator.engine.keeper import EXIT_TIMEOUT_S, Keeper
from replicator.engine.session import Closed, Session, TenureT
from replicator.engine.tenure import Tenure
from replicator.engine.ticket import Ticket, bounded
from replicator.errors import TenureEnded, Unavailable
from replicator.link import messages as link
from replicator.link.endpoint import EngineEnd
from replicator.model import NodeId
from replicator.settings import Settings

STATUS_TIMEOUT_S = 5.0


class FrontDoor(Generic[TenureT]):
    """What both front doors share: the worker's start, and all that never waits."""

    def __init__(self, settings: Settings, tenure_type: type[TenureT]) -> None:
        with suppress(Exception):  # the link's thread fails of the same, and is asked
            EngineEnd.warm_up()  # before the exit is registered: ZeroMQ's own end comes later then
        # Each worker looks where the first one did, wherever the engine has gone since.
        self._session = Session(settings.located(), tenure_type)
        try:
            self._keeper = Keeper(self._session)
        except BaseException:  # no thread can be started
            self._session.close()
            raise
        atexit.register(self._shut, settings.close_timeout_s)

    @property
    def node(self) -> NodeId:
        """This node's name."""
        return self._session.settings.node

    @property
    def members(self) -> tuple[NodeId, ...]:
        """The nodes of the cluster, as they are set; who of them counts just now, `status` says."""
        settings = self._session.settings
        return tuple(sorted(settings.peers)) or (settings.node,)

    def delete(self, stream: str) -> Ticket:
        """Delete *stream*, in the present tenure: see `Tenure.delete`.

        Raises `TenureEnded` when this node is not primary, and what every call raises: `WrongState` once
        closed or in a forked child, `WorkerFailed` once the worker has been given up.
        """
        self._session.check_usable()
        tenure = self._session.tenure
        if tenure is None:
            raise TenureEnded(f"{self.node} is not primary: a stream is deleted on the primary")
        return tenure.delete(stream)

    def _open_tickets(self) -> list[Ticket]:
        """What `flush` waits for."""
        self._session.check_process(waits="flush()")
        return self._session.open_tickets()

    def _shut(self, timeout_s: float) -> None:
        """Last commit, handover, end: what `close` does, on the caller's thread.

        Nobody does it for another: whoever comes while one is at it, or after one whom a signal's handler
        interrupted, waits for the same and returns when all has ended, at most the limit of the shortest.
        """
        session, until = self._session, time.monotonic() + bounded(timeout_s)
        if session.is_forked:
            return  # nothing here is this process's
        session.check_process(waits="close()")
        session.close_up()
        try:
            session.settled.wait_for(lambda: not session.open_tickets() or None, until - time.monotonic())

            def is_over() -> bool | None:
                if (tenure := session.tenure) is not None:  # the present one: it may be renewed (R11)
                    session.resign(tenure.epoch, None)  # again, if what was asked before has been refused
                return tenure is None or None

            session.changed.wait_for(is_over, until - time.monotonic())
        finally:
            self._keeper.stop(max(until - time.monotonic(), EXIT_TIMEOUT_S))
        atexit.unregister(self._shut)

    def __repr__(self) -> str:
        session = self._session
        if session.closing or session.failure is not None:
            state = "closed" if session.closing else "failed"
        else:
            state = "primary" if session.tenure else "backup" if session.started else "starting"
        return f"<{type(self).__name__} {self.node} {state}>"


class Replicator(FrontDoor[Tenure]):
    """A node of the cluster inside an engine. Use it in a ``with`` statement; safe to use from any thread.

    Its worker starts at once, in a child process or (``REPLICATOR_ISOLATION=thread``) in a thread. Whatever
    keeps it from starting (`SettingsError`, `StoreInUse`, `TransportError`, …) is raised by ``with`` or by
    the first call that waits. A worker that dies is started again, and the tenure ends; one that keeps
    dying is given up, and every call raises `WorkerFailed`.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, Tenure)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Replicator:
        """A replicator with the settings of the ``REPLICATOR_*`` variables; raises `SettingsError`."""
        return cls(Settings.from_env(environ))

    def tenures(self, timeout: float | None = None) -> Iterator[Tenure]:
        """Wait until this node is primary and give the tenure; then for the next one, and so on. From the
        first call on, this node may become primary.

        To ask for the next one is to be done with the present one: if it has not ended, it is handed over.
        Ends when the replicator is closed, or when no tenure has come for *timeout* seconds. To ask for one
        raises `WrongState` in a ticket's callback, as every call does that waits, and in a forked child.
        """
        return Tenures(self._session, timeout)

    def follow(self, timeout: float | None = None) -> Iterator[Checkpoint]:
        """Give committed checkpoints while this node is a backup, for an engine that keeps warm.

        Per stream the latest wins; a newer one of a stream comes only when the caller asks for the next. The
        newest of each stream stays in memory until this node is primary: its tenure then starts without
        loading it, and says of it that it `is_followed`.
        Ends as `tenures` does. One follower at a time; each begins with what is committed here.
        """
        session = self._session
        with suppress(Closed), session.following():
            while (checkpoint := session.changed.wait_for(session.take_offer, timeout)) is not None:
                yield checkpoint
                session.done_with_offer(checkpoint)

    def status(self, timeout: float = STATUS_TIMEOUT_S) -> dict[str, Any]:
        """What this node knows of itself and the others; raises `Unavailable` when no answer comes.

        ``node`` (who was asked), ``cluster``, and ``members``, each a mapping with ``node``, ``reachable``,
        and if that is true:

        - ``role`` (of `Role`), ``epoch`` promised and its ``owner``, ``leader`` (whom the elector names),
          ``active``, ``lease_s`` left (3600 s without peers), ``waiting_for`` (a founder, for whom),
          ``changing`` (members are), ``full`` (the disk is), ``durability``;
        - ``lacking``: at a primary, by backup, how many streams' newest checkpoints it lacks; None for
          one that has not told yet in this epoch what it holds;
        - ``streams``, at most 1024 by name, and ``streams_left_out``. Of each ``stream``, ``head`` (what it
          holds) and ``commit`` (what it knows to be committed), each ``epoch`` and ``sequence`` or None;
          ``deleted``, ``readable``, stored ``bytes``, ``age_s`` of the head, and how far it is behind the
          newest head of all members: ``lag_bytes``, ``lag_s``. Seconds and lags are None where they are
          not known: also of a stream that some member's report leaves out, as it may have the newest;
        - ``usage``: bytes, messages and other counts since the worker's start, for display.
        """
        session, until = self._session, time.monotonic() + bounded(timeout)
        session.check_process(waits="status()")
        session.changed.wait_for(session.is_started, timeout)
        with session.asking_status() as nonce:
            report = session.changed.wait_for(lambda: session.report(nonce), until - time.monotonic())
        return read_report(report)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all tickets that are open now have ended; whether they have within *timeout* seconds.

        How they ended, the tickets tell. Raises `WrongState` in a ticket's callback, and in a forked child.
        """
        tickets, session = self._open_tickets(), self._session
        return bool(session.settled.wait_for(lambda: all(t.done() for t in tickets) or None, timeout))

    def close(self, timeout: float | None = None) -> None:
        """Commit the last checkpoints within *timeout* seconds (``REPLICATOR_CLOSE_TIMEOUT_S``), hand over,
        and end the worker. Takes about a second longer at most; safe to call twice, from several threads, and
        again after it was interrupted: it returns when the worker has ended.

        On SIGTERM, have the handler raise SystemExit, and ``with`` does this: a handler runs in the midst of
        whatever the main thread does, and must not wait itself.
        """
        self._session.check_process()
        self._shut(self._session.settings.close_timeout_s if timeout is None else timeout)

    def __enter__(self) -> Replicator:
        try:
            self._session.changed.wait_for(self._session.is_started)
        except BaseException:
            self._shut(0)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shut(self._session.settings.close_timeout_s)


class Tenures(Iterator[Tenure]):
    """One tenure after the other; see `Replicator.tenures`."""

    def __init__(self, session: Session[Tenure], timeout: float | None) -> None:
        self._session = session
        self._timeout = timeout

    def __next__(self) -> Tenure:
        session = self._session
        session.want(link.Ready(True))
        with suppress(Closed):
            if (tenure := session.changed.wait_for(session.take_tenure, self._timeout)) is not None:
                return tenure
        raise StopIteration


def read_report(report: bytes | None) -> dict[str, Any]:
    """The worker's status; raises `Unavailable` if none has come."""
    if report is None:
        raise Unavailable("the worker does not answer; it may be starting: try again later")
    return msgspec.json.decode(report, type=dict[str, Any])
