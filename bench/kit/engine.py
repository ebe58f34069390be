"""The process of a node with an engine that only restores: it says when it has the bytes of all, and what.

Settings come on the first line of standard input, as for `bench.kit.node`. From the line "go" on it may
become primary. Each tenure is a line of JSON on standard output; it ends when standard input does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

from replicator import Replicator, Settings


def main() -> int:
    """Serve until standard input ends."""
    settings = Settings.from_json(sys.stdin.buffer.readline())
    with Replicator(settings) as replicator:
        if sys.stdin.buffer.readline() != b"go\n":
            return 0
        threading.Thread(target=serve, args=(replicator,), daemon=True).start()
        while os.read(0, 1):
            pass
    return 0


def serve(replicator: Replicator) -> None:
    """Say of each tenure what it has restored, and since when all of it is here."""
    for tenure in replicator.tenures():
        read_bytes = sum(len(tenure.restored[stream].parts[""]) for stream in tenure.restored)
        at = time.clock_gettime(time.CLOCK_BOOTTIME)
        found = {"at": at, "streams": len(tenure.restored), "bytes": read_bytes}
        print(json.dumps(found | {"instants": tenure.instants}), flush=True)
        tenure.wait_ended()


if __name__ == "__main__":
    sys.exit(main())
