"""The kit of the measurements: what it counts is right, and it leaves nothing behind."""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from errno import ENOSPC
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lz4.block import compress

from bench.kit import engine, machine, process
from bench.kit.cluster import Cluster
from bench.kit.floor import Floor
from bench.kit.links import INLINE_BYTES, PIECE_BYTES
from bench.kit.payloads import SIZES, STAMP_EVERY_BYTES, freshen, incompressible, realistic
from bench.kit.process import cpu_s, forget_peak, memory_mib
from bench.kit.report import Report, number, write_whole
from bench.kit.run import command_line, parser, run
from bench.kit.samples import Budget, Spread, percentile, ratios, take_in_turns
from bench.kit.wire import wire_bytes
from bench.linearity import exponent
from bench.steadiness import broken
from replicator import Committed
from tests.chaos.network import INSIDE


def test_a_spread_is_its_quartiles_and_its_tail() -> None:
    """Median, quartiles, p99 and maximum of samples in any order; of none there is no spread. The median of
    an even number lies between the two in the middle: of four the third is none."""
    assert Spread.of([float(n) for n in range(100, 0, -1)]) == Spread(100, 50.5, 25, 75, 99, 100)
    assert Spread.of([1, 2, 100, 101]) == Spread(4, 51, 1, 100, 101, 101)
    assert percentile([1.0], 0.99) == 1
    with pytest.raises(ValueError, match="no samples"):
        Spread.of([])


def test_a_ratio_is_that_of_the_medians() -> None:
    """The quoted figure is median over median; the quartiles are those of the pairs."""
    ratio = ratios([2, 4, 60], [1, 2, 3])
    assert (ratio.p50, ratio.p25, ratio.max) == (2, 2, 20)


def test_contenders_take_turns_both_ways_round() -> None:
    """Each has its turn in each round, first and second as often, and nobody's warm-up counts."""
    order: list[str] = []

    def taker(name: str, value: float) -> float:
        order.append(name)
        return value

    budget = Budget(seconds=0, count_min=4, warm_up=1)
    samples = take_in_turns({"a": lambda: taker("a", 1), "b": lambda: taker("b", 2)}, budget)
    assert samples == {"a": [1.0] * 4, "b": [2.0] * 4}
    assert "".join(order) == "ab" + "baab" * 2


@pytest.mark.parametrize("size", [0, 1, 7, 1_000, STAMP_EVERY_BYTES, 5 * 2**20 + 3])
def test_payloads_have_their_size_and_become_new(size: int) -> None:
    """Each maker gives exactly the bytes asked for, and freshening changes every block of them."""
    for make in (realistic, incompressible):
        payload = make(size)
        assert len(payload) == size
        before = bytes(payload)
        while size and before[:8] == payload[:8]:  # one byte may come out as it was
            freshen(payload)
        starts = range(0, size - STAMP_EVERY_BYTES, STAMP_EVERY_BYTES)
        assert all(before[n : n + 8] != payload[n : n + 8] for n in starts)
        assert len(payload) == size


def test_payloads_are_what_their_names_say() -> None:
    """Realistic state more than halves under LZ4, the other stays, and freshening changes nothing of it."""
    for make, low, high in ((realistic, 2.0, 2.8), (incompressible, 0.9, 1.01)):
        payload = make(SIZES["1 MB"])
        freshen(payload)
        assert low < len(payload) / len(compress(bytes(payload))) < high


@pytest.mark.parametrize("links", ["tcp", "zeromq"])
def test_the_floor_holds_what_it_was_given(tmp_path: Path, links: str) -> None:
    """Three copies on disk, by both ways a payload takes, and no file or process stays."""
    payload = realistic(PIECE_BYTES + 5)
    with Floor(tmp_path, links=links) as floor:
        for size in (10, INLINE_BYTES + 1, len(payload)):
            assert floor.commit(payload[:size]) > 0
        slots = [path.read_bytes() for path in tmp_path.rglob("slot-*")]
        assert sorted(map(len, slots)) == [INLINE_BYTES + 1] * 3 + [len(payload)] * 3
        assert slots.count(bytes(payload)) == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keys", [False, True], ids=["plain", "curve"])
