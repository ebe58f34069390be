"""Planned handovers between real engines: to the node that is named, or to nobody."""

from __future__ import annotations

from pathlib import Path

from tests.integration.cluster import Cluster, now


def test_the_named_node_takes_over_or_nobody_does(tmp_path: Path) -> None:
    """A node that is down is refused with the reason and the tenure goes on; one that is up takes over, with
    everything committed and no outcome unknown but that of what was submitted meanwhile."""
    with Cluster(tmp_path, 3) as cluster:
        cluster.start()
        tenure = cluster.wait_tenure()
        primary = cluster[tenure["node"]]
        cluster.wait_commits(10)
        down, up = sorted(name for name in cluster.nodes if name != primary.name)
        cluster[down].kill()
        refusal = primary.hand_over(down)["error"]
        unheard = f"{down} is not reachable, or its disk hangs"
        assert refusal in (unheard, f"{down} lacks the newest checkpoint of 1 streams")
        assert primary.hand_over("n9") == {"error": "n9 is not another member of this cluster"}
        since = now()
        cluster.wait_commits(10, since, primary.name)
        assert cluster.entries("tenure") == [tenure]

        cluster[down].start()

        def hands_over() -> bool:
            answer = primary.hand_over(down)
            assert "error" in answer or answer == {"ok": True, "primary": down}
            return "ok" in answer

        cluster.wait(hands_over, what=f"a handover to {down}")
        taken = cluster.wait_tenure(since)
        assert taken["node"] == down != up
        assert "not primary; ask" in primary.hand_over()["error"]
        cluster.wait_commits(10, since, down)
        assert cluster.lost() == []
