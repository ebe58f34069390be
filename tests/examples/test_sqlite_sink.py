"""The sink of the documentation keeps a zombie out."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples.sqlite_sink import Refused, SqliteSink

ZOMBIE = """
import sys
from pathlib import Path
from tests.examples.sqlite_sink import Refused, SqliteSink

sink = SqliteSink(Path(sys.argv[1]))
sink.write(1, [(0, 0.5)])
print("at work", flush=True)
sys.stdin.readline()
try:
    sink.write(1, [(1, 0.25), (2, 0.75)])
    print("written")
except Refused as refusal:
    print(refusal)
"""


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[SqliteSink]:
    sink = SqliteSink(tmp_path / "sink.db")
    yield sink
    sink.close()


def test_a_lower_epoch_is_refused_and_writes_nothing(sink: SqliteSink) -> None:
    """Once a later tenure has taken the sink, an earlier one changes neither data nor fence."""
    sink.write(3, [(0, 0.5)])
    sink.fence(4)
    with pytest.raises(Refused, match="epoch 3 is over; the sink is at epoch 4"):
        sink.write(3, [(0, 0.9), (1, 0.9)])
    with pytest.raises(Refused):
        sink.fence(3)
    assert sink.read() == [(0, 0.5, 3)]
    assert sink.epoch == 4


def test_rows_replayed_after_a_takeover_are_not_doubled(sink: SqliteSink) -> None:
    """The next primary goes on from an older offset than the sink has seen; each row is there once."""
    sink.write(1, [(0, 0.1), (1, 0.2), (2, 0.3)])
    sink.fence(2)
    sink.write(2, [(1, 0.2), (2, 0.3), (3, 0.4)])
    assert sink.read() == [(0, 0.1, 1), (1, 0.2, 2), (2, 0.3, 2), (3, 0.4, 2)]


def test_a_transaction_is_written_whole_or_not_at_all(sink: SqliteSink) -> None:
    """Rows that fail half-way leave neither data nor a raised fence."""
    sink.fence(1)
    with pytest.raises(ZeroDivisionError):
        sink.write(2, ((n, 1 / (2 - n)) for n in range(3)))
    assert sink.read() == []
    assert sink.epoch == 1


def test_a_zombie_that_wakes_up_is_refused(sink: SqliteSink, tmp_path: Path) -> None:
    """A process stopped before its write, and continued after another took over, writes nothing."""
    with subprocess.Popen(
        [sys.executable, "-c", ZOMBIE, str(tmp_path / "sink.db")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as zombie:
        assert zombie.stdout
        assert zombie.stdout.readline() == "at work\n"
        zombie.send_signal(signal.SIGSTOP)
        sink.fence(2)
        sink.write(2, [(1, 0.25)])
        zombie.send_signal(signal.SIGCONT)
        said, _ = zombie.communicate("\n", timeout=10)
    assert said == "epoch 1 is over; the sink is at epoch 2\n"
    assert sink.read() == [(0, 0.5, 1), (1, 0.25, 2)]
