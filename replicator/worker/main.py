"""The worker's start and end, as a child process, as a thread of the engine's, or as a node without engine.

Everything is made in one order, the store first, and closed in the reverse one; whatever cannot be made is
told to the engine in one sentence. Keys and ports are looked at before: a store that was made for a node
that could not start would belong to it all the same. In a process of its own the control thread runs the
driver and the main thread the leisurely loop; in the engine's process the calling thread runs the driver.

A worker process ignores SIGINT, SIGTERM and SIGHUP, which a terminal or a service manager sends to the whole
group: the engine has a last checkpoint to commit first, and the worker ends with the engine.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import random
import resource
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import zmq

from replicator import stderr
from replicator.adapters.curve import load_keys
from replicator.adapters.elector import PySyncObjElector
from replicator.adapters.listening import check_ports
from replicator.adapters.ports import Control, Elector
from replicator.adapters.static_elector import StaticElector
from replicator.adapters.store import LmdbStore
from replicator.adapters.zeromq import Control as ControlSockets, Transport
from replicator.core.events import Granted, Revoked
from replicator.core.founding import misfit
from replicator.core.messages import Raft
from replicator.core.replica import Replica
from replicator.errors import ReplicatorError, StoreError
from replicator.link.endpoint import FAREWELL_S, WorkerEnd
from replicator.link.lease import LeaseWords
from replicator.link.line import WorkerLine
from replicator.link.messages import Failed, Started
from replicator.model import Owner, Process
from replicator.settings import Settings
from replicator.signals import ending_signals
from replicator.worker.config import core_config
from replicator.worker.datapath import DataPath
from replicator.worker.driver import Driver, Parts, boottime
from replicator.worker.inbox import Inbox
from replicator.worker.leisure import Leisure
from replicator.worker.loader import Loader
from replicator.worker.mesh import Mesh, NoControl
from replicator.worker.scrubber import Scrubber
from replicator.worker.silence import End, Silence
from replicator.worker.standby import Standbys
from replicator.worker.status import Census
from replicator.worker.tenancy import Tenancy

log = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 0.0005  # ten times more often than usual: heartbeats wait for no other thread


def main(arguments: Sequence[str] | None = None) -> int:
    """The child process; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m replicator.worker")
    parser.add_argument("--link", required=True)
    parser.add_argument("--lease-fd", type=int, required=True)
    parser.add_argument("--engine-pid", type=int, required=True)
    parser.add_argument("--line-fds", type=int, nargs=3)
    options = parser.parse_args(arguments)
    for each in ending_signals():
        signal.signal(each, signal.SIG_IGN)
    settings = Settings.from_json(sys.stdin.buffer.readline())
    stderr.log(settings.log_level)
    _set_limits()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    words = LeaseWords.attach(options.lease_fd)
    line = None
    if options.line_fds is not None:
        line = WorkerLine(tuple(options.line_fds), options.engine_pid)
        if not line.can_read():
            line.close()
            line = None
    end = WorkerEnd(options.link, context, line)
    status = run(settings, end, words, options.engine_pid, reads_memory=line is not None)
    context.term()
    return status


def run(
    settings: Settings,
    end: WorkerEnd,
    lease_words: LeaseWords,
    engine_pid: int | None = None,
    reads_memory: bool = False,
) -> int:
    """Run a worker for the engine at the other end of the link until it says Close or is gone; 0 or 1.
    Its own *end* is closed then.

    With *engine_pid* this is the main thread of a process of its own. Without, it is a thread of the
    engine's process, whose switch interval, limits and signals are left alone.
    """
    worker = Worker(settings, end, lease_words, reads_memory=reads_memory)
    try:
        worker.run(engine_pid)
    except ReplicatorError as error:
        end.send(Failed(type(error).__name__, str(error)))
        return 1
    except Exception as error:
        log.exception("worker failed node=%s", settings.node)
        end.send(Failed("WorkerFailed", f"{type(error).__name__}: {error}"))
        return 1
    finally:
        end.close(0 if worker.engine_gone else FAREWELL_S)
    return 0


def run_node(settings: Settings) -> int:
    """Run a node without an engine in the foreground until it is asked to end; raises ReplicatorError."""
    _set_limits()
    Worker(settings, Silence(), LeaseWords.create(), has_engine=False).run()
    return 0


