"""States to checkpoint: what a stream engine's keyed state looks like, and bytes that do not compress.

Each maker gives a `bytearray` of exactly the size asked for. `freshen` changes a few bytes of every 4 KiB,
so that no chunk of the next checkpoint is known already, however small a store cuts its chunks.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable
from typing import Literal

Kind = Literal["realistic", "incompressible"]

KIB, MIB = 2**10, 2**20
SIZES = {
    "1 KB": 1_000,
    "64 KB": 64 * KIB,
    "1 MB": MIB,
    "16 MB": 16 * MIB,
    "64 MB": 64 * MIB,
    "256 MB": 256 * MIB,
}
BLOCK_BYTES = 4 * MIB  # far beyond what any compressor here looks back
STAMP_EVERY_BYTES = 4 * KIB
STAMP_BYTES = 8


def realistic(size: int, seed: int = 1) -> bytearray:
    """Keyed state: a table of keys with counters, sums and times. LZ4 makes about 2.25 times less of it."""
    chance = random.Random(seed)
    wanted = min(size, BLOCK_BYTES)
    block = bytearray()
    now_ms, number = 1_700_000_000_000, 0
    while len(block) < wanted:
        number += chance.randrange(1, 5)
        now_ms += chance.randrange(0, 2_000)
        count, reading = chance.randrange(1, 100_000), round(chance.gauss(20, 8) * 4) / 4
        block += b"sensor-%08d/temperature\0" % number
        block += struct.pack("<Iddd", count, reading, reading * count, reading + 1.5)
        block += struct.pack("<QQd", now_ms, now_ms - count, reading)
    return _tile(block, size)


def incompressible(size: int, seed: int = 1) -> bytearray:
    """Random bytes."""
    return _tile(bytearray(random.Random(seed).randbytes(min(size, BLOCK_BYTES))), size)


MAKERS: dict[Kind, Callable[[int], bytearray]] = {"realistic": realistic, "incompressible": incompressible}


def freshen(payload: bytearray) -> None:
    """Change eight bytes in every 4 KiB: every chunk is new, its compressibility stays."""
    if len(payload) < STAMP_EVERY_BYTES:
        payload[: min(STAMP_BYTES, len(payload))] = os.urandom(min(STAMP_BYTES, len(payload)))
        return
    whole = memoryview(payload)[: len(payload) // STAMP_BYTES * STAMP_BYTES].cast("Q")
    stamps = whole[:: STAMP_EVERY_BYTES // STAMP_BYTES]
    stamps[:] = memoryview(os.urandom(len(stamps) * STAMP_BYTES)).cast("Q")


def _tile(block: bytearray, size: int) -> bytearray:
    """*size* bytes of the block again and again."""
    payload = bytearray(size)
    for start in range(0, size, max(1, len(block))):
        payload[start : start + len(block)] = block[: size - start]
    return payload
