"""What ends a program in order, and what is left ignored."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(("before", "expected"), [([], True), (["nohup"], False)])
def test_a_closed_terminal_ends_what_nohup_does_not_protect(before: list[str], expected: bool) -> None:
    """`nohup` is how somebody asks for a program that outlives its terminal."""
    words = "import signal; from replicator.signals import ending_signals as those; "
    words += "print(signal.SIGHUP in those(), signal.SIGTERM in those())"
    said = subprocess.run([*before, sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert said.stdout == f"{expected} True\n"