def _set_limits() -> None:
    """What only a process of its own may set: its switch interval, and all descriptors that it may have, so
    that strangers' connections, which need no key to be accepted, do not soon take the last."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Worker:
    """All parts of one worker, from their making to their end."""

    def __init__(
        self,
        settings: Settings,
        end: End,
        words: LeaseWords,
        *,
        has_engine: bool = True,
        reads_memory: bool = False,
    ) -> None:
        self._settings = settings
        self._end = end
        self._words = words
        self._has_engine = has_engine
        self._reads_memory = reads_memory
        self.engine_gone = False

    def run(self, engine_pid: int | None = None) -> None:
        """Make the parts, run them until the end, close them; raises what went wrong."""
        with ExitStack() as open_parts:
            parts = self._make(open_parts)
            driver = Driver(parts)
            parts.store.start(parts.inbox.deliver)
            parts.data.start(parts.inbox.deliver)
            self._end.send(Started(self._settings.node, self._reads_memory))
            if engine_pid is not None or not self._has_engine:
                self._run_process(driver, parts, engine_pid)
            else:
                self._run_thread(driver, parts)

    def _run_process(self, driver: Driver, parts: Parts, engine_pid: int | None) -> None:
        """The driver on a control thread, the leisurely loop on this one."""
        stop_signals = () if self._has_engine else ending_signals()
        leisure = Leisure(self._settings, driver, parts.inbox, parts.store, engine_pid, stop_signals)
        control = _Control(driver, leisure.end)
        gc.collect()
        gc.freeze()  # what stays for good is never looked at again
        control.start()
        try:
            leisure.run()
        finally:
            control.join()
            self.engine_gone = leisure.engine_gone
        if (error := control.error or leisure.error) is not None:
            raise error

    def _run_thread(self, driver: Driver, parts: Parts) -> None:
        """The driver on this thread, the leisurely loop on a helper."""
        leisure = Leisure(self._settings, driver, parts.inbox, parts.store)
        helper = threading.Thread(target=leisure.run, name="replicator-leisure", daemon=True)
        helper.start()
        try:
            driver.run()
        finally:
            leisure.end()
            helper.join()
        if leisure.error is not None:
            raise leisure.error

    # ── the parts, in the order of their making ──

    def _make(self, open_parts: ExitStack) -> Parts:
        settings, end, node = self._settings, self._end, self._settings.node
        close = open_parts.callback
        inbox = Inbox()
        close(inbox.close)
        keys = load_keys(settings.secret_key_file, settings.peer_keys_file, node, settings.peers)
        store = _open_store(settings)
        close(store.close)
        durable = store.durable()
        config = core_config(settings, has_engine=self._has_engine, public_key=keys.public if keys else "")
        if (reason := misfit(durable, config)) is not None:
            raise StoreError(reason)
        transport = Transport(settings, keys) if settings.peers else None
        control: Control = NoControl()
        if transport is not None:
            close(transport.close)
            control = ControlSockets(transport)
            close(control.close)
        data = DataPath(settings, durable.incarnation, store, transport)
        close(data.close)
        loader = Loader(data, inbox.deliver)
        close(loader.close)
        scrubber = Scrubber(store, inbox.deliver, settings.scrub_interval_s)
        close(scrubber.close)
        me = Owner(node, durable.incarnation, Process(os.urandom(16)))
        core = Replica(config, durable, Process(me.process), boottime(), random.random)
        mesh = Mesh(control, settings.cluster, me, config.peers, core)
        elector = _elector(settings, mesh, inbox)
        close(elector.close)
        standbys = Standbys(end, loader, inbox.deliver, core.status)
        tenancy = Tenancy(end, self._words, loader, inbox.deliver, standbys, settings.acks)
        census = Census(settings, core, elector, store, data, mesh)
        return Parts(settings, inbox, end, store, data, mesh, elector, core, tenancy, standbys, census)


class _Control(threading.Thread):
    """The control thread of a process of its own; what the driver raises is kept for the main thread."""

    def __init__(self, driver: Driver, ended: Callable[[], None]) -> None:
        super().__init__(name="replicator-control")
        self._driver = driver
        self._ended = ended
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._driver.run()
        except BaseException as error:
            self.error = error
        finally:
            self._ended()


def _open_store(settings: Settings) -> LmdbStore:
    return LmdbStore.open(
        settings.data_dir,
        cluster=settings.cluster,
        node=settings.node,
        durability=settings.durability,
        lease_max_s=settings.lease_max_s,
        keep=settings.keep,
        map_bytes_initial=settings.map_bytes_initial,
        writer_queue_bytes_max=settings.writer_queue_bytes_max,
        transaction_bytes_max=settings.transaction_bytes_max,
        disk_reserve_bytes=settings.disk_reserve_bytes,
        check=lambda: check_ports(settings),  # not before: whoever held the store may still hold the ports
    )


def _elector(settings: Settings, mesh: Mesh, inbox: Inbox) -> Elector:
    """PySyncObj among peers; a node alone is its own leader."""
    granted, revoked = partial(inbox.deliver, Granted()), partial(inbox.deliver, Revoked())
    if settings.standalone:
        return StaticElector(settings.node, on_grant=granted, on_revoke=revoked)
    return PySyncObjElector(
        settings.node,
        frozenset(settings.peers),
        send=lambda to, payload: mesh.send(to, Raft(payload)),
        on_grant=granted,
        on_revoke=revoked,
        election_timeout_min_s=settings.election_timeout_min_s,
        election_timeout_max_s=settings.election_timeout_max_s,
        append_interval_s=settings.raft_append_interval_s,
        leader_fallback_s=settings.leader_fallback_s,
        tick_interval_s=settings.elector_tick_interval_s,
    )
