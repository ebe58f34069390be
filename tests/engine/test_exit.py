"""The interpreter's exit: Python ends its helpers, and ZeroMQ its own, before an engine need have ended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LEFT_OPEN = """
from replicator import Replicator
replicator = Replicator.from_env()
tenure = next(replicator.tenures())
for number in range(3):
    ticket = tenure.submit("s", {str(part): bytes(1000) for part in range(1500)}, meta=b"%d" % number)
"""
IN_A_THREAD = """
import os, threading
from replicator import Replicator
started = threading.Event()
def engine():
    with Replicator.from_env() as replicator:
        tenure = next(replicator.tenures())
        started.set()
        threading.main_thread().join()
        for number in range(3):
            tenure.submit("s", os.urandom(1_000_000), meta=b"%d" % number).result(20)
threading.Thread(target=engine).start()
started.wait()
"""
NEWEST = """
from replicator import Replicator
with Replicator.from_env() as replicator:
    print(next(replicator.tenures()).restored["s"].meta)
"""


@pytest.mark.parametrize("program", [LEFT_OPEN, IN_A_THREAD], ids=["left-open", "in-a-thread"])
def test_what_was_submitted_last_commits(program: str, tmp_path: Path) -> None:
    """With the worker in a thread: a program's end, or its main thread's, loses nothing, and says nothing."""
    environ = os.environ | {"REPLICATOR_DATA_DIR": str(tmp_path / "data"), "REPLICATOR_ISOLATION": "thread"}

    def run(script: str) -> tuple[int, str, str]:
        words = [sys.executable, "-c", script]
        done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, done.stdout, done.stderr if "Traceback" in done.stderr else ""

    assert run(program) == (0, "", "")
    assert run(NEWEST) == (0, "b'2'\n", "")
