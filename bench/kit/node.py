"""The process of a node without an engine: settings come on the first line of standard input.

It ends when that input does. Whoever started it holds the other end of the pipe, so it never outlives the
measurement, not even one that was killed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from replicator import stderr
from replicator.settings import Settings
from replicator.worker.main import run_node


def _end_with_the_pipe() -> None:
    while os.read(0, 2**16):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    """Run until standard input ends."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return 0
        line += byte
    settings = Settings.from_json(bytes(line))
    stderr.log(settings.log_level)
    threading.Thread(target=_end_with_the_pipe, daemon=True).start()
    return run_node(settings)


if __name__ == "__main__":
    sys.exit(main())
