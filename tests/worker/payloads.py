"""Payloads for tests: noise, and state that compresses as an engine's does (LZ4 ratio about 2.4)."""

from __future__ import annotations

import random
import struct


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that nobody can compress."""
    return random.Random(seed).randbytes(size)


def realistic(size: int, seed: int = 1) -> bytes:
    """Keyed state: short keys, small counters, a few doubles."""
    draw = random.Random(seed)
    record = bytearray()
    while len(record) < min(size, 2**20):
        key = f"sensor/{draw.randrange(5000):05d}/temperature"
        record += struct.pack("<H", len(key)) + key.encode()
        record += struct.pack("<qdfqd", draw.randrange(10**6), draw.random(), draw.gauss(20, 3), 0, 1.0)
    salted = (struct.pack("<q", block) + record for block in range(size // len(record) + 1))
    return b"".join(salted)[:size]
