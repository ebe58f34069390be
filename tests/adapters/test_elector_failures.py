"""What PySyncObj, left to itself, would do when something fails or somebody lies; named after the traps."""

from __future__ import annotations

import logging
import os
import pickle
import threading
from pathlib import Path

import msgspec
import pytest
from pysyncobj import SyncObj
from pysyncobj.version import VERSION

from replicator.adapters.elector import Letter, PySyncObjElector
from replicator.adapters.raft import PRIVATES, RequestVote, configure
from replicator.errors import ReplicatorError
from replicator.model import NodeId
from tests.adapters.elector_cluster import Cluster


def nothing() -> None:
    """A callback."""


# ── failures ──


def test_callbacks_that_raise(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """They are logged; leadership is held, lost and taken as if they had not raised."""
    cluster = Cluster(monkeypatch)

    def fail() -> None:
        raise KeyError("user")

    for name in cluster.names:
        monkeypatch.setattr(cluster[name], "_on_grant", fail)
        monkeypatch.setattr(cluster[name], "_on_revoke", fail)
    leader = cluster.elect()
    cluster[leader].transfer(None)
    assert cluster.elect() != leader
    assert caplog.text.count("elector callback failed") == 3


def test_ticks_that_raise_give_leadership_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A leader whose PySyncObj fails inside is revoked at once, and says why, though not at each tick."""
    cluster = Cluster(monkeypatch)
    leader = cluster.elect()
    cluster.run(1)

    def fail(timeout: float) -> None:
        raise TypeError("cannot pickle")

    monkeypatch.setattr(cluster[leader]._raft._object, "doTick", fail)
    cluster.run_until(lambda: not cluster[leader].leading, limit_s=0.03)
    assert cluster.elect(limit_s=2) != leader
    cluster.run(8)
    assert 1 < caplog.text.count("elector failed") < 15


def test_compaction_with_an_attribute_that_cannot_be_pickled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There is never anything to compact: a lock set on the SyncObj does no harm after minutes."""
    cluster = Cluster(monkeypatch)
    for name in cluster.names:
        inner = cluster[name]._raft._object
        inner.lock = threading.Lock()
        inner._getConf().logCompactionMinTime = 2
    for _ in range(10):
        cluster[cluster.elect()].transfer(None)
        cluster.run(3)
        inner.forceLogCompaction()
    assert [cluster[name]._raft._object._getRaftLogSize() for name in cluster.names] == [1, 1, 1]
    assert "failed" not in caplog.text


def test_the_log_is_quiet(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """PySyncObj has nothing to complain of (truncation is CRITICAL), and its logger is left as it is."""
    caplog.set_level(logging.DEBUG)
    cluster = Cluster(monkeypatch)
    for _ in range(5):
        leader = cluster.elect()
        cluster.kill(leader)
        cluster.elect()
        cluster.start(leader)
        cluster.run(1)
    assert not [record for record in caplog.records if record.name.startswith("pysyncobj")]
    assert not logging.getLogger("pysyncobj").handlers
    assert logging.getLogger("pysyncobj").propagate


def test_unknown_conf_names() -> None:
    """A setting that PySyncObj does not know is an error, not silently ignored."""
    with pytest.raises(ReplicatorError, match="raftMinimumTimeout"):
        configure(raftMinimumTimeout=1)
    assert configure(raftMinTimeout=1).raftMinTimeout == 1


def test_a_destroyed_object_leads_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """PySyncObj says so of itself; after `close` we do not, and nothing revives it."""
    cluster = Cluster(monkeypatch)
    leader = cluster.elect()
    elector = cluster[leader]
    elector.close()
    elector.close()
    assert elector._raft.leading
    assert not elector.leading
    assert elector.leader is None
    assert cluster.history[-1][1:] == (leader, False)
    sent = len(cluster.sent)
    elector.tick(cluster.now)
    elector.receive(NodeId("b"), b"")
    elector.transfer(None)
    elector.set_electable(False)
    assert len(cluster.sent) == sent


# ── the outside ──


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.putenv, ("EXPLODED=1",)


def test_no_pickle_on_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickles, snapshots, commands and membership changes have no type: they are dropped."""
    monkeypatch.setattr(pickle, "loads", None)
    monkeypatch.setattr(pickle, "load", None)
    cluster = Cluster(monkeypatch, "ab")
    leader = cluster.elect()
    follower = cluster.followers()[0]
    bomb = pickle.dumps(Bomb(), protocol=2)
    heartbeat = {"type": "append_entries", "term": 10, "commit_index": 1, "prevLogIdx": 1, "prevLogTerm": 0}
    sayings: list[object] = [
        heartbeat | {"entries": [(b"\x00" + bomb, 2, 10)]},
        heartbeat | {"entries": [(b"\x02" + bomb, 2, 10)]},
        heartbeat | {"entries": [], "transmission": "finish", "data": bomb},
        {"type": "append_entries", "term": 10, "commit_index": 1, "serialized": (bomb, True, True)},
        {"type": "apply_command", "command": bomb},
        {"type": "next_node_idx", "next_node_idx": 1, "reset": True, "success": False},
        {"type": "request_vote", "term": 10, "last_log_index": 1, "last_log_term": 0, "more": 1},
        {"type": "request_vote", "term": -1, "last_log_index": 1, "last_log_term": 0},
    ]
    payloads = [msgspec.msgpack.encode([True, True, saying]) for saying in sayings]
    for payload in [*payloads, bomb, b"", b"\x93\xc3\xc3", bytes(10_000)]:
        cluster[follower].receive(NodeId(leader), payload)
        cluster[leader].receive(NodeId(follower), payload)
    cluster.run(3)
    assert cluster.agreed() == leader
    assert max(cluster.terms()) < 10


def test_a_stranger_is_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only configured peers count, and not oneself."""
    cluster = Cluster(monkeypatch)
    leader = cluster.elect()
    vote = msgspec.msgpack.encode(Letter(True, True, RequestVote(99, 1, 0)))
    for name in ("stranger", leader):
        cluster[leader].receive(NodeId(name), vote)
    assert cluster.leaders() == [leader]


def test_no_port_no_thread_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Electors open nothing, run no thread, and leave nothing behind."""

    def opened() -> set[str]:
        return {os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}

    before, threads = opened(), threading.active_count()
    clusters = [Cluster(monkeypatch, "abc") for _ in range(5)]
    clusters[-1].elect()
    after = opened()
    assert not [name for name in after - before if name.startswith(("socket:", "pipe:"))]
    assert threading.active_count() == threads
    for cluster in clusters:
        cluster.close()


def test_messages_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every letter is far below its bound, after many elections too."""
    cluster = Cluster(monkeypatch, "abcde")
    for _ in range(10):
        cluster[cluster.elect()].transfer(None)
        cluster.run(1)
    assert max(len(payload) for _, _, payload in cluster.sent) < 128


# ── the pin ──


def test_the_version_whose_privates_are_used() -> None:
    """A new PySyncObj must be read before it is used: what we touch of it has no promise behind it."""
    assert VERSION == "0.3.17"


@pytest.mark.parametrize("name", PRIVATES)
def test_a_private_part_that_is_gone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """If one of them is missing, the elector refuses to start instead of setting what nobody reads."""

    class Newer(SyncObj):  # type: ignore[misc]
        """A PySyncObj without that part."""

        def __getattribute__(self, attribute: str) -> object:
            if attribute == f"_SyncObj__{name}" and self.__dict__.get("renamed"):
                raise AttributeError(attribute)
            return super().__getattribute__(attribute)

        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)
            self.renamed = True

    monkeypatch.setattr("replicator.adapters.raft.SyncObj", Newer)
    with pytest.raises(ReplicatorError, match=name):
        PySyncObjElector(
            NodeId("a"), frozenset(), send=lambda to, payload: True, on_grant=nothing, on_revoke=nothing
        )