def test_a_cluster_commits_and_leaves_nothing(tmp_path: Path, keys: bool) -> None:
    """Three processes commit a checkpoint; afterwards neither they nor their stores are there."""
    with Cluster("process", keys=keys, directory=tmp_path) as cluster:
        outcome = cluster.tenure.submit("state", b"payload").result(30)
        assert isinstance(outcome, Committed)
        assert cluster.status().keys() == set(cluster.names)
        pids = cluster.pids()
        assert pids.keys() == set(cluster.names)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids.values())
    assert list(tmp_path.iterdir()) == []


def test_what_a_process_uses_is_its_own() -> None:
    """Processor time of a process is what it says itself, one that has ended counts nothing; the peak of its
    memory begins anew when that is asked for and allowed."""
    with subprocess.Popen([sys.executable, "-c", "print(); input()"], stdin=-1, stdout=-1) as other:
        assert other.stdout is not None
        other.stdout.readline()
        before, spent, after = time.process_time(), cpu_s([os.getpid()]), time.process_time()
        assert before <= spent <= after
        assert cpu_s([other.pid]) > 0
    assert cpu_s([other.pid]) == 0
    block = bytearray(os.urandom(2**20)) * 64
    peak = memory_mib(os.getpid(), "VmHWM")
    del block
    if forget_peak(os.getpid()):
        assert memory_mib(os.getpid(), "VmHWM") < peak - 32
    assert not forget_peak(other.pid)


def test_what_watching_takes_is_nobody_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that sleeps uses nothing, however often it is looked at from its own process."""
    monkeypatch.setattr(process, "WATCH_INTERVAL_S", 0)
    with process.Usage([os.getpid()]) as usage:
        time.sleep(0.2)
    assert 0 <= usage.cpu_share[os.getpid()] < 0.2
    assert usage.peak_mib[os.getpid()] > 1


def test_a_commit_is_dirty_by_what_is_measured_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results of the measurements before, and the README that they are written into, change no figure."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    paths = [tmp_path / name for name in ("README.md", "bench/results/delta.json", "replicator/model.py")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    clean = machine.commit()
    readme, result, code = paths
    readme.write_text("2")
    result.unlink()
    assert machine.commit() == clean
    code.write_text("2")
    assert machine.commit() == f"{clean}-dirty"


def test_an_engine_says_that_it_has_all_when_it_has_the_bytes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a takeover takes ends with the last stream's payload, not with the tenure's start."""
    seen: list[str] = []

    class Restored(dict[str, SimpleNamespace]):
        def __getitem__(self, stream: str) -> SimpleNamespace:
            seen.append(stream)
            return super().__getitem__(stream)

    def clock(_: int) -> int:
        seen.append("clock")
        return len(seen)

    restored = Restored(a=SimpleNamespace(parts={"": b"12"}), b=SimpleNamespace(parts={"": b"3"}))
    tenure = SimpleNamespace(restored=restored, instants={}, wait_ended=lambda: None)
    monkeypatch.setattr("time.clock_gettime", clock)
    replicator: Any = SimpleNamespace(tenures=lambda: [tenure])
    engine.serve(replicator)
    assert json.loads(capsys.readouterr().out) == {"at": 3, "streams": 2, "bytes": 3, "instants": {}}


