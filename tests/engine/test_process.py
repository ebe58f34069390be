"""A worker in a real child process: its start, its death, and what is left behind: nothing."""

from __future__ import annotations

import gc
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from replicator import (
    Committed,
    CommitUnknown,
    Replicator,
    Settings,
    StoreError,
    StoreInUse,
    Tenure,
    WorkerFailed,
)
from replicator.engine import life
from replicator.engine.session import Session
from tests.engine.engine_process import run_engine
from tests.engine.fake_worker import DEADLINE_S, soon

LARGE = 8 << 20


def first_tenure(replicator: Replicator) -> Tenure:
    return next(iter(replicator.tenures(DEADLINE_S)))


def ended(pid: int) -> bool:
    """Whether the process has ended and was reaped."""
    return not Path("/proc", str(pid)).exists()


def test_a_child_serves_and_leaves_nothing_behind(child: Callable[..., Settings], tmp_path: Path) -> None:
    """Payloads arrive, commits come back, the lease word is shared; after close there is no process, no
    socket file, and the data directory was the owner's alone from the start."""
    with Replicator(child("serve")) as replicator:
        assert list((tmp_path / "data").iterdir()) == []  # connected: the socket needs no name any more
        assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
        tenure = first_tenure(replicator)
        assert tenure.active
        payload = bytearray(LARGE)
        ticket = tenure.submit("s", {"a": payload, "b": b"small"})
        outcome = ticket.result(DEADLINE_S)
        assert isinstance(outcome, Committed)
        assert (outcome.stages["a"], outcome.stages["b"]) == (LARGE, 5)
        assert ticket.released.wait(DEADLINE_S)
        payload.clear()
        status = replicator.status()
        assert status["session"] == status["pid"]  # the terminal's Ctrl-C does not reach it
    assert ended(status["pid"])
    assert not tenure.active


def test_a_killed_child_ends_the_tenure_at_once(child: Callable[..., Settings]) -> None:
    """The engine learns it by the process's end, not by a silence; the next worker brings a new tenure."""
    with Replicator(child("serve")) as replicator:
        tenure = first_tenure(replicator)
        pid = replicator.status()["pid"]
        os.kill(pid, signal.SIGKILL)
        killed_at = time.monotonic()
        assert tenure.wait_ended(DEADLINE_S)
        assert time.monotonic() - killed_at < 1
        assert not tenure.active
        assert tenure.ended_reason == "the worker was killed by SIGKILL"
        soon(lambda: ended(pid))
        assert isinstance(first_tenure(replicator).submit("s", b"").result(DEADLINE_S), Committed)


