"""The comparison with other systems: what is asked of them is what the report says."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from bench.compare.__main__ import SYSTEMS, measure_size
from bench.compare.etcd import _request
from bench.compare.raft import OPTIONS, PySyncObj
from bench.compare.system import CHUNK_BYTES, Absent, System, pieces, program, wait_until
from bench.kit.payloads import SIZES
from bench.kit.run import parser


class Fake(System):
    """A system that takes everything."""

    name = "replicator, process"
    durability = "synced on a majority"

    def start(self, base: Path) -> None:
        self.base, self.lock = base, threading.Lock()
        self.puts: list[tuple[int, int]] = []
        self.spawn([sys.executable, "-c", "import time; time.sleep(600)"], base / "log")

    def put(self, stream: int, payload: bytearray) -> None:
        time.sleep(0.001)
        with self.lock:
            self.puts.append((stream, len(payload)))


def test_a_system_is_measured_and_leaves_nothing(tmp_path: Path) -> None:
    """One put after the other over all names, then several at once; servers and files are gone afterwards."""
    options = parser("Why?", "compare").parse_args([])
    options.payload, options.seconds, options.samples = "realistic", 0.02, 20
    with Fake(tmp_path) as system:
        assert isinstance(system, Fake)
        (row,) = measure_size([system], "1 KB", options)
        assert {stream for stream, _ in system.puts} == set(range(8))
        assert {size for _, size in system.puts} == {1000}
        assert (row["process_over"], row["process_times"]) == (1, 1)
    assert list(tmp_path.iterdir()) == []
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    assert not any("time.sleep(600)" in Path(f"/proc/{pid}/cmdline").read_text() for pid in children)


def test_what_fails_beside_others_is_told(tmp_path: Path) -> None:
    """An error of one of several puts at once ends the measurement with that error."""

    class Failing(Fake):
        def put(self, stream: int, payload: bytearray) -> None:
            raise TimeoutError("not replicated")

    with Failing(tmp_path) as system, pytest.raises(TimeoutError, match="not replicated"):
        system.put_for(bytearray(10), 3, 5, lambda payload: None)


def test_what_is_absent_is_said() -> None:
    """A server that is not installed, or does not come, is left out with a word on what would help."""
    with pytest.raises(
        Absent, match="no-a or no-b is not installed; scripts/bench compare --install does it"
    ):
        program("no-a", "no-b")
    with pytest.raises(ValueError, match="other"):
        wait_until("x", lambda: int("other"), (OSError,))


def test_every_payload_is_cut_into_all_of_its_pieces() -> None:
    """Where a system takes no larger message, the pieces are the payload, and of an etcd put every byte."""
    payload = bytearray(os.urandom(2 * CHUNK_BYTES + 1))
    assert b"".join(pieces(payload)) == payload
    assert [len(piece) for piece in pieces(payload)] == [CHUNK_BYTES, CHUNK_BYTES, 1]
    assert _request(b"key", memoryview(b"v" * 300)) == b"\x0a\x03key\x12\xac\x02" + b"v" * 300


def test_the_elector_s_library_is_at_its_best_as_a_data_path(tmp_path: Path) -> None:
    """No put of it waits for a timer, the report says what it was told, and it takes up to 1 MB."""
    with PySyncObj(tmp_path) as system:
        assert isinstance(system, PySyncObj)
        node = system._node
        assert {name: getattr(node.conf, name) for name in OPTIONS} == OPTIONS  # it ignores unknown names
        assert not node.conf.appendEntriesUseBatch
        assert all(f"{name}={value}" in system.remark for name, value in OPTIONS.items())
        for stream, size in enumerate(("1 KB", "64 KB", "1 MB")):
            payload = bytearray(os.urandom(SIZES[size]))
            system.put(stream, payload)
            assert node.state[stream] == payload


def test_classes_are_named_honestly() -> None:
    """Whoever promises less than its class, or more, says so in its remark."""
    remarks = {(each.name, each.durability): each.remark for each in SYSTEMS}
    assert "primary alone" in remarks["Redis, AOF always + WAIT 1", "synced on a majority"]
    assert "memory only" in remarks["Redis, SET + WAIT 1", "not synced, on a majority"]
