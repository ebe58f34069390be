"""An engine for the tests of sizes: submits one checkpoint of each size, or digests what is restored of it.

Usage: ``sizes_script.py LOG SIZE…`` (bytes). A size's payload is always the same, no two chunks of it are.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from pathlib import Path

from blake3 import blake3

from replicator import Replicator, Tenure, TenureEnded
from tests.integration.engine_script import Log, end

BLOCK_BYTES = 2**20
STAMP_EVERY_BYTES = 2**16
STAMP_BYTES = 8


def payload_of(size: int) -> bytearray:
    """Bytes that do not compress, with their own offsets in them."""
    block = random.Random(size).randbytes(min(size, BLOCK_BYTES))
    payload = bytearray(size)
    for start in range(0, size, BLOCK_BYTES):
        payload[start : start + BLOCK_BYTES] = block[: size - start]
    for start in range(0, size - STAMP_BYTES, STAMP_EVERY_BYTES):
        payload[start : start + STAMP_BYTES] = start.to_bytes(STAMP_BYTES)
    return payload


def serve(tenure: Tenure, sizes: list[int], log: Log) -> None:
    """Restore what there is, submit what there is not."""
    for size in sizes:
        stream = f"size-{size}"
        checkpoint = tenure.restored.take(stream)
        if checkpoint is not None:
            restored = checkpoint.payload
            assert isinstance(restored, bytes)
            log.write("restored", epoch=tenure.epoch, size=len(restored), digest=blake3(restored).hexdigest())
        else:
            payload = payload_of(size)
            began = time.monotonic()
            tenure.submit(stream, payload).result()
            took_s = time.monotonic() - began
            digest = blake3(payload).hexdigest()
            log.write("committed", epoch=tenure.epoch, size=size, digest=digest, took_s=took_s)


def main() -> None:
    """Run until SIGTERM."""
    log, sizes = Log(Path(sys.argv[1])), list(map(int, sys.argv[2:]))
    signal.signal(signal.SIGTERM, end)
    with Replicator.from_env() as replicator:
        log.write("started")
        for tenure in replicator.tenures():
            log.write("tenure", epoch=tenure.epoch)
            try:
                serve(tenure, sizes, log)
                log.write("done", epoch=tenure.epoch)
            except TenureEnded as error:
                log.write("unknown", epoch=tenure.epoch, error=str(error))
            tenure.wait_ended()
            log.write("ended", epoch=tenure.epoch, reason=tenure.ended_reason)


if __name__ == "__main__":
    main()