def test_every_worker_looks_where_the_first_one_did(
    child: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that changes its directory takes a relative path of its settings along for none of them."""
    settings = child("serve")
    monkeypatch.chdir(settings.data_dir.parent)
    relative = replace(settings, data_dir=Path(settings.data_dir.name))
    with Replicator(relative) as replicator:
        tenure = first_tenure(replicator)
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        os.kill(replicator.status()["pid"], signal.SIGKILL)
        assert tenure.wait_ended(DEADLINE_S)
        first_tenure(replicator)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_one_that_opens_while_another_closes_has_a_socket_of_its_own(child: Callable[..., Settings]) -> None:
    """The end of the one before takes nothing from it, on the same data directory in the same process."""
    settings = child("serve")
    with Replicator(settings) as before:
        first_tenure(before)
        after = Replicator(settings)
        before.close(0)
        with after:
            assert isinstance(first_tenure(after).submit("s", b"").result(DEADLINE_S), Committed)


def test_a_child_that_dies_leaves_outcomes_unknown(
    child: Callable[..., Settings], capfd: pytest.CaptureFixture[str]
) -> None:
    """What it wrote before it died is on the engine's standard error."""
    with Replicator(child("serve")) as replicator:
        tenure = first_tenure(replicator)
        ticket = tenure.submit("s", b"die")
        with pytest.raises(CommitUnknown, match="the worker exited with status 1;"):
            ticket.result(DEADLINE_S)
        assert ticket.released.wait(DEADLINE_S)
    assert "died as it was told" in capfd.readouterr().err


def test_a_child_that_cannot_start_is_given_up(
    child: Callable[..., Settings], capfd: pytest.CaptureFixture[str]
) -> None:
    """After the set number of restarts `tenures` raises WorkerFailed with the child's last lines."""
    replicator = Replicator(child("crash", restarts=2))
    with pytest.raises(WorkerFailed, match=r"given up: the worker exited with status 1:\s+no such library"):
        list(replicator.tenures(DEADLINE_S))
    replicator.close()
    assert capfd.readouterr().err.count("no such library: libexample.so") == 3


def test_what_is_no_string_in_the_module_path_counts_for_nothing(
    child: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with an import: a path, that somebody took for an entry, does no harm."""
    monkeypatch.setattr(sys, "path", [*sys.path, Path("/no/such/place"), b"/nor/this"])
    with Replicator(child("serve")):
        pass


def test_a_child_says_why_it_refuses(child: Callable[..., Settings]) -> None:
    """Its word arrives although it exits right after it."""
    with pytest.raises(StoreInUse, match="process 7 has it open"), Replicator(child("refuse")):
        pass


@pytest.mark.parametrize("role", ["refuse", "hang"])
def test_a_start_that_fails_leaves_nothing_behind(
    child: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    """Whether the worker refuses or Ctrl-C comes: `with` has opened nothing then, as often as it is tried."""

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    if role == "hang":
        monkeypatch.setattr(Session, "is_started", interrupt)

    def fail() -> tuple[int, int]:
        with pytest.raises((StoreInUse, KeyboardInterrupt)), Replicator(child(role)):
            pass
        gc.collect()
        return len(os.listdir("/proc/self/fd")), sum(isinstance(each, Session) for each in gc.get_objects())

    first = fail()
    assert fail() == first


def test_a_child_that_never_starts_is_killed(
    child: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start has a limit, too; and close() need not wait for it."""
    monkeypatch.setattr(life, "START_TIMEOUT_S", 0.2)
    replicator = Replicator(child("hang", restarts=0))
    with pytest.raises(WorkerFailed, match="did not start or end in time"):
        replicator.status(DEADLINE_S)
    replicator.close()
    monkeypatch.setattr(life, "START_TIMEOUT_S", 60)
    replicator = Replicator(child("hang"))
    began_at = time.monotonic()
    replicator.close()
    assert time.monotonic() - began_at < 1


def test_a_missing_interpreter_is_said_at_once(
    child: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One clear sentence, in the call that waits first."""
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(WorkerFailed, match="cannot start a worker with /no/such/python"):
        Replicator(child("serve", restarts=0)).status()


@pytest.mark.parametrize("name", ["replicator-link", "replicator-worker-log", "replicator-worker"])
def test_where_no_thread_can_be_started_nothing_is_left_behind(
    child: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The limit of processes is reached once the worker is one: it is ended, and all that was opened for it
    is closed, whichever thread it is."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        start(thread)

    def fail() -> int:
        settings = replace(child("serve"), isolation="thread" if name == "replicator-worker" else "process")
        with pytest.raises((WorkerFailed, RuntimeError), match="can't start new"), Replicator(settings):
            pass
        gc.collect()  # what memory was mapped is unmapped with it
        return len(os.listdir("/proc/self/fd"))

    monkeypatch.setattr(threading.Thread, "start", refuse)
    first = fail()
    assert fail() == first
    assert not any(path.read_text() for path in Path("/proc/self/task").glob("*/children"))


def test_where_no_descriptor_is_free_nothing_is_left_behind(
    child: Callable[..., Settings], tmp_path: Path
) -> None:
    """Wherever in the start the limit strikes: the worker that is started next is none the worse for it."""
    child("hang")
    code = """
import resource
from replicator import WorkerFailed
from replicator.link.lease import LeaseWords

limits = resource.getrlimit(resource.RLIMIT_NOFILE)
words, found = LeaseWords.create(), None
before, failures = os.listdir("/proc/self/fd"), 0
while found is None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) - 1 + failures, limits[1]))
    try:
        found = host.ChildProcess(settings, "ipc:///no/such/link", words)
    except WorkerFailed as error:
        assert "Too many open files" in str(error), error
        failures += 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert found or os.listdir("/proc/self/fd") == before, failures
