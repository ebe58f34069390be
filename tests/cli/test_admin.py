"""`replicator status` and `replicator abandon`: what a running node is asked, and how its answer is shown."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest

from tests.cli.conftest import Command, StartNode

REPORT = {
    "node": "edge-1",
    "cluster": "plant",
    "members": [
        {
            "node": "edge-1",
            "reachable": True,
            "role": "primary",
            "epoch": 4,
            "lease_s": 0.231,
            "active": True,
            "leader": "edge-1",
            "durability": "disk",
            "full": False,
            "lacking": {"edge-5": None, "edge-3": None, "edge-2": 1, "edge-4": 0},
            "withheld": ["model", "trades"],
            "withheld_left_out": 3,
            "streams": [
                {
                    "stream": "orders",
                    "head": {"epoch": 4, "sequence": 17},
                    "commit": {"epoch": 4, "sequence": 17},
                    "lag_bytes": 0,
                    "lag_s": 0.0,
                },
                {
                    "stream": "model",
                    "head": {"epoch": 4, "sequence": 9},
                    "readable": False,
                    "lag_bytes": None,
                },
            ],
            "usage": {"chunks": 12},
        },
        {
            "node": "edge-2",
            "reachable": True,
            "role": "backup",
            "epoch": 4,
            "lease_s": 0.0,
            "durability": "memory",
            "full": True,
            "hangs": False,
            "streams": [
                {
                    "stream": "orders",
                    "head": {"epoch": 4, "sequence": 16},
                    "commit": {"epoch": 4, "sequence": 15},
                    "lag_bytes": 4096,
                    "lag_s": 0.2,
                }
            ],
        },
        {"node": "edge-3", "reachable": False},
        {"node": "edge-4", "reachable": True, "role": "primary", "epoch": 3, "streams": []},
        {"node": "edge-5", "reachable": True, "role": "founding", "waiting_for": "edge-3", "hangs": True},
    ],
}


def test_status_shows_every_member(command: Command, fake_node: StartNode) -> None:
    """Role, epoch, lease and each stream's progress of every member; one that is unreachable is named so, and
    so are those of whom the primary does not know what they lack, streams of which nobody knows, checkpoints
    that are damaged, and streams that the primary is without, with what there is to do."""
    node, data_dir = fake_node(REPORT)
    outcome = command("status", "--data-dir", data_dir)
    assert node.asked == [{"command": "status"}]
    assert [" ".join(line.split()) for line in outcome.out.splitlines()] == [
        "cluster plant, as seen by edge-1",
        "",
        "node role epoch lease durability stream head commit behind",
        "edge-1 primary 4 0.23 s disk orders 4.17 4.17",
        "model 4.9, damaged unknown",
        "edge-2 backup, disk full 4 memory orders 4.16 4.15 4.0 KiB, 0.2 s",
        "edge-3 unreachable",
        "edge-4 primary, suspended 3",
        "edge-5 founding, waiting for edge-3, disk hangs",
        "",
        "unknown to edge-1 yet, what they lack: edge-3, edge-5",
        "",
        "edge-1 is primary without model, trades and 3 more:",
        "no node that is up can read its newest checkpoint, or too few disks",
        "have room for it; start what is down, make room, or give it up with `replicator abandon`",
    ]


def test_status_says_when_there_is_no_majority(command: Command, fake_node: StartNode) -> None:
    """Half of the members are none, nor are those that are there and do not count, their stores being new or
    faulty; and a node without peers has a lease without limit, however rounded. Where half of the disks are
    new no majority can take them in any more, and it says what to do (R20)."""
    members = [{"node": "a", "reachable": True, "role": "primary", "active": True, "lease_s": 3599.9}]
    report = {"node": "a", "cluster": "plant", "members": [*members, {"node": "b", "reachable": False}]}
    _, data_dir = fake_node(report)
    out = command("status", "--data-dir", data_dir).out
    assert out.endswith("\nno majority: 1 of 2 members are up and count; nothing commits\n")
    assert "unlimited" in out
    members += [{"node": node, "reachable": True, "role": "joining"} for node in "bc"]
    _, data_dir = fake_node({**report, "members": members})
    out = command("status", "--data-dir", data_dir).out
    no_majority = "\nno majority: 1 of 3 members are up and count; nothing commits\n"
    assert no_majority in out
    assert "too many disks are new for the others to take them in: b, c; put old ones back, or begin" in out
    half = [*members, {"node": "d", "reachable": True, "role": "backup"}]
    _, data_dir = fake_node({**report, "members": half})
    assert "too many disks are new" in command("status", "--data-dir", data_dir).out
    members[1]["role"] = "faulty"
    _, data_dir = fake_node({**report, "members": members})
    assert command("status", "--data-dir", data_dir).out.endswith(no_majority)


def test_status_tells_as_much_of_a_lag_as_is_known(command: Command, fake_node: StartNode) -> None:
    """Its size, its age, or both; where neither is, and there may be one, it says so."""
    lags = [(4096, None), (4096, 0.25), (0, 0.25), (0, 0.0), (0, None), (None, None)]
    streams = [
        {"stream": f"s{number}", "lag_bytes": size, "lag_s": age} for number, (size, age) in enumerate(lags)
    ]
    member = {"node": "a", "reachable": True, "role": "backup", "streams": streams, "streams_left_out": 5}
    _, data_dir = fake_node({"node": "a", "cluster": "plant", "members": [member]})
    *rows, more = command("status", "--data-dir", data_dir).out.splitlines()[3:10]
    assert more.split() == ["and", "5", "more"]
    told = [row.partition(f"s{number}")[2].strip() for number, row in enumerate(rows)]
    assert told == ["4.0 KiB", "4.0 KiB, 0.2 s", "0.2 s", "", "unknown", "unknown"]


@pytest.mark.parametrize("role", ["primary", "backup"])
def test_status_tells_of_a_change_of_members_where_it_is_made(
    command: Command, fake_node: StartNode, role: str
) -> None:
    """The primary makes it; the others only have its record."""
    member = {"node": "a", "reachable": True, "role": role, "active": True, "changing": True}
    _, data_dir = fake_node({"node": "a", "cluster": "plant", "members": [member]})
    out = command("status", "--data-dir", data_dir).out
    assert ("primary, members changing" in out) == ("members changing" in out) == (role == "primary")


def test_status_as_json_is_the_node_s_own_answer(command: Command, fake_node: StartNode) -> None:
    """Programs get everything that the node says."""
    _, data_dir = fake_node(REPORT)
    assert msgspec.json.decode(command("status", "--json", data_dir=data_dir).raw) == REPORT


@pytest.mark.parametrize("name", ["", "absent", "x" * 100])
def test_a_node_that_does_not_run(command: Command, tmp_path: Path, name: str) -> None:
    """One clear line and status 1 when no node runs on the directory, however long its path is."""
    outcome = command("status", "--data-dir", tmp_path / name)
    assert outcome.status == 1
    assert outcome.err.startswith(f"replicator: no node answers in {tmp_path / name}")
    assert outcome.err.count("\n") == 1


def test_a_refusal_is_told_in_the_node_s_words(command: Command, fake_node: StartNode) -> None:
    """What a node refuses ends with its reason and status 1."""
    _, data_dir = fake_node({"error": "not primary"})
    outcome = command("abandon", "orders", "--yes", data_dir=data_dir)
    assert (outcome.status, outcome.out, outcome.err) == (1, "", "replicator: not primary\n")


def test_abandon_asks_first(command: Command, fake_node: StartNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is given up without a yes: not on a no, and not where nobody can answer."""
    node, data_dir = fake_node({"ok": True, "position": [4, 17], "instead": None})
    for answer in ("n\n", ""):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        assert command("abandon", "orders", data_dir=data_dir).status == 1
    assert node.asked == []
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    outcome = command("abandon", "orders", data_dir=data_dir)
    assert outcome.status == 0
    assert outcome.out.endswith("orders: epoch 4 sequence 17 is given up; the stream is deleted\n")
    assert node.asked == [{"command": "abandon", "stream": "orders"}]


