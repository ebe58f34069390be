"""A load of nobody's: use a share of a core in bursts, as replication would (arguments: share, interval).

In each interval it compresses and hashes blocks of memory until it has used its share of processor time,
then sleeps. It says a line when it begins, and ends when standard input does.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

from blake3 import blake3
from lz4.block import compress

from bench.kit.payloads import KIB, MIB, realistic

BLOCK_BYTES = 256 * KIB


def main() -> int:
    """Burn until nobody listens."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is for whoever measures
    share, interval_s = map(float, sys.argv[1:3])
    memory, block = memoryview(realistic(16 * MIB)), 0
    print("burning", flush=True)
    while not select.select([0], [], [], 0)[0] or os.read(0, 1):
        began, used = time.monotonic(), time.process_time()
        while time.process_time() < used + share * interval_s:
            start = block * BLOCK_BYTES % len(memory)
            blake3(memory[start : start + BLOCK_BYTES]).digest()
            compress(memory[start : start + BLOCK_BYTES])
            block += 1
        time.sleep(max(0.0, began + interval_s - time.monotonic()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
