"""The README's figures are those of the committed results, and every measurement can be asked for help."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from bench.all import PLAN, Job, command, main, play, run_all
from bench.kit.measured import MARKERS, README, RESULTS, WRITERS, blocks, shown, table, write
from bench.kit.report import Report

ROOT = Path(__file__).parent.parent.parent
NAMES = sorted(path.stem for path in (ROOT / "bench").glob("*.py") if path.stem != "__init__")


def test_the_readme_shows_the_committed_results() -> None:
    """The README's tables are what the committed results render (`python -m bench.kit.measured --write`)."""
    assert {name: shown(name) for name in blocks()} == blocks()


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_results_tell_where_they_are_from(path: Path) -> None:
    """Each committed result names its command, machine and versions, has rows, and no path of a machine."""
    report = Report.load(path)
    assert report.command.startswith(f"scripts/bench {path.stem}")
    assert report.rows
    assert {"processor", "cores", "memory"} <= report.machine.keys()
    assert {"python", "replicator", "pyzmq"} <= report.versions.keys()
    assert "/tmp" not in path.read_text()
    assert "/home" not in path.read_text()


def test_each_measurement_names_its_commit() -> None:
    """Not all are renewed at once: below the table stands where each was taken."""
    *_, last = table().splitlines()
    for name in WRITERS:
        commit = Report.load(RESULTS / f"{name}.json").versions["replicator"]
        assert re.search(rf"`{name}`(, `\w+`)* at {commit}[;.]", last)


def test_the_table_is_put_between_its_markers(tmp_path: Path) -> None:
    """Renewing the tables changes nothing around them, nor one that has no results here; a README without a
    place for one is refused."""
    readme = tmp_path / "README.md"
    places = {name: [marker.format(name) for marker in MARKERS] for name in ("measured", "failover")}
    kept = "\nold\n".join(places["failover"])
    readme.write_text(f"before\n{'old'.join(places['measured'])}\n{kept}\nafter\n")
    write(readme, tmp_path)
    assert readme.read_text() == f"before\n{table(tmp_path).join(places['measured'])}\n{kept}\nafter\n"
    readme.write_text("nothing")
    with pytest.raises(ValueError, match="no place"):
        shown("measured", readme)


@pytest.mark.parametrize("name", [*NAMES, "compare"])
def test_every_measurement_has_help(name: str) -> None:
    """--help works without servers, clients or plots, says what the figures mean, and offers a plot only of
    what can be drawn."""
    words = [sys.executable, "-m", f"bench.{name}", "--help"]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.startswith("usage: scripts/bench")
    assert "--quick" in found.stdout
    for option in re.findall(r"\n  (--(?:minutes|seconds) .*(?:\n    .*)*)", found.stdout):
        assert "(default" in option
    assert len(found.stdout) > 600
    module = import_module("bench.compare.__main__" if name == "compare" else f"bench.{name}")
    assert ("--plot" in found.stdout) == hasattr(module, "draw")


def test_measurements_are_listed_with_their_questions() -> None:
    """Without a name, and for help, `scripts/bench` lists what there is; what is none is refused with it."""
    script = ROOT / "scripts" / "bench"
    listed = subprocess.run([script], capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in listed.splitlines()] == sorted([*NAMES, "compare"])
    assert "Does a healthy primary stay primary" in listed
    for words in (["-h"], ["--help"]):
        assert subprocess.run([script, *words], capture_output=True, text=True, check=True).stdout == listed
    for name in ("no_such", "kit", "kit/run", "compare/etcd", ".*", "-x"):
        found = subprocess.run([script, name, "--help"], capture_output=True, text=True, check=False)
        assert (found.returncode, found.stdout) == (2, "")
        assert found.stderr == f"scripts/bench: there is no measurement {name}; there are:\n{listed}"