def test_abandon_says_what_comes_instead(command: Command, fake_node: StartNode) -> None:
    """What is given up and what takes its place, by position; and nothing of the kind when nothing was."""
    _, data_dir = fake_node({"ok": True, "position": [4, 17], "instead": [3, 16]})
    assert command("abandon", "orders", "--yes", data_dir=data_dir).out == (
        "orders: epoch 4 sequence 17 is given up; epoch 3 sequence 16 is restored once this node holds it\n"
    )
    _, data_dir = fake_node({"error": "nothing was changed: ask again"})
    outcome = command("abandon", "orders", "--yes", data_dir=data_dir)
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err == "replicator: nothing was changed: ask again\n"


@pytest.mark.parametrize("name", ["", "e" * 64, "e" * 5000, "edge 2", ".edge"])
def test_nobody_is_asked_to_hand_over_to_what_is_no_node(
    command: Command, fake_node: StartNode, name: str
) -> None:
    """Nor to anybody, where the name is empty: a script may have had none to put there."""
    node, data_dir = fake_node({"ok": True, "primary": "edge-3"})
    outcome = command("handover", name, "--data-dir", data_dir)
    assert (outcome.status, outcome.out, node.asked) == (2, "", [])
    assert outcome.err.startswith(f"replicator: Invalid value: {name!r} is not a name of 1 to 63 letters")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("name", ["", "s" * 256, "é" * 128, "s" * 5000])
def test_nobody_is_asked_to_abandon_what_is_no_stream(
    command: Command, fake_node: StartNode, name: str
) -> None:
    """A request that is too large would have no answer, as if the node did not run."""
    node, data_dir = fake_node({"ok": True, "position": [4, 17], "instead": None})
    outcome = command("abandon", name, "--yes", "--data-dir", data_dir)
    assert (outcome.status, outcome.out, node.asked) == (2, "", [])
    assert outcome.err.startswith("replicator: Invalid value: a stream's name has 1 to 255 bytes of UTF-8")
    assert outcome.err.count("\n") == 1
    command("abandon", longest := "é" * 127, "--yes", "--data-dir", data_dir)
    assert node.asked == [{"command": "abandon", "stream": longest}]


def test_a_node_is_named_where_no_home_directory_is_known(
    command: Command, fake_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name is looked at by itself."""
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    _, data_dir = fake_node({"ok": True, "primary": "edge-2"})
    assert command("handover", "edge-2", "--data-dir", data_dir).out == "edge-2 takes over\n"
    assert command("keygen", "edge-1", "edge-2", "-o", data_dir / "keys").status == 0


def test_handover_names_who_takes_over(command: Command, fake_node: StartNode) -> None:
    """With a name it is that node or nobody; without one the answer says who it is."""
    node, data_dir = fake_node({"ok": True, "primary": "edge-2"})
    for arguments in ((), ("edge-2",)):
        outcome = command("handover", *arguments, data_dir=data_dir)
        assert (outcome.status, outcome.out) == (0, "edge-2 takes over\n")
    assert node.asked == [{"command": "handover"}, {"command": "handover", "to": "edge-2"}]
    _, data_dir = fake_node({"error": "edge-3 is not reachable"})
    outcome = command("handover", "edge-3", data_dir=data_dir)
    assert (outcome.status, outcome.out, outcome.err) == (1, "", "replicator: edge-3 is not reachable\n")
