"""What makes no sense is refused by the scripts: nothing that was not run passes for what went well."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

REFUSED = {
    "chaos --minutes nan": "argument --minutes: nan is not more than 0",
    "chaos --minutes inf": "argument --minutes: inf has no end",
    "chaos --minutes 0": "argument --minutes: 0 is not more than 0",
    "simulate --seeds 0": "argument --seeds: 0 is less than 1",
    "simulate --seeds -5": "argument --seeds: -5 is less than 1",
    "simulate --minutes -1": "argument --minutes: -1 is not more than 0",
    "simulate --jobs 0": "argument --jobs: 0 is less than 1",
    "simulate --state /no/y": "argument --state: no file can be made in /no: No such file or directory",
    "simulate --report nope": "argument --report: nope cannot be read: No such file or directory",
    "simulate --report /dev/null": "argument --report: /dev/null has no batches",
    "explore --depth -1": "argument --depth: -1 is less than 1",
    "explore --minutes 0": "argument --minutes: 0 is not more than 0",
    "explore --states 0": "argument --states: 0 is less than 1",
}
ROOT = Path(__file__).parent.parent
PYTHON = """#!/usr/bin/env bash
here=$(dirname "$0")
case $* in
"-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && touch "$3/bin/pip" ;;
"-c import pip" | "-m pip "*) [ -f "$here/pip" ] ;;
esac
"""  # as much of an interpreter as scripts/setup needs
MODULES = {
    "chaos": "tests.chaos.__main__",
    "explore": "tests.exploration.__main__",
    "simulate": "tests.simulation.__main__",
    "bench failover": "bench.failover",
    "bench ingestion": "bench.ingestion",
}
TELLING = (
    "tests.simulation --report tests/simulation/record.jsonl",
    "tests.simulation --seeds 1",
    "tests.exploration --quick --world pair --states 5",
    "tests.simulation --help",
    "tests.exploration --help",
    "tests.chaos --help",
)
FOREIGN = (b"hello\n", b'{"commit": 1, "turns": 2}', b'[{"a": 1}]', b"[1]\n[2]", b"\xff\x00\n")


@pytest.mark.parametrize("words", REFUSED)
def test_nothing_run_is_no_success(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What would run nothing, or could not be written down, ends with status 2 and one line."""
    name, *arguments = words.split()
    with pytest.raises(SystemExit, match="2"):
        import_module(MODULES[name]).main(arguments)
    out, err = capsys.readouterr()
    assert (out, err.splitlines()[-1]) == ("", f"scripts/{name}: error: {REFUSED[words]}")


@pytest.mark.parametrize("name", [name for name in MODULES if name != "explore"])
def test_a_state_of_something_else_is_left_as_it_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What no run has written ends with status 2 and one line, before anything is run; nothing is in it then
    that was not before."""
    state = tmp_path / "state"
    main = import_module(MODULES[name]).main
    monkeypatch.setattr(sys, "argv", [name, "--state", str(state)])
    for data in FOREIGN:
        state.write_bytes(data)
        with pytest.raises(SystemExit, match="2"):
            main(*([] if name == "bench ingestion" else [sys.argv[1:]]))
        said = capsys.readouterr().err.splitlines()
        line = f"argument --state: {state} has something else in it, and is left as it is"
        assert said[-1] == f"scripts/{name}: error: {line}"
        assert said[0].startswith("usage:")
        assert state.read_bytes() == data
    assert list(tmp_path.iterdir()) == [state]


def told(words: str, output: int, redirection: str = "") -> tuple[int, str]:
    """The status of a script's module that prints to *output*, and what it says on standard error."""
    shell = ["bash", "-c", f"exec {sys.executable} -m {words} {redirection}"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
    done = subprocess.run(
        shell,
        env=environ,
        cwd=ROOT,
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("words", TELLING)
def test_a_reader_that_leaves_a_script_is_no_error(words: str) -> None:
    """Nothing is said of it, and the status is 1: not all was told."""
    reader, output = os.pipe()
    os.close(reader)
    assert told(words, output) == (1, "")
    os.close(output)


@pytest.mark.parametrize("words", [words for words in TELLING if not words.endswith("--help")])
def test_a_script_s_output_that_takes_nothing_is_an_error_in_a_line(words: str) -> None:
    """Full or closed: with status 1, and not once more when the process ends."""
    name = {"tests.simulation": "scripts/simulate", "tests.exploration": "scripts/explore"}[words.split()[0]]
    with Path("/dev/full").open("wb") as full:
        said = told(words, full.fileno())
    assert said == (1, f"{name}: standard output: No space left on device\n")
    said = told(words, subprocess.DEVNULL, ">&-")
    assert said == (1, f"{name}: standard output: Bad file descriptor\n")


def test_a_simulation_goes_on_where_nobody_reads_how_it_goes() -> None:
    """Its progress on standard error is lost, and that alone."""
    code = (
        "import sys; from tests.simulation import __main__ as script; script.PROGRESS_EVERY_S = -1.0\n"
        "sys.exit(script.guarded('scripts/simulate', lambda: script.main(['--seeds', '1'])))"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with Path("/dev/full").open("wb") as full:
        words = [sys.executable, "-c", code]
        done = subprocess.run(
            words, stdout=subprocess.PIPE, stderr=full, env=environ, check=False, timeout=60
        )
    assert done.returncode == 0
    assert done.stdout.startswith(b"1 seeds, 0 failed")


@pytest.mark.parametrize("left", ["nothing", "no pip", "no interpreter"])
def test_an_environment_that_is_not_whole_is_made_anew(left: str, tmp_path: Path) -> None:
    """Also where the stamp of an earlier one is still there; one that is whole is taken as it is."""
    python, venv = tmp_path / "python3", tmp_path / "venv"
    python.write_text(PYTHON)
    python.chmod(0o755)
    environ = {**os.environ, "PYTHON": str(python), "REPLICATOR_VENV": str(venv)}
    if left != "nothing":
        (venv / "bin").mkdir(parents=True)
        (venv / "bin" / "python").symlink_to(python if left == "no pip" else tmp_path / "gone")
    if left == "no interpreter":
        (venv / "installed-dev").write_text(f"{ROOT}\n")
    said = []
    for _ in range(2):
        words: list[str | Path] = [ROOT / "scripts" / "setup"]
        done = subprocess.run(words, env=environ, capture_output=True, text=True, check=True, timeout=60)
        said.append(done.stderr)
    assert (said[0].count("\n"), said[1]) == (1, "")
    assert (venv / "bin" / "pip").exists()
    assert (venv / "installed-dev").read_text() == f"{ROOT}\n"
    assert (venv / "bin" / "python").read_text() == PYTHON


def test_the_demo_runs_what_is_in_this_tree(tmp_path: Path) -> None:
    """Whatever `pip install .` has copied into the environment since it was made."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/usr/bin/env bash\necho "$PWD: $*"\n')
    python.chmod(0o755)
    (tmp_path / "installed-demo").write_text(f"{ROOT}\n")
    words: list[str | Path] = [ROOT / "scripts" / "demo", "--json"]
    environ = {**os.environ, "REPLICATOR_VENV": str(tmp_path)}
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"{ROOT}: -m replicator demo --json\n"