def test_the_wire_is_what_connections_have_sent() -> None:
    """What went through a TCP connection of this process counts, once, and nothing stays open for it."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as one,
        server.accept()[0] as other,
    ):
        before, open_before = wire_bytes(), len(os.listdir("/proc/self/fd"))
        one.sendall(bytes(70_000))
        assert len(other.recv(70_000, socket.MSG_WAITALL)) == 70_000
        assert wire_bytes() - before == 70_000
        assert len(os.listdir("/proc/self/fd")) == open_before


def test_the_exponent_is_that_of_the_growth() -> None:
    """1 for what grows in proportion, 2 for a square; of one point there is none."""
    sizes = (1, 4, 16, 64)
    assert exponent([(n, 3 * n) for n in sizes]) == 1
    assert exponent([(n, n * n / 7) for n in sizes]) == 2
    assert exponent([(1, 1)]) is None


def test_reports_come_back_from_their_files(tmp_path: Path) -> None:
    """What is saved is loaded again, spreads and all, and the table shows each figure."""
    report = Report(question="Why?", command="scripts/bench why")
    report.add({"size": "1 KB", "took_ms": Spread.of([1.0, 2.0, 3.0]), "share": None})
    report.save(tmp_path / "deep" / "why.json")
    again = Report.load(tmp_path / "deep" / "why.json")
    assert again == report
    assert "2 (1-3)" in again.text()
    assert [number(value) for value in (0.1234, 12.345, 1234.5, 7.0)] == ["0.12", "12.3", "1234", "7"]


def test_what_is_interrupted_or_fails_says_so_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C gives status 130 and an error 1, one line each, and no file is written."""
    path = tmp_path / "report.json"

    def outcome(error: BaseException) -> int:
        def fail(options: object) -> Report:
            raise error

        return run(parser("Why?", "why"), fail, arguments=["--json", str(path)])

    assert outcome(KeyboardInterrupt()) == 130
    assert outcome(TimeoutError("too late")) == 1
    assert capsys.readouterr().err.splitlines() == [
        "interrupted: nothing is written",
        "scripts/bench why: TimeoutError: too late",
    ]
    assert not path.exists()


def test_what_is_given_counts_with_quick_too() -> None:
    """--quick changes defaults alone, whichever comes first."""
    for given in (["--quick", "--lack", "256"], ["--lack", "256", "--quick"]):
        found: list[argparse.Namespace] = []

        def measure(options: argparse.Namespace, into: list[argparse.Namespace] = found) -> Report:
            into.append(options)
            return Report(question="Why?", command="scripts/bench why")

        options_of = parser("Why?", "why")
        options_of.add_argument("--lack", type=int, default=1024)
        options_of.add_argument("--seconds", type=float, default=10.0)
        assert run(options_of, measure, arguments=given, quick={"lack": 128, "seconds": 2.0}) == 0
        assert (found[0].lack, found[0].seconds) == (256, 2.0)


