"""Only what has changed is sent and stored: chunks of a part, and parts of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.cluster import Cluster, Node
from tests.integration.memory import KIB, MIB

CHUNK_BYTES = 256 * KIB  # the default of REPLICATOR_CHUNK_BYTES
FILLER_BYTES = 4 * MIB
HEAD_BYTES_MAX = KIB
RETAINED_MAX = 6  # the committed one, one older, the newest, and what is not swept yet


@pytest.mark.parametrize(
    ("change_bytes", "chunk_bytes"), [(0, 0), (1000, 2 * CHUNK_BYTES)], ids=["part", "chunk"]
)
def test_only_what_changed_is_sent(tmp_path: Path, change_bytes: int, chunk_bytes: int) -> None:
    """Of 4 MiB in two parts, the small part changes each time, and the large one not at all or in one place:
    what is sent and stored grows by the changed chunks only, and every backup has all of it."""
    with Cluster(tmp_path, 3, payload_bytes=FILLER_BYTES, change_bytes=change_bytes) as cluster:
        cluster.start()
        primary = cluster[cluster.wait_tenure()["node"]]
        cluster.wait_commits(30)
        usage = _usage(primary)[primary.name]
        changed = chunk_bytes + HEAD_BYTES_MAX
        assert usage["published"] >= 30
        assert usage["raw_bytes"] >= usage["published"] * FILLER_BYTES
        # One publication more may be under way than has been counted.
        assert usage["sent_bytes"] <= FILLER_BYTES + (usage["published"] + 2) * changed
        print({key: usage[key] for key in ("published", "raw_bytes", "sent_bytes", "stored_bytes")})

        def is_stored_once() -> bool:
            sizes = [each["stored_bytes"] for each in _usage(primary).values()]
            most = FILLER_BYTES + RETAINED_MAX * changed
            return len(sizes) == 3 and all(FILLER_BYTES <= size <= most for size in sizes)

        cluster.wait(is_stored_once, what="unchanged chunks stored once, old ones swept")


def _usage(node: Node) -> dict[str, dict[str, int]]:
    """The counters of all members that answer."""
    return {name: member["usage"] for name, member in node.members().items()}
