"""The command line, as an operator uses it: ``python -m replicator …`` with a node's variables."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

TIMEOUT_S = 30.0

PROGRAM = (sys.executable, "-m", "replicator")


def run(*arguments: str, environ: Mapping[str, str]) -> bytes:
    """Run a command that has to succeed; what it has printed."""
    done = subprocess.run(
        [*PROGRAM, *arguments], env=dict(environ), capture_output=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout
