"""`replicator keygen`: keys that the settings can name."""

from __future__ import annotations

from pathlib import Path

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
    assert "File exists" in outcome.err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_names_must_be_nodes_names(command: Command, tmp_path: Path) -> None:
    """A name that the settings would refuse, or one given twice, gets no key."""
    assert command("keygen", "edge/1", "-o", tmp_path / "a").status == 2
    assert command("keygen", "edge-1", "edge-1", "-o", tmp_path / "a").status == 2
    assert not (tmp_path / "a").exists()
