"""The demo plays its script with real processes, and whatever happens it leaves none behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

pytest.importorskip("river")

from replicator.demo import director
from replicator.demo.director import DemoFailed, Director, Plan
from replicator.demo.node import Node

ROWS = 9_000
DEMO = [
    sys.executable,
    "-m",
    "replicator",
    "demo",
    "--rows",
    str(ROWS),
    "--rate",
    "1500",
    "--interval",
    "0.1",
]


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A short demo as a user runs it, with its temporary directory inside *tmp_path*."""
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [*DEMO, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
    ) as process:
        yield process
        process.kill()


def processes_of(base: Path) -> list[int]:
    """All processes that have *base* on their command line or in their environment."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            text = (directory / "cmdline").read_bytes() + (directory / "environ").read_bytes()
        except OSError:
            continue
        if str(base).encode() in text:
            found.append(int(directory.name))
    return found


def play(base: Path) -> None:
    """Play a script in this process."""
    with Director(Plan(rows=5_000), base, lambda _: None) as director:
        director.play()


def test_two_kills_lose_nothing_and_change_nothing(demo: subprocess.Popen[str], tmp_path: Path) -> None:
    """The primary is killed twice; every commit is restored, and the result is the uninterrupted run's."""
    said, timeline = demo.communicate(timeout=110)
    assert demo.returncode == 0, timeline
    report = json.loads(said)
    assert (report["lost_committed"], report["identical"]) == (0, True)
    assert report["metric"] == report["metric_uninterrupted"]
    first, second = report["takeovers"]
    assert second["killed"] == first["successor"]
    assert first["epoch"] < second["epoch"]
    for takeover in report["takeovers"]:
        assert takeover["kill_to_serving_ms"] == pytest.approx(sum(takeover["stages"].values()), abs=1)
    assert report["committed"] > 16
    assert min(report[name] for name in ("raw_bytes", "sent_bytes", "stored_bytes")) > 0
    assert any("has caught up" in moment["what"] for moment in report["timeline"])
    assert list(tmp_path.iterdir()) == []
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_an_end_in_the_midst_ends_everything(
    demo: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    """By Ctrl-C of somebody impatient, or with its terminal, while rows flow: no process, no file, no
    traceback is left."""
    assert demo.stderr
    for line in demo.stderr:
        if "serves" in line:
            break
    while demo.poll() is None:
        demo.send_signal(number)
        Event().wait(0.02)
    said, complaint = demo.communicate(timeout=30)
    assert (said, demo.returncode) == ("", 130)
    assert complaint.endswith("replicator: interrupted\n")
    assert "Traceback" not in complaint
    assert list(tmp_path.iterdir()) == []
    assert processes_of(tmp_path) == []


def test_a_director_that_is_killed_takes_all_processes_along(
    demo: subprocess.Popen[str], tmp_path: Path
) -> None:
    """Engines and workers end by themselves when nobody directs them any longer."""
    assert demo.stderr
    for line in demo.stderr:
        if "serves" in line:
            break
    demo.kill()
    demo.wait()
    deadline = Event()
    for _ in range(200):
        if not processes_of(tmp_path):
            break
        deadline.wait(0.1)
    assert processes_of(tmp_path) == []


def test_a_node_that_ends_by_itself_fails_the_demo_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which node, and what it wrote last: enough to look for the reason."""
    monkeypatch.setattr(director, "ENGINE", "this")  # a program that says something and ends
    with pytest.raises(DemoFailed, match=r"(?s)edge-\d has ended unexpectedly.*let's do more of those!"):
        play(tmp_path)


def test_a_step_that_takes_too_long_fails_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what it has waited for, and what every node wrote last."""
    monkeypatch.setattr(director, "ENGINE", "asyncio")  # a program that waits for its input's end
    monkeypatch.setattr(director, "STEP_TIMEOUT_S", 1)
    with pytest.raises(DemoFailed, match=r"(?s)waited 1 s in vain for a first primary.*edge-1.*edge-3"):
        play(tmp_path)


@pytest.mark.parametrize(("arrived", "committed", "flows"), [(9, 7, False), (9, 8, True), (2250, 1, True)])
def test_rows_that_have_run_out_need_no_more_commits(
    tmp_path: Path, arrived: int, committed: int, flows: bool
) -> None:
    """Few rows, or fast ones, give fewer commits than a flow takes elsewhere: the kill comes all the same."""
    director = Director(Plan(rows=5_000), tmp_path, lambda _: None)
    director.tap.arrived = arrived
    assert (committed >= director._commits_awaited) is flows


def test_the_shortest_and_fastest_plan_is_played(tmp_path: Path) -> None:
    """What the command's options allow at most comes to its end like any other."""
    plan = Plan(rows=5_000, rows_per_s=10_000)
    with Director(plan, tmp_path, lambda _: None) as director:
        assert director.play().passed


def test_wrong_settings_end_the_demo_before_it_begins(tmp_path: Path) -> None:
    """A line for each wrong variable, as of any command; no engine is started to fail with a traceback."""
    environ = {**os.environ, "TMPDIR": str(tmp_path), "REPLICATOR_LEASE_S": "soon", "REPLICATOR_NODE": "?"}
    outcome = subprocess.run(DEMO, capture_output=True, text=True, env=environ, check=False, timeout=60)
    assert (outcome.returncode, outcome.stdout) == (2, "")
    assert outcome.stderr == "replicator: REPLICATOR_LEASE_S: 'soon' is not a number from 0.005 to 60 s\n"
    assert list(tmp_path.iterdir()) == []


def test_nodes_get_ports_and_settings_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user has set for a node of theirs is not taken over; what holds for all nodes is."""
    monkeypatch.setenv("REPLICATOR_NODE", "mine")
    monkeypatch.setenv("REPLICATOR_ISOLATION", "thread")
    seen: list[dict[str, str]] = []
    monkeypatch.setattr(Node, "start", lambda node, _: seen.append(dict(node._environ)))
    for node in Director(Plan(nodes=5), tmp_path, lambda _: None).nodes:
        node.start([])
    assert [environ["REPLICATOR_NODE"] for environ in seen] == [f"edge-{n}" for n in range(1, 6)]
    assert {environ["REPLICATOR_ISOLATION"] for environ in seen} == {"thread"}
    assert len({environ["REPLICATOR_DATA_DIR"] for environ in seen}) == 5
