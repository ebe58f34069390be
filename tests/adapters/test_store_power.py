"""The store after a power loss: what it answered for is there, whatever became of the rest.

Keeps R2, R13, R20, R21, I1, I2 and I5: all that LMDB and the journal write is recorded, and the disk rebuilt
as it may be found after a power loss between any two of these writes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from msgspec import MsgspecError

from replicator.adapters.store import FOUNDING_NAME
from replicator.errors import ReplicatorError, StoreDamaged
from tests.adapters.power.image import Disk, Fate
from tests.adapters.power.machine import StoreAndPower, StoreInMemory
from tests.adapters.power.recorder import IGNORED, recording
from tests.adapters.power.script import (
    FullAtFirst,
    LaidOut,
    change_durability_and_lose_power,
    kill_and_lose_power_everywhere,
    lose_power_everywhere,
)
from tests.adapters.power.teeth import TEETH, TEETH_AFTER_A_DEATH
from tests.adapters.store_kit import Stores

LONG = settings(
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


TestStoreAndPower = StoreAndPower.TestCase
TestStoreAndPower.settings = settings(LONG, max_examples=60)
TestStoreInMemory = StoreInMemory.TestCase
TestStoreInMemory.settings = settings(LONG, max_examples=20)


@pytest.mark.parametrize("kind", [StoreAndPower, FullAtFirst, LaidOut, StoreInMemory])
def test_power_may_be_lost_after_each_call(kind: type[StoreAndPower]) -> None:
    """From the first file on, with unsynced writes lost, kept, torn and in another order."""
    assert lose_power_everywhere(kind) > 500


@pytest.mark.parametrize("kind", [StoreAndPower, FullAtFirst, StoreInMemory])
def test_a_process_may_be_killed_before_the_power_is_lost(kind: type[StoreAndPower]) -> None:
    """What it did not wait for is there for the next process, which goes on, but not on the disk."""
    assert kill_and_lose_power_everywhere(kind) > 500


@pytest.mark.parametrize(
    ("kind", "full"), [(StoreAndPower, False), (StoreInMemory, False), (StoreInMemory, True)]
)
def test_power_may_be_lost_when_the_durability_is_another(kind: type[StoreAndPower], full: bool) -> None:
    """What one process has answered for is there, whatever the next one waits for."""
    assert change_durability_and_lose_power(kind, full=full) >= 4


@pytest.mark.parametrize("break_it", TEETH, ids=lambda break_it: break_it.__name__)
def test_broken_durability_is_found(
    break_it: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each way to lose what was answered for is found by the same run."""
    break_it(monkeypatch)
    with pytest.raises((AssertionError, ReplicatorError, MsgspecError)):
        lose_power_everywhere(TEETH[break_it])


@pytest.mark.parametrize("break_it", TEETH_AFTER_A_DEATH, ids=lambda break_it: break_it.__name__)
def test_broken_durability_after_a_death_is_found(
    break_it: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each way to build on what a process that died did not wait for."""
    break_it(monkeypatch)
    with pytest.raises((AssertionError, ReplicatorError)):
        kill_and_lose_power_everywhere(TEETH_AFTER_A_DEATH[break_it])


def test_what_was_never_founded_is_made_anew_and_nothing_else_is(tmp_path: Path) -> None:
    """Checkpoints without their identity are damage, however often it is tried (R20, R21)."""
    with Stores(tmp_path / "store") as stores:
        opened = stores.open()
        opened.promise(1)
        opened.accept("a", 1)
        opened.store.close()
        shutil.rmtree(stores.path / "meta")
        for _ in range(2):
            with pytest.raises(StoreDamaged, match="its identity is lost"):
                stores.open()
        (stores.path / FOUNDING_NAME).touch()
        assert stores.open().durable.heads == ()
        assert not (stores.path / FOUNDING_NAME).exists()


def test_nothing_that_the_store_writes_goes_unrecorded(tmp_path: Path) -> None:
    """With all calls kept the rebuilt directory is the real one, byte for byte."""
    real, rebuilt = tmp_path / "real", tmp_path / "rebuilt"
    real.mkdir()
    with recording(real) as recorder, Stores(real / "store") as stores:
        opened = stores.open()
        opened.promise(1)
        opened.accept("a", 1, bytes(2**19))
        opened.accept("a", 2)
        stores.reopen().promise(2)
    disk = Disk()
    for call in recorder.calls:
        disk.add(call)
    disk.power_loss(rebuilt, Fate("kept"))
    assert contents(rebuilt) == contents(real)
    assert contents(rebuilt).keys() >= {f"store/{name}" for name in ("meta/data.mdb", "payload/journal")}


def contents(directory: Path) -> dict[str, bytes]:
    """By its path, what is in each file."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name not in IGNORED
    }