def test_a_broken_promise_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    """A report of what may not happen is written like any other, and the exit status is 1."""
    report = Report(question="Why?", command="scripts/bench why", broken=broken(["d1", "d2"], []))
    assert run(parser("Why?", "why"), lambda options: report, arguments=[]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("Why?\n")
    assert err == "scripts/bench why: 2 committed checkpoints were lost, first d1\n"
    assert broken([], ["n1 and n2 for 3 ms"]) == ["1 times two tenures were active, first n1 and n2 for 3 ms"]
    assert broken([], []) == []


@pytest.mark.parametrize("words", [["--json"], ["--plot"]])
def test_a_file_without_room_is_an_error_in_a_line(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With status 1; no draft is left, and what was there before stays."""
    kept = tmp_path / "why.svg"
    kept.write_text("old")
    write = Path.write_bytes

    def write_some(path: Path, content: bytes) -> None:
        write(path, content[:7])
        raise OSError(ENOSPC, "No space left on device")

    def draw(report: Report, path: Path) -> None:
        write_whole(path, b"a drawing")

    monkeypatch.setattr(Path, "write_bytes", write_some)
    monkeypatch.setattr("bench.kit.plots.require", lambda: None)
    report = Report(question="Why?", command="scripts/bench why")
    assert run(parser("Why?", "why"), lambda options: report, draw, [*words, str(kept)]) == 1
    assert capsys.readouterr().err == f"scripts/bench why: {kept}: No space left on device\n"
    assert kept.read_text() == "old"
    assert list(tmp_path.iterdir()) == [kept]


@pytest.mark.parametrize("words", ["--json why.json", "--json -"])
@pytest.mark.parametrize(
    ("output", "reason"), [("/dev/full", "No space left on device"), ("", "Broken pipe")]
)
def test_an_output_that_takes_nothing_is_an_error_in_a_line(
    words: str, output: str, reason: str, tmp_path: Path
) -> None:
    """A reader that has gone and a disk without room: status 1, and not once more when the process ends. A
    file is written all the same."""
    script = (
        "import sys\n"
        "from bench.kit.report import Report\n"
        "from bench.kit.run import parser, run\n"
        "report = Report(question='Why?', command='scripts/bench why')\n"
        "sys.exit(run(parser('Why?', 'why'), lambda options: report))\n"
    )
    if output:
        out = os.open(output, os.O_WRONLY)
    else:
        reader, out = os.pipe()
        os.close(reader)
    command = [sys.executable, "-c", script, *words.split()]
    environ = {**os.environ, "PYTHONPATH": str(machine.ROOT)}
    said = subprocess.run(
        command, stdout=out, stderr=subprocess.PIPE, text=True, check=False, cwd=tmp_path, env=environ
    )
    os.close(out)
    assert [path.name for path in tmp_path.iterdir()] == ([] if words.endswith("-") else ["why.json"])
    assert (said.returncode, said.stderr) == (1, f"scripts/bench why: standard output: {reason}\n")


@pytest.mark.parametrize("words", ["", "--help", "--json -"])
def test_a_report_is_printed_in_every_encoding(words: str) -> None:
    """People see escaped what theirs has no character for, and JSON is UTF-8."""
    script = (
        "import sys\n"
        "from bench.kit.report import Report\n"
        "from bench.kit.run import parser, run\n"
        "report = Report(question='How many µs?', command='scripts/bench why')\n"
        "sys.exit(run(parser('How many µs?', 'why'), lambda options: report))\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(machine.ROOT), "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", script, *words.split()]
    said = subprocess.run(command, capture_output=True, check=False, env=environ)
    assert (said.returncode, said.stderr) == (0, b"")
    if words == "--json -":
        assert json.loads(said.stdout)["question"] == "How many µs?"
    else:
        assert rb"How many \xb5s?" in said.stdout


@pytest.mark.parametrize("inside", ["", "SIGINT SIGTERM SIGHUP"])
def test_a_closing_terminal_interrupts_too(tmp_path: Path, inside: str) -> None:
    """Also when it says so again while what was started is being stopped, and in namespaces of its own, where
    a run begins with that signal ignored."""
    script = (
        "import os, pathlib, signal, sys, tempfile\n"
        f"signal.signal(signal.SIGHUP, signal.{'SIG_IGN' if inside else 'SIG_DFL'})\n"
        "from bench.kit.run import parser, run\n"
        "def measure(options):\n"
        "    with tempfile.TemporaryDirectory(dir=options.dir):\n"
        "        try: os.kill(os.getpid(), signal.SIGHUP)\n"
        "        finally: os.kill(os.getpid(), signal.SIGHUP)\n"
        "sys.exit(run(parser('Why?', 'why'), measure))\n"
    )
    words = [sys.executable, "-c", script, "--dir", str(tmp_path)]
    environ = {**os.environ, **({INSIDE: inside} if inside else {})}
    said = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, env=environ)
    assert (said.returncode, said.stderr) == (130, "interrupted: nothing is written\n")
    assert list(tmp_path.iterdir()) == []


def test_asking_for_a_file_leaves_none(tmp_path: Path) -> None:
    """That a file can be written is found out without making it, or changing one that is there."""
    kept = tmp_path / "kept.json"
    kept.write_text("old")
    given = parser("Why?", "why").parse_args(["--json", str(kept), "--plot", str(tmp_path / "new.svg")])
    assert (given.json, given.plot) == (kept, tmp_path / "new.svg")
    assert list(tmp_path.iterdir()) == [kept]
    assert kept.read_text() == "old"


def test_settings_of_the_environment_are_not_heeded_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever sets a lease for a measurement hears that it has its own; what scripts read is no setting."""
    monkeypatch.setenv("REPLICATOR_LEASE_S", "abc")
    monkeypatch.setenv("REPLICATOR_VENV", ".venv")
    report = Report(question="Why?", command="scripts/bench why")
    assert run(parser("Why?", "why"), lambda options: report, arguments=[]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["REPLICATOR_LEASE_S is not heeded: a measurement has its own settings"]


def test_a_report_names_its_command_but_no_file() -> None:
    """The command stands in the report so that it can be repeated; where it wrote to does not."""
    arguments = ["--sizes", "1 KB", "--json", "a.json", "--plot=b.svg", "--quick"]
    assert command_line("why", arguments) == "scripts/bench why --sizes '1 KB' --quick"
