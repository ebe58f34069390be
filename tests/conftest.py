"""What holds for all tests: options, a table of each part's time, and nothing left running or lying about."""

from __future__ import annotations

import os
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.budget import Budget

MARK = "PYTEST_RUN_OF_REPLICATOR"  # no REPLICATOR_ variable: tests take those out of what they start
GRACE_S = 5.0
MEMORY = Path("/dev/shm")  # where some tests work, under names with their process's id

budget = Budget()

# No example is too slow on a noisy machine, and a run for CI is the same each time.
hypothesis.settings.register_profile("replicator", deadline=None, derandomize=os.environ.get("CI") == "true")
hypothesis.settings.load_profile("replicator")

# A shell that starts this in the background has SIGINT ignored, `nohup` has SIGHUP, and so would all that
# the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """What a command installs that runs in this process is neither left to the next test nor to what that
    starts: a signal that is ignored stays so in a child."""
    ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(each) for each in ending]
    yield
    for each, handler in zip(ending, before, strict=True):
        signal.signal(each, handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--record` writes the transcripts anew instead of comparing them."""
    parser.addoption("--record", action="store_true", help="record the transcripts in tests/transcripts anew")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count a test's time for the part that it belongs to."""
    budget.add(report.nodeid, report.when, report.duration)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Close with the time that each part took."""
    if lines := budget.lines():
        terminalreporter.section("time of each part")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    """Every process that a test has started, directly or not, has ended when the last test has."""
    os.environ[MARK] = uuid.uuid4().hex
    yield
    deadline = time.monotonic() + GRACE_S
    while (left := _marked_processes(os.environ[MARK])) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == [], "left running"


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whoever makes temporary files, here or in a process that a test starts, has removed them at the end.

    What pytest keeps on purpose, `tmp_path` and its like, lies elsewhere.
    """
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    directory = tmp_path_factory.mktemp("t")
    os.environ["TMPDIR"] = tempfile.tempdir = str(directory)
    yield
    left = [*directory.iterdir(), *MEMORY.glob(f"*-{os.getpid()}-*")]
    assert left == [], "left behind"


def _marked_processes(mark: str) -> list[str]:
    """The command lines of all other processes that carry the mark in their environment."""
    found = []
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit() or int(directory.name) == os.getpid():
            continue
        try:
            environ = (directory / "environ").read_bytes()
            command = (directory / "cmdline").read_bytes()
        except OSError:
            continue
        if f"{MARK}={mark}".encode() in environ.split(b"\0"):
            found.append(f"{directory.name} {command.replace(bytes(1), b' ').decode(errors='replace')}")
    return found
