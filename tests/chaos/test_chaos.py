"""A short torment of real processes; `scripts/chaos --minutes 20` is the long form."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.network import INSIDE, missing
from tests.integration.cluster import ROOT, is_alive, wait_until

PROGRAM = (sys.executable, "-m", "tests.chaos")
LIMIT_S = 100.0


def _begin(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    """A run whose own directory lies in this one."""
    environ = {key: value for key, value in os.environ.items() if key != INSIDE}
    return subprocess.Popen(
        [*PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**environ, "TMPDIR": str(directory)},
        start_new_session=True,
    )


def _report(directory: Path, *arguments: str) -> dict[str, Any]:
    """The report of a run that goes to its end."""
    run = _begin(directory, "--json", *arguments)
    try:
        told, said = run.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL)
        raise AssertionError(f"no end: {run.communicate()[1]}") from None
    print(said)
    assert told, said
    report: dict[str, Any] = json.loads(told)
    print(json.dumps(report, indent=1))
    return report


def _processes_in(directory: Path) -> list[int]:
    """Processes whose environment names the directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(directory).encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return list(filter(is_alive, found))


def test_a_short_torment_breaks_no_promise(tmp_path: Path) -> None:
    """Under all nemeses nothing committed is lost or rolled back, no two nodes are active at once, the
    cluster is whole again each time, no node prints a traceback, and nothing is left behind."""
    report = _report(tmp_path, "--minutes", "0.35")
    assert report["violations"] == []
    assert report["problems"] == []
    assert sum(report["faults"].values()) >= 5
    assert report["lines"]["committed"] > 0
    assert list(tmp_path.iterdir()) == []


def test_without_namespaces_processes_die_on_loopback(tmp_path: Path) -> None:
    """Where nothing can be cut off there are still kills, stops and lost disks, and the report says so."""
    report = _report(tmp_path, "--minutes", "0.1", "--loopback", "--nemeses", "kill,stop,wipe,partition")
    assert (report["violations"], report["problems"]) == ([], [])
    assert report["namespaces"] is False
    assert "partition" not in report["faults"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C, a service manager's end, a terminal's, and a kill: all processes are gone; of a kill only files
    stay."""
    if number == signal.SIGKILL and (reason := missing()):
        pytest.skip(f"nothing ends by itself without namespaces: {reason}")

    def engines_run() -> bool:
        logs = list(tmp_path.glob("*/*/log.jsonl"))
        return len(logs) == 3 and all(map(os.path.getsize, logs))

    run = _begin(tmp_path, "--minutes", "5")
    try:
        wait_until(engines_run, 30.0, "three engines")
        os.killpg(run.pid, number)
        _, said = run.communicate(timeout=LIMIT_S)
        wait_until(lambda: not _processes_in(tmp_path), 30.0, "the end of all processes")
    finally:
        run.kill()
        run.communicate()
    if number != signal.SIGKILL:
        assert run.returncode == 130, said
        assert list(tmp_path.iterdir()) == []
