"""Descriptors that keep clear of the standard streams' numbers."""

from __future__ import annotations

import os
import subprocess
import sys

from replicator.descriptor import above_standard

PREAMBLE = """
import os
from replicator.descriptor import above_standard

out = os.dup(1)
os.closerange(0, 3)
"""


def run(code: str) -> str:
    """What a process without standard streams says on its way out."""
    command = [sys.executable, "-c", PREAMBLE + code + "os.write(out, repr(found).encode())"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_number_that_is_nobodys_is_kept() -> None:
    """Nothing is opened or closed then."""
    fds = os.pipe()
    assert above_standard(*fds) == fds
    for fd in fds:
        os.close(fd)


def test_a_standard_number_is_given_up() -> None:
    """What had it has another then, which no child inherits; the two ends stay who they are."""
    code = """
reader, writer = above_standard(*os.pipe())
os.write(writer, b"through")
found = os.read(reader, 9), reader > 2, writer > 2, os.get_inheritable(reader), os.listdir("/proc/self/fd")
os.close(reader)
os.close(writer)
"""
    through, *rest = eval(run(code))
    assert (through, rest[:3]) == (b"through", [True, True, False])
    assert sorted(map(int, rest[3])) == [0, 3, 4, 5]  # the one that lists them, `out`, and the two


def test_where_there_is_no_other_number_all_are_closed() -> None:
    """The limit is reached: whoever asked has opened nothing."""
    code = """
import resource

resource.setrlimit(resource.RLIMIT_NOFILE, (5, 5))
try:
    above_standard(*os.pipe())
except OSError as error:
    found = error.errno, os.listdir("/proc/self/fd")
"""
    error, left = eval(run(code))
    assert (error, sorted(map(int, left))) == (24, [0, 3])


def test_what_an_engine_opens_for_its_worker_keeps_clear_of_them() -> None:
    """The lease words, the direct line, and the bell that wakes the link's thread."""
    code = """
from replicator.bell import Bell
from replicator.link.lease import LeaseWords
from replicator.link.line import EngineLine

line = EngineLine()
found = min(LeaseWords.create().fd, Bell().fileno(), line.fileno(), *line.worker_fds) > 2
"""
    assert run(code) == "True"
