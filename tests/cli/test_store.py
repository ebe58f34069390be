"""`replicator streams` and `replicator export`: what a node's store holds, whether the node runs or not."""

from __future__ import annotations

import os
import subprocess
import sys
from errno import ENOSPC
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lmdb
import msgspec
import pytest

from replicator.adapters import store_reader
from replicator.cli import export
from replicator.errors import CheckpointUnreadable, ReplicatorError, Unavailable
from replicator.model import Digest, Manifest, StreamName
from tests.adapters.store_kit import checkpoint
from tests.cli.conftest import Command, StoreMaker

STATE = bytes(range(256)) * 20
NOISE = os.urandom(5000)


@pytest.fixture
def data_dir(store: StoreMaker) -> Path:
    """A stopped node's store with two streams."""
    store.add("orders", STATE)
    store.add("model", {"weights": NOISE, "offset": b"", "../up": b"x"}, committed=False)
    store.close()
    return store.path


def test_streams_are_listed(command: Command, data_dir: Path) -> None:
    """Each stream has a line with its position, whether it is known to be committed, and its size."""
    lines = command("streams", "--data-dir", data_dir).out.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [["model", "3", "2"], ["orders", "3", "1"]]
    assert "not known committed" in lines[1]
    assert "committed" in lines[2]
    assert "5.0 KiB" in lines[2]


def test_a_name_does_not_command_the_terminal(command: Command, store: StoreMaker) -> None:
    """Control characters of a stream's name are shown escaped."""
    store.add("or\x1b[2Jders", STATE)
    store.close()
    out = command("streams", "--data-dir", store.path).out
    assert "or\\x1b[2Jders" in out
    assert "\x1b" not in out


def test_a_copy_that_may_not_be_written_to_is_read(
    command: Command, store: StoreMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without LMDB's lock, which only who may write there can take; beside a running node that is refused."""
    open_really = lmdb.open

    def open_as_a_stranger(path: str, **options: Any) -> lmdb.Environment:
        if options.get("lock", True):
            raise lmdb.ReadonlyError(f"{path}: Permission denied")
        return open_really(path, **options)

    store.add("orders", STATE)
    monkeypatch.setattr(lmdb, "open", open_as_a_stranger)
    outcome = command("export", "orders", "--data-dir", store.path)
    assert (outcome.status, outcome.err.count(str(store.path))) == (1, 1)
    assert "its node runs" in outcome.err
    store.close()
    assert command("export", "orders", "--data-dir", store.path).raw == STATE


def test_streams_as_json(command: Command, data_dir: Path) -> None:
    """Programs get every number, and the names of the parts."""
    model, orders = msgspec.json.decode(command("streams", "--json", data_dir=data_dir).raw)
    assert (model["stream"], model["committed"], model["raw_bytes"]) == ("model", False, 5001)
    assert sorted(model["parts"]) == ["../up", "offset", "weights"]
    assert (orders["epoch"], orders["sequence"]) == (3, 1)
    assert (orders["committed"], orders["raw_bytes"]) == (True, len(STATE))


def test_plain_bytes_come_out_as_they_went_in(command: Command, data_dir: Path, tmp_path: Path) -> None:
    """I7: what is exported is byte for byte what was submitted, to standard output or to a file."""
    assert command("export", "orders", "--data-dir", data_dir).raw == STATE
    outcome = command("export", "orders", "-o", tmp_path / "orders.bin", "--data-dir", data_dir)
    assert (outcome.status, outcome.out) == (0, "")
    assert (tmp_path / "orders.bin").read_bytes() == STATE
    assert not list(tmp_path.glob(".orders*"))


def test_what_is_no_file_does_not_become_one(command: Command, data_dir: Path, tmp_path: Path) -> None:
    """A pipe or a device is written to, not replaced; and what a link names is replaced, not the link."""
    pipe, link, named = tmp_path / "pipe", tmp_path / "link", tmp_path / "named"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    named.write_text("old")
    link.symlink_to(named)
    for path in (pipe, link):
        outcome = command("export", "orders", "-o", path, "--data-dir", data_dir)
        assert (outcome.status, outcome.err) == (0, "")
    assert os.read(reader, 2 * len(STATE)) == STATE
    os.close(reader)
    assert (pipe.is_fifo(), link.is_symlink(), named.read_bytes()) == (True, True, STATE)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1"])
def test_standard_output_by_its_name_keeps_what_is_in_it(name: str, data_dir: Path, tmp_path: Path) -> None:
    """Whoever collects several checkpoints in one file gets them all, and no other file appears."""
    export = f"{sys.executable} -m replicator export orders --data-dir {data_dir} -o {name}"
    collected = tmp_path / "out" / "collected"
    collected.parent.mkdir()
    script = f"(echo before; {export}; {export}; echo after) >{collected}"
    subprocess.run(["bash", "-c", script], check=True)
    assert collected.read_bytes() == b"before\n" + 2 * STATE + b"after\n"
    assert list(collected.parent.iterdir()) == [collected]


def test_an_interrupted_export_leaves_no_draft(
    command: Command, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a piece of the file nor one beside it; what was there before stays."""
    kept = tmp_path / "orders.bin"
    kept.write_text("old")
    write = Path.write_bytes

    def write_some(path: Path, content: bytes) -> None:
        write(path, bytes(content)[:7])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", write_some)
    assert command("export", "orders", "-o", kept, "--data-dir", data_dir).status == 130
    assert kept.read_text() == "old"
    assert not list(tmp_path.glob(".orders*"))


def test_one_part_of_many(command: Command, data_dir: Path) -> None:
    """A part is exported by its name, an empty one too."""
    assert command("export", "model", "--part", "weights", "--data-dir", data_dir).raw == NOISE
    outcome = command("export", "model", "--part", "offset", "--data-dir", data_dir)
    assert (outcome.status, outcome.raw) == (0, b"")


def test_parts_go_to_a_directory(command: Command, store: StoreMaker, tmp_path: Path) -> None:
    """A checkpoint made of parts becomes a directory with a file for each part."""
    store.add("model", {"weights": NOISE, "offset": b""})
    store.close()
    assert command("export", "model", "-o", tmp_path / "out", "--data-dir", store.path).status == 0
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == {
        "weights": NOISE,
        "offset": b"",
    }


@pytest.mark.parametrize("is_new", [True, False])
def test_parts_that_find_no_room_leave_nothing(
    is_new: bool, command: Command, store: StoreMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some parts of many would pass for all; a directory that was there before stays, with what it has."""
    store.add("model", {"weights": NOISE, "offset": b"", "rest": b"x"})
    store.close()
    out = tmp_path / "deep" / "out"
    if not is_new:
        out.mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    write = Path.write_bytes

    def write_small(path: Path, content: bytes) -> int:
        if len(content) == len(NOISE):
            raise OSError(ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_small)
    outcome = command("export", "model", "-o", out, "--data-dir", store.path)
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err == f"replicator: cannot write {out}/weights: No space left on device\n"
    assert sorted(path for path in tmp_path.rglob("*") if path.name not in ("offset", "rest")) == before
    assert out.exists() == (not is_new)


def test_a_part_s_name_does_not_command_the_terminal(
    command: Command, store: StoreMaker, tmp_path: Path
) -> None:
    """Control characters of it are shown escaped, whatever is said of it."""
    store.add("model", {"we\x1b[2Jights": NOISE, "offset": b""})
    store.close()
    (tmp_path / "out" / "we\x1b[2Jights").mkdir(parents=True)
    for words in ([], ["--part", "bias"], ["-o", tmp_path / "out"]):
        err = command("export", "model", *words, "--data-dir", store.path).err
        assert "we\\x1b[2Jights" in err
        assert "\x1b" not in err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["order"], "no stream 'order' in "),
        (["model"], "made of parts"),
        (["model", "--part", "bias"], "no part 'bias', only: "),
        (["orders", "--part", "bias"], "orders is not made of parts: leave --part out"),
        (["model", "-o", "out"], "the part '../up' cannot be a file's name"),
        (["orders", "-o", "absent/orders.bin"], "cannot write absent/orders.bin: No such file or directory"),
    ],
)
def test_mistakes_are_one_line(
    command: Command, data_dir: Path, words: list[str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be exported is told in one line, and nothing is written."""
    monkeypatch.chdir(data_dir.parent)
    outcome = command("export", *words, "--data-dir", data_dir)
    assert (outcome.status, outcome.out) == (1, "")
    assert text in outcome.err
    assert outcome.err.count("\n") == 1
    assert [path.name for path in data_dir.parent.iterdir()] == ["data"]


def test_a_running_node_is_not_in_the_way(store: StoreMaker) -> None:
    """The store of a node that runs can be read by another process, and the node goes on writing."""
    store.add("orders", STATE)
    words = [sys.executable, "-m", "replicator", "export", "orders", "--data-dir", str(store.path)]
    assert subprocess.run(words, capture_output=True, check=True).stdout == STATE
    store.add("orders", NOISE)
    assert subprocess.run(words, capture_output=True, check=True).stdout == NOISE


def test_a_directory_without_a_store(command: Command, tmp_path: Path) -> None:
    """A wrong directory is told in one line."""
    outcome = command("streams", "--data-dir", tmp_path)
    assert outcome.status == 1
    assert outcome.err.startswith(f"replicator: no store in {tmp_path}")


def test_a_stream_that_is_replaced_again_and_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time that it is read another checkpoint has taken its place: as often as is worth it."""
    asked: list[str] = []

    class Restless:
        """A reader beside a node that commits faster than it reads."""

        def __init__(self, data_dir: Path) -> None:
            """Nothing is opened."""

        def manifest(self, stream: StreamName) -> Manifest:
            asked.append(stream)
            return checkpoint(stream, len(asked))[0]

        def chunk(self, digest: Digest) -> None:
            """It is gone already."""

        def close(self) -> None:
            """Nothing is open."""

    monkeypatch.setattr(store_reader, "StoreReader", Restless)
    with pytest.raises(CheckpointUnreadable):
        export._read(Path(), StreamName("s"))
    assert len(asked) == 2 * export.ATTEMPTS_MAX


def test_what_could_not_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the file, nor what was to become it."""

    def refuses(draft: Path, target: Path) -> None:
        raise OSError(ENOSPC, os.strerror(ENOSPC))

    monkeypatch.setattr(Path, "replace", refuses)
    with pytest.raises(ReplicatorError, match="No space left"):
        export._write(tmp_path / "file", b"content")
    assert list(tmp_path.iterdir()) == []


def test_a_deleted_stream_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tombstone is no empty checkpoint, and nobody is told to export it."""
    deleted, _ = checkpoint("gone", 2, tombstone=True)
    streams = [(SimpleNamespace(stream="gone", tombstone=True), deleted, True)]
    reader = SimpleNamespace(manifest=lambda stream: deleted, streams=lambda: streams, close=lambda: None)
    monkeypatch.setattr(store_reader, "StoreReader", lambda data_dir: reader)
    with pytest.raises(Unavailable, match=r"no stream 'gone' in .*, only: none"):
        export._read(Path(), StreamName("gone"))
