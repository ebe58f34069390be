"""What the engines' lines say when put together: who took over when, and whether anything was wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.integration.cluster import Cluster

Entry = dict[str, Any]


class History:
    """Lines of all nodes, read as they come."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._read: dict[str, int] = dict.fromkeys(cluster.nodes, 0)
        self.tenures: list[Entry] = []
        self.commits: list[Entry] = []
        self._parents: dict[str, str] = {}
        self._spans: list[tuple[float, float, str]] = []
        self._restored: dict[int, str] = {}

    def poll(self) -> None:
        """Take in what is new."""
        for name, node in self._cluster.nodes.items():
            node.poll()
            new = node.entries[self._read[name] :]
            self._read[name] += len(new)
            for entry in new:
                self._take(name, entry)

    def _take(self, name: str, entry: Entry) -> None:
        match entry["kind"]:
            case "tenure":
                self.tenures.append(entry)
            case "committed":
                self.commits.append(entry)
            case "submitted":
                self._parents[entry["digest"]] = entry["parent"]
            case "active":
                self._spans.append((entry["since"], entry["at"], name))
            case "restored":
                self._restored[entry["epoch"]] = entry["digest"]

    def tenure_since(self, instant: float) -> Entry | None:
        """The first tenure that started since then."""
        self.poll()
        found = [tenure for tenure in self.tenures[-20:] if tenure["at"] >= instant]
        return min(found, key=lambda tenure: float(tenure["at"])) if found else None

    def commit_since(self, instant: float, node: str) -> Entry | None:
        """The first commit that *node* has reported since then."""
        self.poll()
        found = (each for each in self.commits[-500:] if each["node"] == node and each["at"] >= instant)
        return min(found, key=lambda each: float(each["at"]), default=None)

    def lost(self) -> list[str]:
        """Commits that a later tenure has not restored, neither themselves nor as an ancestor (I3)."""
        self.poll()
        lost = []
        for tenure in self.tenures:
            line = set(self._line(self._restored.get(tenure["epoch"], "")))
            lost += [
                commit["digest"]
                for commit in self.commits
                if commit["position"][0] < tenure["epoch"] and commit["digest"] not in line
            ]
        return lost

    def _line(self, digest: str) -> Iterator[str]:
        while digest:
            yield digest
            digest = self._parents.get(digest, "")

    def overlaps(self) -> list[str]:
        """Spans in which two nodes' engines both saw an active tenure (I9)."""
        self.poll()
        wrong, last = [], ("", 0.0)
        for since, until, name in sorted(self._spans):
            if name != last[0] and since < last[1]:
                wrong.append(f"{last[0]} and {name} for {1000 * (last[1] - since):.1f} ms")
            if until > last[1]:
                last = (name, until)
        return wrong
