"""A backup that stands still while large checkpoints flow: nobody waits for it; it catches up (R16, R18)."""

from __future__ import annotations

import time
from pathlib import Path

from tests.integration.cluster import Cluster, now
from tests.integration.memory import MIB, MemoryWatch

STOPPED_S = 10
WINDOWS = 5  # in each of which something has to commit
# Besides what it takes anyway, the primary's worker holds what waits for its own disk (32 MiB), what waits
# for a subscriber (64 publications of 1 MiB), what is being compressed (8 MiB), and payloads under way.
MORE_BYTES_MAX = 128 * MIB


def test_a_stopped_backup_disturbs_nobody(tmp_path: Path) -> None:
    """Stopped for 10 s under 1 MiB checkpoints: commits go on, memory stays bounded, it catches up alone."""
    with Cluster(tmp_path, 3, interval_s=0.03, payload_bytes=MIB, change_bytes=MIB) as cluster:
        cluster.start()
        tenure = cluster.wait_tenure()
        primary = cluster[tenure["node"]]
        cluster.wait_commits(10)
        backup = next(cluster[name] for name in cluster.nodes if name != primary.name)
        (worker,) = primary.worker_pids
        with MemoryWatch(worker) as memory:
            stopped_at = now()
            backup.stop()
            time.sleep(STOPPED_S)
            backup.cont()
            continued_at = now()

            def caught_up() -> bool:
                members = primary.members()
                if len(members) < len(cluster.nodes):
                    return False
                ((own,), (its,)) = (members[name]["streams"] for name in (primary.name, backup.name))
                return its["head"] == own["head"] and (its["lag_bytes"], its["lag_s"]) == (0, 0)

            cluster.wait(caught_up, what="the backup with the primary's head")
            caught_up_at = now()
        more = memory.peak_bytes - memory.before_bytes
        cluster.wait_commits(1, caught_up_at)
        print(f"memory before={memory.before_bytes / MIB:.0f} MiB more={more / MIB:.0f} MiB")
        print(f"commits while stopped={_count(cluster, stopped_at, continued_at)}")
        print(f"caught up after {caught_up_at - continued_at:.3f} s")
        span = (continued_at - stopped_at) / WINDOWS
        for window in range(WINDOWS):
            start = stopped_at + window * span
            assert _count(cluster, start, start + span) > 0, "commits stopped"
        assert cluster.entries("tenure") == [tenure]
        assert more <= MORE_BYTES_MAX
        assert cluster.lost() == []


def _count(cluster: Cluster, start: float, end: float) -> int:
    return sum(entry["at"] < end for entry in cluster.entries("committed", since=start))
