"""Opening a store: whose it is, who has it, what is damaged, what a crash leaves, and how others read it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from replicator.adapters import store as store_module, store_meta
from replicator.adapters.store import LmdbStore
from replicator.adapters.store_reader import StoreReader
from replicator.adapters.store_record import FORMAT_VERSION, seal
from replicator.core.effects import AdoptHeads
from replicator.core.events import HeadsAdopted
from replicator.errors import StoreDamaged, StoreError, StoreInUse
from replicator.model import Digest, Epoch, NodeId, StreamName
from tests.adapters.store_kit import DEADLINE_S, MIB, Opened, Stores, checkpoint, orders

ROOT = Path(__file__).parents[2]


def python(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Run a script in another process, in which the tests' modules can be imported."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def one_line(error: pytest.ExceptionInfo[StoreError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# ── whose it is ──


def test_a_store_belongs_to_one_node_of_one_cluster(stores: Stores) -> None:
    """Another node's or cluster's directory is refused, by name, and with what to do."""
    stores.open().store.close()
    with pytest.raises(StoreError, match="belongs to node 'edge-1' of cluster 'test', not to 'edge-2'"):
        stores.open(node=NodeId("edge-2"))
    with pytest.raises(StoreError, match="not to 'edge-1' of 'other'; choose another REPLICATOR_DATA_DIR"):
        stores.open(cluster="other")


def test_r20_a_store_keeps_its_incarnation_and_a_new_one_has_another(stores: Stores, tmp_path: Path) -> None:
    """An incarnation is made with the store."""
    first = stores.open().durable.incarnation
    assert len(first) == 16
    assert stores.reopen().durable.incarnation == first
    with Stores(tmp_path / "other") as others:
        assert others.open().durable.incarnation != first


@pytest.mark.parametrize("version", [FORMAT_VERSION - 1, FORMAT_VERSION + 1])
def test_another_format_is_refused(version: int, stores: Stores) -> None:
    """Rather than misread."""
    stores.open().store.close()
    write(stores.path / "meta", store_meta.FORMAT_KEY, seal(store_meta.FORMAT_KEY, version))
    with pytest.raises(StoreError, match=f"has format {version}, .* use the program that made it") as error:
        stores.open()
    one_line(error)


def test_the_directory_is_private(stores: Stores) -> None:
    """Checkpoints are nobody else's business."""
    stores.open()
    assert stores.path.stat().st_mode & 0o777 == 0o700


def test_a_second_process_is_refused(stores: Stores) -> None:
    """With the directory and the holder's process id in one line; the lock goes with its holder."""
    holder = python(
        "import sys; from pathlib import Path; from tests.adapters.store_kit import Opened\n"
        "opened = Opened(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()",
        stores.path,
    )
    assert holder.stdout
    assert holder.stdout.readline() == "open\n"
    with pytest.raises(StoreInUse) as error:
        stores.open()
    message = one_line(error)
    assert f"{stores.path} is in use by process {holder.pid};" in message
    holder.kill()
    holder.communicate(timeout=DEADLINE_S)
    stores.open()


# ── damage ──


def write(path: Path, key: bytes, value: bytes | None) -> None:
    """Meddle with an environment behind the store's back."""
    with lmdb.open(str(path), map_size=64 * MIB) as environment, environment.begin(write=True) as txn:
        if value is None:
            assert txn.delete(key)
        else:
            txn.put(key, value)


def keys(path: Path, prefix: bytes) -> list[bytes]:
    with lmdb.open(str(path), map_size=64 * MIB) as environment, environment.begin() as txn:
        return [bytes(key) for key, _ in txn.cursor() if bytes(key).startswith(prefix)]


@pytest.mark.parametrize(
    ("environment", "prefix"),
    [("meta", b"promise"), ("meta", b"identity"), ("payload", b"h"), ("payload", b"m"), ("payload", b"state"),
     ("payload", b"bulk")],
)  # fmt: skip
def test_r21_a_damaged_record_makes_the_store_faulty(stores: Stores, environment: str, prefix: bytes) -> None:
    """One bit is enough; it is never silently shorter."""
    fill(stores.open())
    path = stores.path / environment
    key = keys(path, prefix)[0]
    with lmdb.open(str(path), map_size=64 * MIB) as opened, opened.begin(write=True) as txn:
        value = bytearray(txn.get(key, b""))
        value[-1] ^= 1
        txn.put(key, bytes(value))
    with pytest.raises(StoreDamaged, match=r"fails its checksum; move .* away: among peers") as error:
        stores.open()
    one_line(error)


@pytest.mark.parametrize("prefix", [b"h", b"m", b"bulk", b"state"])
def test_r21_a_lost_record_makes_the_store_faulty(stores: Stores, prefix: bytes) -> None:
    """The fingerprint over all heads notices what vanished without a trace."""
    fill(stores.open())
    write(stores.path / "payload", keys(stores.path / "payload", prefix)[0], None)
    with pytest.raises(StoreDamaged):
        stores.open()


