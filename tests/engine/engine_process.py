"""An engine in a process of its own, with a child that plays the role that FAKE_CHILD says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PREAMBLE = """
import os, sys
from pathlib import Path
from replicator import Replicator, Settings
from replicator.engine import host

host.WORKER_MODULE = "fake_child"
settings = Settings(data_dir=Path(sys.argv[1]), worker_restarts_max=int(sys.argv[2]))
"""


def run_engine(code: str, data_dir: Path, restarts: int = 1) -> str:
    """What an engine's process prints; it must end well, without a word on standard error."""
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    command = [sys.executable, "-c", PREAMBLE + code, str(data_dir), str(restarts)]
    env = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout
