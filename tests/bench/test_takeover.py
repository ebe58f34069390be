"""What takeovers are judged by finds what it should find, and rounds of several runs make one report."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from bench.failover import FULL, TAIL_COUNT, main, planned
from bench.kit.measured import takeovers
from bench.kit.report import Report
from bench.takeover.engine import Engine, now
from bench.takeover.history import History
from bench.takeover.rounds import STAGES, Round
from tests.integration.cluster import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """Nodes that have never run: their lines are the test's."""
    return Cluster(tmp_path, 3)


def say(cluster: Cluster, name: str, kind: str, at: float, **facts: Any) -> None:
    with cluster[name].log.open("a") as log:
        log.write(json.dumps({"kind": kind, "at": at, **facts}) + "\n")


def test_a_takeover_and_its_first_commit_are_found(cluster: Cluster) -> None:
    """The first tenure after an instant, and the first commit that its node reports."""
    say(cluster, "n1", "tenure", 1.0, epoch=1)
    say(cluster, "n2", "tenure", 2.0, epoch=2)
    say(cluster, "n1", "committed", 2.5, stream="chain", digest="a", position=[1, 1])
    say(cluster, "n2", "committed", 3.0, stream="chain", digest="b", position=[2, 2])
    history = History(cluster)
    tenure = history.tenure_since(1.5)
    assert tenure is not None
    assert (tenure["node"], tenure["epoch"]) == ("n2", 2)
    commit = history.commit_since(2.0, "n2")
    assert commit is not None
    assert commit["digest"] == "b"
    assert history.tenure_since(2.5) is None


def test_a_lost_commit_is_found(cluster: Cluster) -> None:
    """A commit is kept if what a later tenure restored descends from it; a sibling of it does not."""
    for digest, parent in (("a", ""), ("b", "a"), ("c", "b")):
        say(cluster, "n1", "submitted", 1.0, digest=digest, parent=parent)
    say(cluster, "n1", "committed", 1.5, stream="chain", digest="b", position=[1, 2])
    say(cluster, "n2", "restored", 2.0, epoch=2, stream="chain", digest="c")
    say(cluster, "n2", "tenure", 2.0, epoch=2)
    assert History(cluster).lost() == []
    say(cluster, "n3", "restored", 3.0, epoch=3, stream="chain", digest="a")
    say(cluster, "n3", "tenure", 3.0, epoch=3)
    assert History(cluster).lost() == ["b"]


def test_two_active_tenures_are_found(cluster: Cluster) -> None:
    """Spans of one node may touch; those of two nodes may not, however long ago the one began."""
    say(cluster, "n1", "active", 1.5, epoch=1, since=1.0)
    say(cluster, "n1", "active", 2.0, epoch=1, since=1.5)
    say(cluster, "n2", "active", 2.6, epoch=2, since=2.1)
    assert History(cluster).overlaps() == []
    say(cluster, "n3", "active", 2.4, epoch=3, since=2.2)
    assert History(cluster).overlaps() == ["n2 and n3 for 400.0 ms"]


@pytest.mark.parametrize("last", [True, False])
def test_an_engine_tells_of_its_tenure_to_the_end(tmp_path: Path, last: bool) -> None:
    """The span in which it last saw the tenure active is written though the next line was not due: with a
    checkpoint a second, and in the last moments before another's begins."""
    looks = iter([True] * 4 + [last])
    ends = iter([None] * 5)

    class Tenure(SimpleNamespace):
        active = property(lambda self: next(looks))
        ended_reason = property(lambda self: next(ends, "lost"))

    ticket = SimpleNamespace(add_done_callback=lambda note: None)
    position = SimpleNamespace(epoch=1, sequence=1)
    tenure: Any = Tenure(epoch=1, next_position=lambda _: position, submit=lambda *_: ticket)
    engine = Engine(tmp_path / "log", 0, 10, 3600.0)
    before = now()
    engine._work(tenure, 1)
    lines = map(json.loads, (tmp_path / "log").read_text().splitlines())
    (span,) = [line for line in lines if line["kind"] == "active"]
    assert before < span["since"] < span["at"] < now()


def rounds(count: int, profile: str, fault: str, variant: str = "", commit: str = "abc") -> list[Round]:
    """As many rounds, of 1, 2, 3… ms, a tenth of it in each stage; every fourth lost an election."""
    return [
        Round(
            profile=profile,
            fault=fault,
            variant=variant,
            total_ms=ms,
            commit_ms=ms + 1,
            stages=dict.fromkeys(STAGES, ms / 10),
            lost_elections=int(ms % 4 == 0),
            commit=commit,
        )
        for ms in range(1, count + 1)
    ]


def kept(state: Path) -> list[str]:
    """A state that several runs have filled, and the arguments that report it."""
    found = rounds(20, "fast", "node", "1,000 streams", "def") + rounds(4, "wan", "cut", commit="def")
    found += rounds(TAIL_COUNT, "fast", "node") + rounds(40, "fast", "engine")
    state.write_bytes(msgspec.json.encode(found))
    return ["--count", "0", "--faults", "node", "--state", str(state)]


def test_rounds_of_several_runs_make_one_report(tmp_path: Path) -> None:
    """A line for each profile, fault and variant, lost machines first and variants last; a p99 only of many
    rounds; the head names every commit at which rounds were taken. The README's table shows each line."""
    path = tmp_path / "failover.json"
    assert main([*kept(tmp_path / "state"), "--json", str(path)]) == 0
    report = Report.load(path)
    keys = [(row["profile"], row["fault"], row["variant"], row["rounds"]) for row in report.rows]
    assert keys == [
        ("fast", "node", "-", TAIL_COUNT), ("fast", "engine", "-", 40), ("wan", "cut", "-", 4),
        ("fast", "node", "1,000 streams", 20),
    ]  # fmt: skip
    first, second, *_ = report.rows
    assert (first["p50_ms"], first["p99_ms"], first["max_ms"], first["split"]) == (150.5, 297, 300, 75)
    assert (first["detect_ms"], first["commit_p50_ms"], second["p99_ms"]) == (15.1, 151.5, None)
    assert report.versions["replicator"] == "def, abc"
    assert report.command == "scripts/bench failover --count 0 --faults node"
    lines = takeovers(report).splitlines()
    assert lines[2] == "| SIGKILL of engine and worker | fast | 300 | 150 ms | 297 ms | 300 ms | 152 ms |"
    assert lines[5].startswith(
        "| SIGKILL of engine and worker, 1,000 streams | fast | 20 | 10.5 ms |  | 20 ms |"
    )


def test_the_plot_names_every_line(tmp_path: Path) -> None:
    """However many variants a state holds, each has its label."""
    pytest.importorskip("matplotlib")
    plot = tmp_path / "failover.svg"
    assert main([*kept(tmp_path / "state"), "--plot", str(plot)]) == 0
    for label in ("fast, node", "fast, engine", "wan, cut", "fast, node, 1,000 streams"):
        assert f"<!-- {label} -->" in plot.read_text()


def test_the_whole_is_taken_as_far_as_it_lacks() -> None:
    """With --full every profile has its lost machines, those of a fast one often enough for a p99; --count
    is the most of each."""
    options = argparse.Namespace(full=True, count=None, profiles=(), faults=(), streams=1, warm=False)
    series = list(planned(options))
    assert len(series) == sum(len(profiles) * len(faults) for profiles, faults, _, _ in FULL)
    for fault in ("node", "stop", "cut"):
        counts = {
            each.profile: each.count for each in series if each.fault == fault and each.options.streams == 1
        }
        assert counts.keys() == {"fast", "default", "wan"}
    assert [each.count for each in series if each.profile == "fast"][:3] == [TAIL_COUNT] * 3
    options.count = 5
    assert {each.count for each in planned(options)} == {5}
