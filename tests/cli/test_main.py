"""The command as a whole: help, mistakes and exit statuses."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from replicator.cli.main import COMMANDS
from tests.cli.conftest import Command, StoreMaker

ROOT = Path(__file__).parent.parent.parent


def test_help_lists_every_command(command: Command) -> None:
    """`replicator --help` names all commands, each with what it does in one line."""
    outcome = command("--help")
    assert outcome.status == 0
    assert outcome == command()
    listed = outcome.out.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == list(COMMANDS)
    assert [line for line in listed if line.endswith("...") and "demo" not in line] == []


@pytest.mark.parametrize("name", ["abandon", "export", "handover"])
def test_what_is_not_utf8_is_refused_in_a_line(command: Command, name: str) -> None:
    """No name of a stream or node is."""
    outcome = command(name, os.fsdecode(b"a\xff"))
    assert outcome.status == 2
    assert outcome.err.splitlines() == [r"replicator: 'a\udcff' is not UTF-8"]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_helps(command: Command, name: str) -> None:
    """Every command explains itself; the examples keep their lines."""
    outcome = command(name, "--help")
    assert outcome.status == 0
    assert outcome.out.startswith(f"Usage: replicator {name} ")
    if name != "demo":
        assert f"\n  replicator {name}" in outcome.out or f" replicator {name}\n" in outcome.out


@pytest.mark.parametrize(
    "words",
    [
        ["fly"],
        ["status", "more"],
        ["status", "--jsno"],
        ["export"],
        ["config", "--format", "xml"],
        ["keygen", "a"],
    ],
)
def test_wrong_use_is_one_line_and_status_2(command: Command, words: list[str]) -> None:
    """A command used in a wrong way says so in one line on standard error and exits with 2."""
    outcome = command(*words)
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.startswith("replicator: ")
    assert outcome.err.count("\n") == 1


def test_wrong_use_points_to_the_command_s_own_help(command: Command) -> None:
    """Where its options are."""
    assert command("status", "--jsno").err.endswith("(see replicator status --help)\n")
    assert command("fly").err.endswith("(see replicator --help)\n")


def test_the_version_is_told(command: Command) -> None:
    """As installed."""
    outcome = command("--version")
    assert (outcome.status, outcome.out) == (0, f"replicator {version('replicator')}\n")


def test_wrong_settings_are_one_line_each(command: Command) -> None:
    """A command with wrong settings ends with status 2 and one line per wrong variable, nothing else."""
    outcome = command("status", lease_s="soon", lees_s="1")
    assert outcome.status == 2
    assert outcome.err.splitlines() == [
        "replicator: REPLICATOR_LEES_S: no such setting; did you mean REPLICATOR_LEASE_S?",
        "replicator: REPLICATOR_LEASE_S: 'soon' is not a number from 0.005 to 60 s",
    ]


@pytest.mark.parametrize("words", ["config", "config --json", "--help", "keygen a b c -o keys", "export x"])
def test_a_standard_output_that_is_closed_is_an_error(words: str, tmp_path: Path, store: StoreMaker) -> None:
    """In one line, of whatever is printed: a program that reads it must not take nothing for an answer."""
    store.add("x", b"state")
    words = words.replace("--json", "--format json")
    script = f"{sys.executable} -m replicator {words} >&-"
    environ = {**os.environ, "REPLICATOR_DATA_DIR": str(store.path), "PYTHONPATH": str(ROOT)}
    shell = ["bash", "-c", script]
    outcome = subprocess.run(shell, capture_output=True, text=True, check=False, env=environ, cwd=tmp_path)
    assert outcome.stderr == "replicator: standard output: Bad file descriptor\n"
    assert outcome.returncode == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", ["--version", "config", "config --format json", "export x"])
def test_a_standard_output_without_room_is_an_error(words: str, unbuffered: str, store: StoreMaker) -> None:
    """In one line that says where, and with status 1: not once more when the process ends."""
    store.add("x", b"state")
    environ = {**os.environ, "REPLICATOR_DATA_DIR": str(store.path), "PYTHONUNBUFFERED": unbuffered}
    words_all = [sys.executable, "-m", "replicator", *words.split()]
    with Path("/dev/full").open("wb") as full:
        outcome = subprocess.run(
            words_all, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environ
        )
    assert outcome.stderr == "replicator: standard output: No space left on device\n"
    assert outcome.returncode == 1


@pytest.mark.parametrize("words", ["status", "fly", "config --check"])
def test_a_standard_error_without_room_changes_no_status(words: str, tmp_path: Path) -> None:
    """What cannot be said is lost, and that alone."""
    environ = {**os.environ, "REPLICATOR_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "replicator", *words.split()]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, check=False, env=environ)
    assert done.stdout == b""
    assert done.returncode == {"status": 1, "fly": 2, "config --check": 0}[words]


def test_without_a_standard_error_no_complaint_is_taken_for_an_answer(tmp_path: Path) -> None:
    """Standard output stays empty."""
    script = f"{sys.executable} -m replicator status --data-dir {tmp_path} 2>&-"
    outcome = subprocess.run(["bash", "-c", script], capture_output=True, check=False)
    assert (outcome.returncode, outcome.stdout) == (1, b"")


def test_ctrl_c_is_told(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted, a command says so, and exits as shells expect it."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("replicator.worker.admin.ask", interrupt)
    outcome = command("status")
    assert (outcome.status, outcome.out, outcome.err) == (130, "", "replicator: interrupted\n")


@pytest.mark.parametrize("module", ["rich", "replicator.cli.status"])
def test_ctrl_c_while_it_is_loaded_is_told(module: str) -> None:
    """In the same words: much of a short command is its imports."""
    code = (
        "import sys\n"
        "class Impatient:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Impatient())\n"
        "from replicator.cli.main import run; sys.exit(run(['status']))"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stderr) == (130, "replicator: interrupted\n")


def test_the_module_is_the_command(tmp_path: Path) -> None:
    """`python -m replicator` is the same command, with the same exit status."""
    words = [sys.executable, "-m", "replicator", "status", "--data-dir", str(tmp_path)]
    outcome = subprocess.run(words, capture_output=True, text=True, check=False)
    assert outcome.returncode == 1
    assert outcome.stderr.startswith("replicator: no node answers")


def test_a_reader_that_leaves_is_no_error() -> None:
    """A pipe that is closed early ends the command without a word."""
    words = [sys.executable, "-m", "replicator", "config"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_without_typer_there_is_a_hint() -> None:
    """Where the extra is not installed, the command says in one line how to get it."""
    code = (
        "import sys; sys.modules['typer'] = None\n"
        "from replicator.cli.main import run; sys.exit(run(['status']))"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert outcome.returncode == 1
    assert outcome.stderr == ("replicator: the command needs typer and rich: pip install 'replicator[cli]'\n")
