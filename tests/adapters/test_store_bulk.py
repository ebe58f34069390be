"""Bulk adoptions with very many exceptions (R10): what they cost in memory, and how they lie on the disk."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from replicator.adapters.store_record import (
    BULK_KEY,
    CHECKSUM_BYTES,
    Bulk,
    StreamRecord,
    accepted_epoch_of,
    seal,
    unseal,
)
from replicator.core.effects import AdoptHeads
from replicator.core.events import HeadsAdopted
from replicator.model import Epoch, StreamName
from tests.adapters.store_kit import Stores, orders

NAMES = [
    StreamName(f"tenant-{number % 7}/{letter}{number}") for number in range(500) for letter in "aé\uffff😀"
]


class Counted(str):
    """A name that counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str.__eq__(self, other)

    def __hash__(self) -> int:
        return str.__hash__(self)


@pytest.mark.parametrize("again", [False, True], ids=["made", "read"])
def test_r10_an_exception_is_found_without_looking_at_the_others(
    again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every acceptance, and every head at the start, asks whether its stream is one of them."""
    bulk = Bulk(Epoch(5), frozenset(NAMES))
    if again:
        bulk = unseal(Bulk, BULK_KEY, seal(BULK_KEY, bulk))
    monkeypatch.setattr(Counted, "compared", 0)
    asked = [*NAMES, *(StreamName(f"{name}/other") for name in NAMES)]
    records = [StreamRecord(StreamName(Counted(name)), Epoch(4), ()) for name in asked]
    epochs = [accepted_epoch_of(record, bulk) for record in records]
    assert epochs == [4] * len(NAMES) + [5] * len(NAMES)
    assert len(NAMES) <= Counted.compared <= 2 * len(NAMES)


def test_the_exceptions_lie_on_the_disk_in_their_order() -> None:
    """However the set came about: the fingerprint over all heads is made of these bytes again and again."""
    bulks = [Bulk(Epoch(5), frozenset(names)) for names in (NAMES, reversed(NAMES), sorted(NAMES))]
    assert {seal(BULK_KEY, bulk)[CHECKSUM_BYTES:] for bulk in bulks} == {
        msgspec.msgpack.encode([5, sorted(NAMES)])
    }


def test_r10_exceptions_are_the_same_after_a_restart(tmp_path: Path) -> None:
    """And the next bulk adoption finds the fingerprint as the last one left it."""
    names = [f"{number}" for number in range(40)]
    excepted = frozenset(StreamName(name) for name in names[::2])
    with Stores(tmp_path / "store") as stores:
        opened = stores.open()
        opened.promise(1)
        for name in names:
            opened.accept(name, 1)
        for epoch in (2, 3):
            opened.promise(epoch)
            opened.perform(AdoptHeads(Epoch(epoch), excepted))
            assert isinstance(opened.next(), HeadsAdopted)
            opened = stores.reopen()
            assert orders(opened.durable.heads) == {
                name: (1 if name in excepted else epoch, 1) for name in names
            }