REFUSED = {
    "footprint --runs 0": "--runs: 0 is less than 1",
    "footprint --seconds 0": "--seconds: 0 is not more than 0",
    "footprint --json /proc/x/y.json": "--json: no file can be made in /proc/x: No such file or directory",
    "footprint --json /dev/null": "--json: /dev/null cannot be written: not a regular file",
    "submit --plot /proc/x/y.svg": "--plot: no file can be made in /proc/x: No such file or directory",
    "footprint --plot y.svg": "unrecognized arguments: --plot y.svg",
    "submit --plot y.png": "--plot: y.png does not end in .svg",
    "submit --dir /proc/x": "--dir: no file can be made in /proc/x: No such file or directory",
    "submit --calls 0": "--calls: 0 is less than 1",
    "steadiness --minutes -1": "--minutes: -1 is not more than 0",
    "steadiness --burners -1": "--burners: -1 is less than 0",
    "failover --count -1": "--count: -1 is less than 0",
    "failover --count 0": "--count 0 reports what --state FILE has, and there is no such file",
    "failover --state /proc/x/y": "--state: no file can be made in /proc/x: No such file or directory",
    "ingestion --state /proc/x/y": "--state: no file can be made in /proc/x: No such file or directory",
    "ingestion --rate nan": "--rate: nan is not more than 0",
    "failover --seconds inf": "--seconds: inf has no end",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_makes_no_sense_is_refused_before_anything_is_measured(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nothing could be written, and what could not be measured, is said in one line."""
    name, *arguments = words.split()
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit, match="2"):
        import_module(f"bench.{name}").main()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.removeprefix(f"scripts/bench {name}: error: ").removeprefix("argument ") == REFUSED[words]


def test_the_plan_runs_what_the_tables_show() -> None:
    """`scripts/bench all` runs what the README's tables show, all but one, and quickly if told to."""
    assert {*WRITERS, "failover"} == set(PLAN) == {*NAMES, "compare"} - {"all", "steadiness"}
    for name, job in PLAN.items():
        assert (ROOT / "bench" / f"{name}.py").exists() or (ROOT / "bench" / name / "__main__.py").exists()
        assert command(name)[5:] != command(name, quick=True)[5:]
        assert ("--quick" in command(name, quick=True), "--quick" in job.words) == (True, False)


def test_one_that_fails_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is named in the end with its status, and so is one that does not end in time; the rest has run."""
    jobs = {"delta": "--no-such-option", "streams": "--help", "submit": "--calls 100000000"}
    plan = {name: Job(words, "", 5 if name == "submit" else 60) for name, words in jobs.items()}
    monkeypatch.setattr("bench.all.PLAN", plan)
    monkeypatch.setattr("bench.all.WITHOUT_PLOT", tuple(jobs))  # nothing to draw with is installed here
    assert run_all(list(jobs), tmp_path, quick=False) == 1
    out, err = capfd.readouterr()
    assert "usage: scripts/bench streams" in out
    assert err.splitlines()[-1] == "failed: delta (status 2), submit (not ended in 5 s)"
    assert list(tmp_path.iterdir()) == []


def test_a_readme_that_cannot_be_written_is_an_error_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With status 1: what was measured is kept, and the README is as it was."""

    def fail(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    before = README.read_bytes()
    monkeypatch.setattr("bench.all.run_all", lambda *_, **__: 0)
    monkeypatch.setattr(Path, "write_bytes", fail)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert main([]) == 1
    assert capsys.readouterr().err == f"scripts/bench all: {README}: Read-only file system\n"
    assert README.read_bytes() == before


def test_what_is_interrupted_ends_with_all_that_it_has_started(tmp_path: Path) -> None:
    """The one that runs is told once, and cleans up before the whole ends; the next ones do not begin."""
    path = tmp_path / "log"
    script = (
        "import os, signal, sys\n"
        f"log = open({str(path)!r}, 'a', buffering=1)\n"
        "def end(*_): log.write('told\\n'); sys.exit(130)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "os.kill(os.getppid(), signal.SIGINT)\n"
        "while True: signal.pause()\n"
    )
    with pytest.raises(KeyboardInterrupt):
        play([sys.executable, "-c", script], 60)
    assert path.read_text() == "told\n"


def test_ctrl_c_is_heard_by_whoever_measures_alone(tmp_path: Path) -> None:
    """What keeps cores and disk busy beside it, and the terminal tells too, ends without a word."""
    script = (
        "import contextlib, multiprocessing, os, pathlib, signal, sys, time\n"
        "from bench import steadiness, submit\n"
        "from bench.kit.cluster import descendants\n"
        "if __name__ == '__main__':\n"
        "    place = pathlib.Path(sys.argv[1])\n"
        "    with contextlib.ExitStack() as stack:\n"
        "        stack.enter_context(submit.sleeper())\n"
        "        steadiness._load(stack, place, 0)\n"
        "        while not (place / 'scribble').exists(): time.sleep(0.01)\n"
        "        for pid in descendants(os.getpid()): os.kill(pid, signal.SIGINT)\n"
        "        for job in multiprocessing.active_children(): job.join()\n"
    )
    program = tmp_path / "program.py"
    program.write_text(script)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, str(program), str(tmp_path)]
    said = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, env=environ)
    assert (said.returncode, said.stderr) == (0, "")
