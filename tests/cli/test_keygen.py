"""`replicator keygen`: keys that the settings can name."""

from __future__ import annotations

import os
from errno import ENOSPC
from pathlib import Path

import pytest

from replicator.adapters.curve import load_keys
from replicator.model import NodeId
from tests.cli.conftest import Command

NODES = ["edge-1", "edge-2", "edge-3"]


def test_the_keys_fit_together(command: Command, tmp_path: Path) -> None:
    """Every node's secret belongs to its line in the list of public keys, and no other user can read it."""
    outcome = command("keygen", *NODES, "-o", tmp_path / "keys")
    assert outcome.status == 0
    files = [Path(line) for line in outcome.out.splitlines()]
    assert len(files) == len(NODES) + 1
    for node, secret in zip(NODES, files, strict=False):
        keys = load_keys(secret, files[-1], NodeId(node), [NodeId(name) for name in NODES])
        assert keys is not None
        assert secret.stat().st_mode & 0o077 == 0


def test_keys_in_use_are_never_overwritten(command: Command, tmp_path: Path) -> None:
    """A second call on the same directory changes nothing and says why."""
    command("keygen", *NODES, "-o", tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    outcome = command("keygen", *NODES, "-o", tmp_path)
    assert outcome.status == 1
    assert "edge-1.secret is there already" in outcome.err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    outcome = command("keygen", "edge-4", "-o", tmp_path)
    assert outcome.status == 1
    assert "peers.keys is there already, and keys in use are not overwritten: make" in outcome.err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_cannot_be_written_leaves_nothing(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a set of keys would keep the whole one from being made; a place that is none is named."""
    (tmp_path / "file").touch()
    outcome = command("keygen", "edge-1", "-o", tmp_path / "file" / "keys")
    assert outcome.err == f"replicator: cannot write to {tmp_path}/file/keys: Not a directory\n"
    open_really = os.open

    def open_secrets_only(path: Path, *how: int) -> int:
        if path.name == "peers.keys":
            raise OSError(ENOSPC, os.strerror(ENOSPC))
        return open_really(path, *how)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_secrets_only)
        outcome = command("keygen", *NODES, "-o", tmp_path / "keys")
    assert (outcome.status, "cannot write" in outcome.err) == (1, True)
    assert list((tmp_path / "keys").iterdir()) == []


def test_names_must_be_nodes_names(command: Command, tmp_path: Path) -> None:
    """A name that the settings would refuse, or one given twice, gets no key."""
    outcome = command("keygen", "edge/1", "-o", tmp_path / "a")
    assert (outcome.status, "REPLICATOR_NODE" in outcome.err) == (2, False)
    assert "'edge/1' is not a name of" in outcome.err
    assert command("keygen", "edge-1", "edge-1", "-o", tmp_path / "a").status == 2
    assert not (tmp_path / "a").exists()
