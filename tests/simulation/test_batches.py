"""Long runs add up: batches are written down once, resumed where they end, and summed up by commit."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.simulation import batches
from tests.simulation.__main__ import Run, _arguments
from tests.simulation.batches import (
    BATCH_SEEDS,
    Batch,
    DirtyTree,
    Failure,
    append_record,
    commit_here,
    has_batches,
    missing_batches,
    read_record,
    report,
    run_batch,
)


def batch(first: int, commit: str = "a" * 40, failures: tuple[Failure, ...] = ()) -> Batch:
    """A batch as a run would write it down."""
    return Batch(
        commit=commit,
        first=first,
        seeds=BATCH_SEEDS,
        simulated_s=6000.0,
        cpu_s=10.0,
        faults={"kill": 7, "split": 3},
        frames={"lost": 9},
        commits=500,
        events=9000,
        twice=1,
        failures=failures,
    )


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    """A line cut off by a crash is skipped, and what is appended after it is not lost."""
    path = tmp_path / "record"
    assert read_record(path) == []
    append_record(path, batch(0))
    with path.open("ab") as file:
        file.write(b'{"commit":"a')
    append_record(path, batch(100, failures=(Failure(111, "I3: lost\nand more", ("a line",)),)))
    assert read_record(path) == [batch(0), batch(100, failures=(Failure(111, "I3: lost"),))]
    path.write_bytes(b"hello\n")
    with pytest.raises(ValueError, match="is no record"):
        read_record(path)
    assert not has_batches(path)


def test_a_run_goes_on_with_what_is_missing() -> None:
    """Holes are filled first, and no batch is run twice, at whatever commit it was run."""
    done = [batch(0), batch(200, "b" * 40)]
    assert list(itertools.islice(missing_batches(done, 0), 3)) == [100, 300, 400]


def test_a_report_adds_up() -> None:
    """The sum in all and by commit, with the faults by kind and every failure."""
    lines = report([batch(0), batch(100, "b" * 40, (Failure(111, "I3: lost"),))])
    assert lines[0].startswith("200 seeds, 3.3 simulated hours, 20 faults, 1,000 commits")
    assert "faults: kill 14, split 6" in lines
    assert "at bbbbbbbbbbbb: 100 seeds, 1.7 simulated hours, 10 faults, 500 commits, failed [111]" in lines
    assert lines[-1] == "seed 111: I3: lost"


def test_a_changed_tree_is_not_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A recorded run names the commit that it was run at, and refuses to run anything else."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "one.py").write_text("1\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(batches, "ROOT", tmp_path)
    assert len(commit_here()) == 40
    (tmp_path / "tests" / "one.py").write_text("2\n")
    with pytest.raises(DirtyTree, match=r"one\.py"):
        commit_here()


def test_a_batch_counts_what_its_seeds_did() -> None:
    """Seeds, faults by kind and commits of a batch are those of its seeds."""
    one = run_batch("c", 7, 2, 10, twice=False)
    assert (one.first, one.seeds, one.failures) == (7, 2, ())
    assert one.simulated_s >= 2 * 60
    assert sum(one.faults.values()) >= 2 * 30
    assert one.commits >= 2 * 100


def test_a_closing_terminal_ends_a_run_in_order() -> None:
    """It says what it has done until then, no process is left, and the status is no success: what was asked
    for has not been run."""
    words = [sys.executable, "-m", "tests.simulation", "--minutes", "5", "--jobs", "2"]
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=batches.ROOT,
        start_new_session=True,
    ) as run:
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
        try:
            end = time.monotonic() + 30
            while len(started := children.read_text().split()) < 2:
                assert time.monotonic() < end
                time.sleep(0.02)
            os.killpg(run.pid, signal.SIGHUP)
            out, err = run.communicate(timeout=30)
        finally:
            run.kill()
    assert (run.returncode, err) == (130, "interrupted: batches that were not finished are not counted\n")
    assert "0 failed" in out
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize(("failures", "status"), [([], 130), ([Failure(7, "I3: lost")], 1)])
def test_an_interrupted_run_is_no_success(
    failures: list[Failure], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure seen before counts more."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tests.simulation.__main__.wait", interrupt)
    run = Run(_arguments(["--seeds", "1"]), "")
    run._sum.failures += failures
    assert run.run() == status


def test_a_run_that_ends_by_its_time_is_a_success() -> None:
    """It has done what was asked for."""
    assert Run(_arguments(["--minutes", "1e-9"]), "").run() == 0


def test_whatever_is_interrupted_says_so_in_a_word() -> None:
    """Also what is no run of seeds."""
    script = (
        "import signal, sys\n"
        "from tests.simulation import __main__ as script\n"
        "script.show_teeth = lambda: signal.raise_signal(signal.SIGINT)\n"
        "sys.exit(script.main(['--teeth']))\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=batches.ROOT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
