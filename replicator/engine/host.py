"""Where a worker lives: in a child process, or in a thread of the engine's process.

Both are started with the link's address, the lease words and the settings, both have a descriptor that
becomes readable when the worker has ended, and both can say why it did.

A child is spawned, never forked, inherits nothing but the descriptors of the lease words and of the direct
line, and is in a session of its own, so that the terminal's Ctrl-C reaches the engine alone, which then hands
over in good order. It finds modules where the engine does. It gets its settings by a pipe that stays open for
as long as the engine's program runs, and ends when that ends. What it writes goes on to the engine's standard
error, or is lost if that takes no more; the last lines are kept for the case that it dies before it can say
why.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from typing import Protocol

from replicator import stderr
from replicator.descriptor import above_standard
from replicator.engine.fork import guard
from replicator.errors import WorkerFailed
from replicator.link.endpoint import EngineEnd, WorkerEnd
from replicator.link.lease import LeaseWords
from replicator.link.line import EngineLine
from replicator.settings import Settings

log = logging.getLogger(__name__)

WORKER_MODULE = "replicator.worker"
LAST_LINES_MAX = 20
END_TIMEOUT_S = 0.5


class Host(Protocol):
    """A started worker. *line* leads to it past the link, if there is such a line."""

    line: EngineLine | None

    def fileno(self) -> int:
        """Readable when the worker has ended."""

    def why(self) -> str:
        """How it ended, in one sentence, and its last lines."""

    def stop(self) -> bool:
        """See that it ends now, and clear up after it; whether it has."""


class ChildProcess:
    """A worker as a child process: ``python -m replicator.worker``, its settings on standard input."""

    def __init__(
        self, settings: Settings, address: str, words: LeaseWords, keep_fds: tuple[int, ...] = ()
    ) -> None:
        if not sys.executable:
            raise WorkerFailed("no Python is known to start a worker with: use REPLICATOR_ISOLATION=thread")
        self._lines: deque[bytes] = deque(maxlen=LAST_LINES_MAX)
        self._reader = threading.Thread(target=self._pass_on, name="replicator-worker-log", daemon=True)
        self._lifeline = -1  # closed by an exec, as by any end; nobody else may have it
        guard(self)
        with contextlib.ExitStack() as undo:  # in this order also when it stops
            try:
                self.line: EngineLine | None = self._start(settings, address, words, keep_fds, undo)
            except Exception as error:  # too many descriptors, processes or threads
                raise WorkerFailed(f"cannot start a worker with {sys.executable}: {error}") from error
            self._undo = undo.pop_all()

    def _start(
        self,
        settings: Settings,
        address: str,
        words: LeaseWords,
        keep_fds: tuple[int, ...],
        undo: contextlib.ExitStack,
    ) -> EngineLine:
        line = EngineLine()
        undo.callback(line.close)
        command = [sys.executable, "-P", "-m", WORKER_MODULE, "--link", address]
        command += ["--lease-fd", str(words.fd), "--engine-pid", str(os.getpid())]
        command += ["--line-fds", *map(str, line.worker_fds)]
        undo.callback(self._let_go)
        stdin, self._lifeline = above_standard(*os.pipe())
        with open(stdin, "rb"):
            output, stdout = above_standard(*os.pipe())
            self._output = os.fdopen(output, "rb")
            undo.callback(self._close_output)
            with open(stdout, "wb"):
                self._child = subprocess.Popen(
                    command,
                    stdin=stdin,
                    stdout=stdout,
                    stderr=subprocess.STDOUT,
                    pass_fds=(words.fd, *line.worker_fds, *keep_fds),
                    start_new_session=True,
                    env={**os.environ, "PYTHONPATH": _module_path()},
                )
        undo.callback(self._kill)
        (self._pidfd,) = above_standard(os.pidfd_open(self._child.pid))
        undo.callback(os.close, self._pidfd)
        line.admit(self._child.pid)
        self._reader.start()
        with contextlib.suppress(BrokenPipeError), open(self._lifeline, "wb", closefd=False) as pipe:
            pipe.write(settings.to_json() + b"\n")
        return line

    def fileno(self) -> int:
        return self._pidfd

    def why(self) -> str:
        status = self._child.wait()
        self._reader.join(END_TIMEOUT_S)
        how = f"exited with status {status}" if status >= 0 else f"was killed by {_signal_name(-status)}"
        lines = b"".join(self._lines).decode(errors="replace").strip()
        return f"the worker {how}{lines and ':'}\n{lines}".strip()

    def stop(self) -> bool:
        self._undo.close()
        return True

    def disown(self) -> None:
        """In a forked child: the worker is the parent's, and lives no longer than that."""
        self._let_go()

    def _let_go(self) -> None:
        lifeline, self._lifeline = self._lifeline, -1
        if lifeline >= 0:
            os.close(lifeline)

    def _kill(self) -> None:
        self._child.kill()  # a worker that is alive here did not end when it was told to
        self._child.wait()

    def _close_output(self) -> None:
        if self._reader.ident is None:  # it was never started
            self._output.close()
        else:
            self._reader.join(END_TIMEOUT_S)

    def _pass_on(self) -> None:
        with self._output as lines:
            for line in lines:
                self._lines.append(line)
                stderr.write(line)


def _module_path() -> str:
    """Where this process finds modules: what is no string there counts for nothing, as with an import."""
    return os.pathsep.join(entry or os.getcwd() for entry in sys.path if isinstance(entry, str))


def _signal_name(number: int) -> str:
    return next((known.name for known in signal.Signals if known == number), f"signal {number}")


class WorkerThread:
    """A worker as a thread; it stops when the link says `Close`, and cannot be killed.

    The link stands before the thread runs, and *engine_end* for as long as it does: it may be busy with its
    imports when it is told to stop, and is to hear of it all the same.
    """

    def __init__(self, settings: Settings, address: str, words: LeaseWords, engine_end: EngineEnd) -> None:
        self.line: EngineLine | None = None
        self._engine_end = engine_end
        arguments = (settings, WorkerEnd(address, engine_end.context), words)
        (self._ended,) = above_standard(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        self._words = ""
        self._is_left = False  # it clears up after itself
        self._thread = threading.Thread(None, self._run, "replicator-worker", arguments, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            os.close(self._ended)
            raise WorkerFailed(f"cannot start a worker's thread: {error}") from error

    def fileno(self) -> int:
        return self._ended

    def why(self) -> str:
        return f"the worker's thread ended{self._words and ':'}\n{self._words}".strip()

    def stop(self) -> bool:
        self._thread.join(END_TIMEOUT_S)
        if self._thread.is_alive():
            log.error("the worker's thread does not end; it is left behind")
            self._is_left = True
            return False
        os.close(self._ended)
        return True

    def _run(self, settings: Settings, end: WorkerEnd, words: LeaseWords) -> None:
        try:
            from replicator.worker.main import run

            status = run(settings, end, words)
            self._words = f"exit status {status}" if status else ""
        except BaseException:
            self._words = traceback.format_exc()
        finally:
            os.eventfd_write(self._ended, 1)
            if self._is_left:
                self._engine_end.close()
                os.close(self._ended)
