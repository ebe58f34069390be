"""The tie to the director: a process of the demo ends when its standard input does.

That is a pipe whose other end only the director holds, so it ends however the director does.
"""

from __future__ import annotations

import os
import signal
import threading

STANDARD_INPUT = 0


def end_with_director() -> None:
    """From now on, end in order (SIGTERM) once the director has closed the pipe or is gone itself."""
    threading.Thread(target=_wait, name="demo-tie", daemon=True).start()


def _wait() -> None:
    # Not sys.stdin: its lock, held by this thread, would be fatal to an interpreter that ends.
    while os.read(STANDARD_INPUT, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
