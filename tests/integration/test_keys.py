"""A cluster with keys, from `replicator keygen` to a stranger at the door, and a node without an engine."""

from __future__ import annotations

import hashlib
import json
import os
from functools import partial
from pathlib import Path

from tests.integration.cluster import Cluster, Node, free_ports, now
from tests.integration.commands import PROGRAM, run


def _keys(names: list[str], directory: Path) -> dict[str, str]:
    """Make keys with the command; the variable that all nodes share, and each node's own."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("REPLICATOR_")}
    run("keygen", *names, "-o", str(directory), environ=environ)
    return {name: str(directory / f"{name}.secret") for name in names}


def _refused(cluster: Cluster, name: str) -> bool:
    return "unknown key" in cluster[name].output()


def test_a_cluster_with_keys_and_a_stranger(tmp_path: Path) -> None:
    """Nodes with each other's keys elect, commit and take over; who has a wrong one gets and disturbs
    nothing, though it says that it is a member."""
    names = ["n1", "n2", "n3"]
    secrets = _keys(names, tmp_path / "keys")
    listed = str(tmp_path / "keys" / "peers.keys")
    with Cluster(tmp_path, 3, interval_s=0.005, peer_keys_file=listed) as cluster:
        for name in names:
            cluster[name].start(secret_key_file=secrets[name])
        tenure = cluster.wait_tenure()
        cluster.wait_commits(20)
        stranger = _stranger(cluster, tmp_path)
        try:
            stranger.start()
            since = now()
            cluster.wait_commits(200, since)
            assert cluster.entries("tenure") == [tenure]
            for name in ("n1", "n2"):
                cluster.wait(partial(_refused, cluster, name), what="a refusal")
            members = cluster.wait(stranger.members, what="the stranger's own status")
            assert list(members) == ["n3"], "it reaches nobody but itself"
            assert (members["n3"]["role"], members["n3"]["streams"]) == ("founding", [])
            assert members["n3"]["usage"]["verified"] == 0, "not one chunk has come"
        finally:
            stranger.close()
        since = now()
        cluster[tenure["node"]].kill()
        cluster.wait_tenure(since)
        cluster.wait_commits(10, since)
        assert cluster.lost() == []


def _stranger(cluster: Cluster, directory: Path) -> Node:
    """A node that calls itself n3, at an address of its own, with keys that nobody knows."""
    secret = _keys(["n3"], directory / "false")["n3"]
    known = (directory / "keys" / "peers.keys").read_text().splitlines()
    false = (directory / "false" / "peers.keys").read_text().splitlines()
    listed = directory / "false" / "listed.keys"
    listed.write_text("\n".join([line for line in known if not line.startswith("n3=")] + false))
    environ = cluster["n3"].environ
    (port,) = free_ports(1)
    peers = environ["REPLICATOR_PEERS"].rpartition(":")[0] + f":{port}"
    own = {
        "REPLICATOR_PEERS": peers,
        "REPLICATOR_SECRET_KEY_FILE": secret,
        "REPLICATOR_PEER_KEYS_FILE": str(listed),
        "REPLICATOR_DATA_DIR": str(directory / "stranger" / "data"),
    }
    return Node("stranger", directory / "stranger", {**environ, **own}, [])


def test_a_node_without_an_engine(tmp_path: Path) -> None:
    """`replicator node` stores and votes but is never primary: with it one engine takes over from the other;
    `status`, `streams` and `export` work on it while it runs."""
    with Cluster(tmp_path, 3, payload_bytes=100_000) as cluster:
        cluster.start("n1", "n2")
        bare = cluster["n3"]
        bare.start(*PROGRAM, "node")
        old = cluster.wait_tenure()["node"]
        cluster.wait_commits(20)
        _check_commands(bare)
        since = now()
        cluster[old].kill()
        taken = cluster.wait_tenure(since)
        assert {old, taken["node"]} == {"n1", "n2"}
        cluster.wait_commits(20, since, taken["node"])
        assert cluster.lost() == []
        roles = {name: member["role"] for name, member in bare.members().items()}
        assert roles == {taken["node"]: "primary", "n3": "backup"}
        bare.terminate()
        assert bare.wait() == 0
        held = json.loads(run("streams", "--json", environ=bare.environ))  # and when it is stopped
        assert [stream["stream"] for stream in held] == ["stream-0"]


def _check_commands(node: Node) -> None:
    """What the commands say of a node that runs."""
    report = json.loads(run("status", "--json", environ=node.environ))
    assert [member["node"] for member in report["members"]] == ["n1", "n2", "n3"]
    assert sum(member["role"] == "primary" for member in report["members"]) == 1
    (stream,) = json.loads(run("streams", "--json", environ=node.environ))
    assert stream["parts"] == ["head", "filler"]
    assert stream["sequence"] >= 1
    directory = node.data_dir.parent / "exported"
    run("export", "stream-0", "-o", str(directory), environ=node.environ)
    head = json.loads((directory / "head").read_bytes())
    assert hashlib.sha256((directory / "filler").read_bytes()).hexdigest() == head["filler"]