def test_r21_a_head_that_went_back_in_time_is_noticed(stores: Stores) -> None:
    """A record that is sound in itself, but not the newest."""
    opened = stores.open()
    opened.promise(1)
    opened.accept("s", 1)
    opened.store.close()
    path = stores.path / "payload"
    (key,) = keys(path, b"h")
    with lmdb.open(str(path), map_size=64 * MIB) as environment, environment.begin() as txn:
        old = txn.get(key, b"")
    opened = stores.open()
    opened.accept("s", 2)
    opened.store.close()
    write(path, key, old)
    with pytest.raises(StoreDamaged):
        stores.open()


def test_r21_a_truncated_file_makes_the_store_faulty(stores: Stores) -> None:
    """And is not a bus error."""
    fill(stores.open())
    data = stores.path / "payload" / "data.mdb"
    os.truncate(data, data.stat().st_size // 2)
    with pytest.raises(StoreDamaged, match="cut short"):
        stores.open()


@pytest.mark.parametrize("lost", ["meta", "payload"])
def test_r21_half_a_store_is_faulty(stores: Stores, lost: str) -> None:
    """Neither half is made anew beside the other."""
    fill(stores.open())
    for file in (stores.path / lost).iterdir():
        file.unlink()
    with pytest.raises(StoreDamaged):
        stores.open()


def fill(opened: Opened) -> None:
    """Something of everything, closed."""
    opened.promise(1)
    for stream in ("a", "b"):
        opened.accept(stream, 1, stream.encode() * 10_000)
    opened.promise(2)
    opened.store.perform(AdoptHeads(Epoch(2), frozenset({StreamName("a")})))
    assert isinstance(opened.next(), HeadsAdopted)
    opened.store.close()


# ── durability "memory" ──


def crash(stores: Stores, tmp_path: Path) -> Path:
    """A copy of the open store as a dying process leaves it."""
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", stores.path, copy], check=True)
    return copy


def test_r20_unsynced_payload_is_given_up_after_the_machine_went_down(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The replica has amnesia: a new incarnation, no promise, nothing stored; and says so. It knows how high
    epochs had come, also if that happens again before it promises anything."""
    opened = stores.open(durability="memory")
    opened.promise(7)
    opened.accept("s", 1, at=7)
    with Stores(crash(stores, tmp_path)) as copies:
        for module in (store_meta, store_module):
            monkeypatch.setattr(module, "boot_id", lambda: "another boot")
        durable = copies.open(durability="memory").durable
        assert (durable.heads, durable.promise, durable.counter) == ((), None, 0)
        assert durable.epoch_seen == 7
        assert durable.incarnation != opened.durable.incarnation
        assert "was not synced" in caplog.text
        assert copies.reopen(durability="memory").durable.incarnation == durable.incarnation
        (again := tmp_path / "again").mkdir()
        with Stores(crash(copies, again)) as later:
            monkeypatch.setattr(store_module, "boot_id", lambda: "a third boot")
            new = later.open(durability="memory").durable
            assert (new.incarnation != durable.incarnation, new.epoch_seen) == (True, 7)


def test_r13_unsynced_payload_survives_the_death_of_the_process(stores: Stores, tmp_path: Path) -> None:
    """The same boot: the kernel still has it."""
    opened = stores.open(durability="memory")
    opened.promise(1)
    manifest = opened.accept("s", 1)
    with Stores(crash(stores, tmp_path)) as copies:
        assert copies.open(durability="memory").is_readable(manifest)


@pytest.mark.parametrize("durability", ["memory", "disk"])
def test_r13_a_store_closed_in_order_survives_a_new_boot(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    """Closing syncs; so does opening with durability=disk."""
    opened = stores.open(durability="memory")
    opened.promise(1)
    manifest = opened.accept("s", 1)
    opened = stores.reopen(durability=durability)
    opened.store.close()
    monkeypatch.setattr(store_module, "boot_id", lambda: "another boot")
    assert stores.open(durability=durability).is_readable(manifest)


# ── growth, crash, readers ──


def test_the_map_grows_by_itself(stores: Stores) -> None:
    """Also within one checkpoint, and while others read."""
    opened = stores.open(map_bytes_initial=MIB)
    opened.promise(1)
    pieces = [bytes([n]) * 100_000 for n in range(200)]
    manifest = opened.accept("s", 1, *pieces)
    assert opened.is_readable(manifest)
    assert stores.reopen(map_bytes_initial=MIB).is_readable(manifest)


KILLED = """
import sys
from pathlib import Path
from tests.adapters.store_kit import Opened
opened = Opened(Path(sys.argv[1]), keep=0)
opened.promise(opened.durable.promise.epoch + 1 if opened.durable.promise else 1)
epoch = int(opened.durable.promise.epoch if opened.durable.promise else 0) + 1
sequence = {head.stream: head.sequence for head in opened.durable.heads}
for n in range(10_000):
    stream = "abc"[n % 3]
    sequence[stream] = sequence.get(stream, 0) + 1
    pieces = [bytes([n % 251, i]) * 5000 for i in range(8)]
    manifest = opened.accept(stream, sequence[stream], *pieces, at=epoch)
    print(stream, epoch, sequence[stream], manifest.digest.hex(), flush=True)
    opened.mark(manifest)
"""


def test_i5_everything_acknowledged_is_found_after_kill_9(stores: Stores) -> None:
    """Whenever the process is killed, the store opens and every acknowledged head is there and readable."""
    for acknowledged in (1, 7, 40):
        writer = python(KILLED, stores.path)
        assert writer.stdout
        lines = [writer.stdout.readline() for _ in range(acknowledged)]
        os.kill(writer.pid, signal.SIGKILL)
        rest, errors = writer.communicate(timeout=DEADLINE_S)
        lines += rest.splitlines(keepends=True)
        told = [line.split() for line in lines if line.endswith("\n")]
        assert len(told) >= acknowledged, errors
        newest = {stream: (int(epoch), int(sequence), digest) for stream, epoch, sequence, digest in told}
        opened = stores.open(keep=0)
        heads = {head.stream: head for head in opened.durable.heads}
        assert opened.durable.promise is not None
        for stream, (epoch, sequence, digest) in newest.items():
            head = heads[stream]
            assert opened.durable.promise.epoch == epoch
            assert head.order >= (epoch, sequence)
            manifest = opened.store.read_manifest(StreamName(stream))
            assert manifest is not None
            assert opened.is_readable(manifest)
            assert head.digest.hex() == digest or head.sequence > sequence
        opened.store.close()


READER = """
import sys
from pathlib import Path
from replicator.adapters.store_reader import StoreReader
reader = StoreReader(Path(sys.argv[1]))
for line in sys.stdin:
    for head, manifest, committed in reader.streams():
        whole = all(reader.chunk(chunk.stored_digest) for part in manifest.parts for chunk in part.chunks)
        assert reader.manifest(head.stream) == manifest
        print(head.stream, head.accepted_epoch, head.sequence, committed, whole)
    print("all", flush=True)
"""


def test_a_reader_sees_a_running_store(stores: Stores) -> None:
    """From another process, without stopping it, also after its map has grown."""
    opened = stores.open(map_bytes_initial=MIB)
    opened.promise(1)
    opened.accept("a", 1)
    reader = python(READER, stores.path)
    assert reader.stdin
    assert reader.stdout

    def look(lines: int) -> list[str]:
        print(file=reader.stdin, flush=True)
        return [reader.stdout.readline().strip() for _ in range(lines)]  # type: ignore[union-attr]

    assert look(2) == ["a 1 1 False True", "all"]
    opened.promise(2)
    opened.store.perform(AdoptHeads(Epoch(2), frozenset()))
    assert isinstance(opened.next(), HeadsAdopted)
    opened.mark(opened.accept("b", 1, *(bytes([n]) * MIB for n in range(4)), at=2))
    opened.accept("c", 1, at=2)
    assert look(4) == ["a 2 1 False True", "b 2 1 True True", "c 2 1 False True", "all"]
    reader.stdin.close()
    assert reader.wait(DEADLINE_S) == 0
    reader.stdout.close()
    if reader.stderr:
        reader.stderr.close()


def test_a_reader_reads_a_stopped_store(stores: Stores) -> None:
    """As it was when it was closed."""
    opened = stores.open()
    opened.promise(1)
    manifest = opened.accept("s", 1)
    opened.store.close()
    reader = StoreReader(stores.path)
    assert reader.manifest(StreamName("s")) == manifest
    assert reader.manifest(StreamName("none")) is None
    assert reader.chunk(Digest(manifest.parts[0].chunks[0].stored_digest)) == b"s 1 1"
    assert reader.chunk(Digest(bytes(32))) is None
    reader.close()


def test_a_reader_refuses_what_is_no_store(tmp_path: Path) -> None:
    """In one line."""
    with pytest.raises(StoreError, match="no store in") as error:
        StoreReader(tmp_path / "nothing")
    one_line(error)
    for name in ("meta", "payload"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.mdb").write_bytes(b"something else " * 1000)
    with pytest.raises(StoreError) as error:
        StoreReader(tmp_path)
    one_line(error)


def test_a_reader_says_why_the_system_does_not_let_it_in(tmp_path: Path) -> None:
    """A directory that may not be looked into, or any other refusal: in one line, and not as an OSError."""
    with pytest.raises(StoreError, match="File name too long") as error:
        StoreReader(tmp_path / ("x" * 300))
    one_line(error)


def test_opening_what_cannot_be_a_directory_is_an_error_of_ours(tmp_path: Path) -> None:
    """Not an OSError."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be used") as error:
        LmdbStore.open(tmp_path / "file", cluster="test", node=NodeId("edge-1"))
    one_line(error)


def test_a_store_can_be_closed_twice_and_without_a_start(stores: Stores) -> None:
    """Closing never waits for what was never started."""
    opened = stores.open(start=False)
    manifest, chunks = checkpoint("s", 1)
    opened.put(manifest, chunks, 1)
    opened.store.close()
    opened.store.close()
    assert orders(stores.open().durable.heads) == {}
