"""A disk that flips bits under a checkpoint, which nobody notices before it is needed (R22)."""

from __future__ import annotations

import random
from pathlib import Path

from tests.integration.cluster import Cluster, now

STREAM, PAYLOAD_BYTES = "stream-0", 8_000_000
PAGE_BYTES, SAMPLE_BYTES = 4096, 64


def _rot(data_dir: Path) -> int:
    """Flip a bit in every page that still holds the stream's first state; how many."""
    filler = random.Random(STREAM).randbytes(PAYLOAD_BYTES)
    path = data_dir / "payload" / "data.mdb"
    data, flipped = bytearray(path.read_bytes()), 0
    for offset in range(0, PAYLOAD_BYTES - SAMPLE_BYTES, PAGE_BYTES):
        at = data.find(filler[offset : offset + SAMPLE_BYTES])
        if at >= 0:
            data[at] ^= 1
            flipped += 1
    path.write_bytes(data)
    return flipped


def test_a_rotten_head_is_mended_at_the_takeover(tmp_path: Path) -> None:
    """A node whose disk has rotted becomes primary: it fetches from the others what it cannot read, and its
    engine starts from the same bytes that were committed."""
    with Cluster(tmp_path, 3, payload_bytes=PAYLOAD_BYTES, interval_s=0.3) as cluster:
        cluster.start()
        primary = cluster.wait_tenure()["node"]
        rotten = next(name for name in cluster.nodes if name != primary)
        cluster.wait_commits(2)
        cluster[rotten].kill()
        assert _rot(cluster[rotten].data_dir) > 100
        since = now()
        cluster[rotten].start()

        def hands_over() -> bool:
            """Refused, and tried again, until the node, which does not know of its rot, can take over."""
            answer = cluster[primary].hand_over(rotten)
            assert "error" in answer or answer == {"ok": True, "primary": rotten}
            return "ok" in answer

        cluster.wait(hands_over, what="a handover to the rotten node")
        taken = cluster.wait_tenure(since)
        assert taken["node"] == rotten
        restored = cluster.entries("restored", rotten, since)
        assert [entry["stream"] for entry in restored] == [STREAM]
        cluster.wait_commits(2, since, rotten)
        assert cluster.lost() == []


def test_a_claimant_learns_of_its_own_rot_from_who_asks_for_the_bytes(tmp_path: Path) -> None:
    """The same has rotted on both disks, and nothing is scrubbed: who takes over believes its head to be
    whole, and the other one, which knows of its own rot, waits for the bytes. Nothing would be served."""
    with Cluster(tmp_path, 2, payload_bytes=PAYLOAD_BYTES, interval_s=0.3, scrub_interval_s="0") as cluster:
        cluster.start()
        cluster.wait_tenure()
        cluster.wait_commits(2)
        cluster.kill_all()
        for node in cluster.nodes.values():
            assert _rot(node.data_dir) > 100
        cluster.start()
        cluster.wait(
            lambda: {"n1", "n2"} == {entry["node"] for entry in cluster.entries("unreadable")},
            what="a tenure of each that is without the stream",
        )
