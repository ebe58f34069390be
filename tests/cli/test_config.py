"""`replicator config`: every setting, in four shapes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from replicator.settings import Settings, markdown, table
from tests.cli.conftest import Command


def test_the_table_has_every_setting(command: Command) -> None:
    """Name, value, default, unit and meaning of each setting, one line each when piped."""
    lines = command("config", keep="7").out.splitlines()
    assert lines[0].split() == ["name", "value", "default", "unit", "meaning"]
    assert [line.split()[0] for line in lines[1:]] == [row.name for row in table()]
    (keep,) = (line for line in lines if line.startswith("REPLICATOR_KEEP "))
    assert keep.split()[1:3] == ["7", "1"]


def test_env_gives_the_same_settings_again(command: Command) -> None:
    """What differs from the defaults is printed as variables that an EnvironmentFile can hold."""
    outcome = command("config", "--format", "env", keep="7", data_dir="/var/lib/edge 1")
    assert outcome.out.splitlines() == ["REPLICATOR_DATA_DIR='/var/lib/edge 1'", "REPLICATOR_KEEP=7"]
    outcome = command("config", "--format", "env", keep="1", data_dir="data")
    assert outcome.out == f"REPLICATOR_DATA_DIR={Path.cwd() / 'data'}\n"  # a service starts elsewhere


def test_env_names_files_for_a_service_that_starts_elsewhere(command: Command) -> None:
    """The key files as the data directory, wherever they were named from."""
    files = {"secret_key_file": "keys/local.secret", "peer_keys_file": "keys/peers.keys"}
    lines = command("config", "--format", "env", data_dir="/data", **files).out.splitlines()
    assert lines == [
        "REPLICATOR_DATA_DIR=/data",
        f"REPLICATOR_SECRET_KEY_FILE={Path.cwd() / 'keys/local.secret'}",
        f"REPLICATOR_PEER_KEYS_FILE={Path.cwd() / 'keys/peers.keys'}",
    ]


def test_markdown_is_the_readme_s_table(command: Command) -> None:
    """The README's table is made by this command."""
    assert command("config", "--format", "md").out == markdown() + "\n"


def test_json_is_for_programs(command: Command) -> None:
    """Every row as an object."""
    rows = msgspec.json.decode(command("config", "--format", "json").raw)
    assert {row["name"] for row in rows} == {row.name for row in table(Settings())}


def test_check_is_silent_when_all_is_well(command: Command) -> None:
    """`--check` prints only what is wrong."""
    outcome = command("config", "--check")
    assert (outcome.status, outcome.out, outcome.err) == (0, "", "")
    outcome = command("config", "--check", lease_s="0.9")
    assert outcome.status == 2
    assert outcome.err.startswith("replicator: REPLICATOR_LEASE_S: 0.9 does not fit: ")


def test_check_reads_the_key_files(command: Command, tmp_path: Path) -> None:
    """A key that a start would refuse is refused here."""
    files = {"secret_key_file": tmp_path / "local.secret", "peer_keys_file": tmp_path / "peers.keys"}
    outcome = command("config", "--check", **files)
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert outcome.err.startswith(f"replicator: cannot read {tmp_path}/local.secret: ")
    command("keygen", "local", "-o", tmp_path)
    assert command("config", "--check").status == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("form", ["table", "md", "env", "json"])
def test_every_encoding_takes_the_settings(encoding: str, form: str) -> None:
    """People see escaped what theirs has no character for; to programs it is UTF-8 in any case."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("REPLICATOR_")}
    environ |= {"REPLICATOR_DATA_DIR": "/data/日é", "PYTHONIOENCODING": encoding}
    words = [sys.executable, "-m", "replicator", "config", "--format", form]
    done = subprocess.run(words, env=environ, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    if form == "env":
        assert done.stdout.decode() == "REPLICATOR_DATA_DIR='/data/日é'\n"
    elif form == "json":
        (row,) = (row for row in msgspec.json.decode(done.stdout) if row["name"] == "REPLICATOR_DATA_DIR")
        assert row["value"] == "/data/日é"
    else:
        assert r"name=host:port,\u2026" in done.stdout.decode(encoding)