found.stop()
del found
print(failures > 9, os.listdir("/proc/self/fd") == before)
"""
    assert run_engine(code, tmp_path) == "True True\n"


def test_a_data_directory_that_cannot_be_made_is_said(child: Callable[..., Settings], tmp_path: Path) -> None:
    """By its name, at the first call; nothing is started."""
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StoreError, match="cannot be used: Not a directory"),
        Replicator(child("serve", data_dir=tmp_path / "file" / "data")),
    ):
        pass


def test_a_data_directory_that_is_a_file_is_said(child: Callable[..., Settings], tmp_path: Path) -> None:
    """As what it is: that something of its name is there is what one expects of a directory."""
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StoreError, match="file cannot be used: it is a file"),
        Replicator(child("serve", data_dir=tmp_path / "file")),
    ):
        pass


@pytest.mark.parametrize(
    ("flags", "reason"), [(0, "Permission denied"), (os.ST_RDONLY, "Read-only file system")]
)
def test_a_data_directory_that_may_not_be_written_is_said(
    child: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: int, reason: str
) -> None:
    """As what it is, not as an address that cannot be used."""
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=flags))
    with (
        pytest.raises(StoreError, match=f"data directory {tmp_path} cannot be used: {reason}"),
        Replicator(child("serve", data_dir=tmp_path)),
    ):
        pass


def test_a_long_path_and_stale_sockets_do_no_harm(child: Callable[..., Settings], tmp_path: Path) -> None:
    """A socket's path is short for the kernel however long the directory's is; sockets of engines that
    were killed are swept."""
    directory = tmp_path / ("long" * 30) / ("er" * 60)
    directory.mkdir(parents=True)
    (directory / "link-999999999-1.sock").write_text("")
    with Replicator(child("serve", data_dir=directory)) as replicator:
        assert first_tenure(replicator).active
        assert list(directory.iterdir()) == []


def test_a_forked_child_leaves_without_a_trace(child: Callable[..., Settings], tmp_path: Path) -> None:
    """It leaves the with statement and the interpreter as if there were no replicator; its parent's goes
    on."""
    child("serve")
    code = """
with Replicator(settings) as replicator:
    tenure = next(iter(replicator.tenures()))
    child = os.fork()
    if child == 0:
        sys.exit(7)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(status, type(tenure.submit("s", b"").result(10)).__name__, tenure.active)
"""
    assert run_engine(code, tmp_path) == "7 Committed True\n"


def test_a_forked_child_may_have_a_replicator_of_its_own(
    child: Callable[..., Settings], tmp_path: Path
) -> None:
    """Whatever lock a thread of its parent held that moment."""
    child("serve")
    code = """
import signal
from replicator.engine.ticket import Latch

with Latch.lock:
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        with Replicator(settings):
            pass
        os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run_engine(code, tmp_path) == "7\n"


def test_only_the_engines_program_keeps_its_worker(child: Callable[..., Settings], tmp_path: Path) -> None:
    """The pipe by which it does is closed in a forked child at once, and by an exec as by any other end."""
    child("serve")
    code = """
import fcntl

def pipes():
    found = 0
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if fd > 2 and os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:"):
                found += fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
                assert not os.get_inheritable(fd)
        except OSError:  # the one that lists them
            pass
    return found

with Replicator(settings) as replicator:
    child = os.fork()
    if child == 0:
        os._exit(pipes())
    print(pipes(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run_engine(code, tmp_path) == "1 0\n"


def test_an_engine_that_just_ends_hands_over(child: Callable[..., Settings], tmp_path: Path) -> None:
    """Without `with` or close(): the end of the interpreter closes what is open, and leaves no process."""
    child("serve")
    code = """
replicator = Replicator(settings)
ticket = next(iter(replicator.tenures())).submit("s", b"")
ticket.add_done_callback(lambda done: print(done, flush=True))
print(replicator.status()["pid"], flush=True)
"""
    pid, ticket = sorted(run_engine(code, tmp_path).splitlines(), key=len)
    assert ticket == "<Ticket s (1, 1) committed>"
    assert ended(int(pid))


def test_no_descriptors_are_lost(child: Callable[..., Settings]) -> None:
    """Replicators come and go, and what they opened goes with them."""

    def use() -> int:
        with Replicator(child("serve")) as replicator:
            first_tenure(replicator).submit("s", b"").result(DEADLINE_S)
        return len(os.listdir("/proc/self/fd"))

    first = use()
    soon(lambda: use() <= first)
