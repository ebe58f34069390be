"""Payloads of every size, byte for byte, through a cluster and back; and what they cost in memory."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.integration.cluster import Cluster, Entry, now
from tests.integration.commands import PROGRAM
from tests.integration.memory import MIB, MemoryWatch

SCRIPT = Path(__file__).with_name("sizes_script.py")
CHUNK_BYTES = 256 * 1024  # the default of REPLICATOR_CHUNK_BYTES
SIZES = (0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 64 * MIB)
GIB = 2**30
# Beyond one payload a worker holds what waits for its disk (32 MiB), what waits for a subscriber or comes
# from a publisher (64 publications of 1 MiB) and what is being compressed (8 MiB).
MORE_BYTES_MAX = 128 * MIB


def _start(cluster: Cluster, tmp_path: Path, name: str, sizes: tuple[int, ...]) -> None:
    cluster[name].start(sys.executable, str(SCRIPT), str(tmp_path / name / "log.jsonl"), *map(str, sizes))


def _digests(entries: list[Entry]) -> dict[int, str]:
    return {entry["size"]: entry["digest"] for entry in entries}


def _watch_workers(cluster: Cluster, watches: ExitStack, names: tuple[str, ...]) -> dict[str, MemoryWatch]:
    for name in names:
        cluster.wait(partial(cluster.entries, "started", name), what=f"the start of {name}")
    pids = {name: cluster[name].worker_pids[0] for name in names}
    return {name: watches.enter_context(MemoryWatch(pid)) for name, pid in pids.items()}


@pytest.mark.parametrize(("sizes", "size"), [(SIZES, 3), ((GIB,), 2)], ids=["small-to-64MiB", "1GiB"])
@pytest.mark.timeout(300)
def test_payloads_come_back_byte_for_byte(tmp_path: Path, sizes: tuple[int, ...], size: int) -> None:
    """What one engine submitted another one restores after a takeover, whatever its size; and a worker never
    holds more than a bound beyond the payload."""
    with Cluster(tmp_path, size) as cluster, ExitStack() as watches:
        for name in ("n1", "n2"):
            _start(cluster, tmp_path, name, sizes)
        if size > 2:
            cluster["n3"].start(*PROGRAM, "node")
        memory = _watch_workers(cluster, watches, ("n1", "n2"))
        old = cluster.wait(lambda: cluster.entries("done"), 120, "all commits")[-1]["node"]
        committed = cluster.entries("committed")
        assert _digests(committed).keys() == set(sizes)
        since = now()
        assert cluster[old].hand_over()["ok"]
        (new,) = {"n1", "n2"} - {old}
        taken = cluster.wait_tenure(since, new, timeout_s=120)
        cluster.wait(lambda: cluster.entries("done", new, since), 120, "all restored")
        assert _digests(cluster.entries("restored", new, since)) == _digests(committed)
        for name, watch in memory.items():
            more = watch.peak_bytes - watch.before_bytes - max(sizes)
            print(f"{name}: before={watch.before_bytes / MIB:.0f} MiB, beyond payload={more / MIB:.0f} MiB")
            assert more <= MORE_BYTES_MAX
        print(f"committed in {[round(entry['took_s'], 3) for entry in committed]} s")
        print(f"takeover in {taken['at'] - since:.3f} s")
