"""The ways in which a store loses what it answered for, each put in for the power losses to find."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import lmdb
import pytest

from replicator.adapters import store, store_journal, store_meta, store_payload
from replicator.adapters.store_journal import Journal, bytes_of
from replicator.adapters.store_meta import Meta
from replicator.adapters.store_payload import Payload
from replicator.adapters.store_plan import Plan
from replicator.adapters.store_record import open_environment
from replicator.model import Incarnation
from tests.adapters.power.machine import BATCH_BYTES_MAX, StoreAndPower, StoreInMemory
from tests.adapters.power.script import FullAtFirst

Patch = pytest.MonkeyPatch


def answer_before_the_journal_is_synced(patch: Patch) -> None:
    """A record is acknowledged when the operating system has it (R13)."""
    patch.setattr(os, "RWF_DSYNC", 0)


def rewind_before_the_environment_is_synced(patch: Patch) -> None:
    """The journal is written over while a power loss can undo what the environment took from it (R13)."""

    def _append(self: Payload, journal: Journal, number: int, writes: dict[bytes, bytes | None]) -> None:
        if self._is_in_doubt:
            self.sync()
        if not journal.append(number, writes):
            self._apply({})
            journal.rewind()
            assert journal.append(number, writes)
        self._newer = self._newer.plus(writes)

    patch.setattr(Payload, "_append", _append)


def build_on_what_is_in_doubt(patch: Patch) -> None:
    """A journaled checkpoint names chunks that a power loss can take out of the environment (R13)."""
    patch.setattr(
        Payload, "_is_in_doubt", property(lambda self: False, lambda self, value: None), raising=False
    )


def believe_any_record(patch: Patch) -> None:
    """The journal's records have no checksum, so a torn one passes for whole (R21)."""
    patch.setattr(store_journal, "_checksum", lambda incarnation, number, body: bytes(16))


def forget_the_journal(patch: Patch) -> None:
    """What only the journal has is not brought into the environment at open (R13)."""
    patch.setattr(store_payload, "replay", lambda path, incarnation, applied: {})


def leave_the_journals_name(patch: Patch) -> None:
    """A journal that is made later has no name on the disk when it is first relied on (R13)."""
    patch.setattr(store_journal, "sync_directory", lambda path: None)


def answer_large_batches_early(patch: Patch) -> None:
    """A batch too large for the journal is acknowledged with LMDB's root page unsynced (R13)."""
    honest = Payload._commit

    def is_small(plan: Plan) -> bool:
        return bytes_of(plan.change.writes) <= BATCH_BYTES_MAX

    def _commit(self: Payload, plan: Plan, durably: bool) -> None:
        honest(self, plan, durably and is_small(plan))

    patch.setattr(Payload, "_commit", _commit)


def never_wait_for_the_environment(patch: Patch) -> None:
    """LMDB writes its root page before what it names is on the disk (R21)."""

    def never_synced(path: Path, map_bytes: int, **_: bool) -> lmdb.Environment:
        return open_environment(path, map_bytes, sync=False)

    patch.setattr(store_payload, "open_environment", never_synced)


def promise_unsynced(patch: Patch) -> None:
    """A promise is answered when the operating system has it (R2, I1)."""
    patch.setattr(store_meta, "open_environment", partial(open_environment, sync=False))


def promise_with_the_root_unsynced(patch: Patch) -> None:
    """A promise is answered while LMDB's root page does not name it yet (R2, I1)."""
    patch.setattr(store_meta, "open_environment", partial(open_environment, metasync=False))


def leave_the_directories_names(patch: Patch) -> None:
    """A new store answers while its files have no names on the disk (R13)."""
    patch.setattr(store, "sync_directory", lambda path: None)


def take_half_a_store_for_one(patch: Patch) -> None:
    """A store that a power loss left half made is not made again, and cannot be opened (R20)."""
    patch.setattr(store, "_begin_founding", lambda path: None)


def leave_the_mark(patch: Patch) -> None:
    """A store answers while a power loss can make it half made again (R20)."""
    patch.setattr(store, "_end_founding", lambda path: (path / store.FOUNDING_NAME).unlink())


def trust_unsynced_payload(patch: Patch) -> None:
    """Payload that was never waited for counts after the machine went down (R13, R20)."""
    patch.setattr(Meta, "is_amnesiac", lambda self, boot: False)


def believe_the_mark_as_it_is(patch: Patch) -> None:
    """A store that goes on after a death does not wait for the mark to be on the disk, or off it (R20)."""
    honest = store._begin_founding

    def _begin_founding(path: Path) -> None:
        unsynced = (path / store.FOUNDING_NAME).exists() or (path / "meta").exists()
        with pytest.MonkeyPatch.context() as inner:
            if unsynced:
                inner.setattr(store, "sync_directory", lambda path: None)
            honest(path)

    patch.setattr(store, "_begin_founding", _begin_founding)


def believe_the_journals_name(patch: Patch) -> None:
    """A journal that is there is taken for one whose name is on the disk (R13)."""
    honest = Payload._open_journal

    def _open_journal(self: Payload, incarnation: Incarnation) -> Journal | None:
        with pytest.MonkeyPatch.context() as inner:
            if (self._path / store_journal.JOURNAL_NAME).exists():
                inner.setattr(store_journal, "sync_directory", lambda path: None)
            return honest(self, incarnation)

    patch.setattr(Payload, "_open_journal", _open_journal)


TEETH: dict[Callable[[Patch], None], type[StoreAndPower]] = {
    answer_before_the_journal_is_synced: StoreAndPower,
    rewind_before_the_environment_is_synced: StoreAndPower,
    build_on_what_is_in_doubt: StoreAndPower,
    believe_any_record: StoreAndPower,
    forget_the_journal: StoreAndPower,
    leave_the_journals_name: FullAtFirst,
    answer_large_batches_early: StoreAndPower,
    never_wait_for_the_environment: StoreAndPower,
    promise_unsynced: StoreAndPower,
    promise_with_the_root_unsynced: StoreAndPower,
    leave_the_directories_names: StoreAndPower,
    take_half_a_store_for_one: StoreAndPower,
    leave_the_mark: StoreAndPower,
    trust_unsynced_payload: StoreInMemory,
}  # and the store whose power losses find it
TEETH_AFTER_A_DEATH: dict[Callable[[Patch], None], type[StoreAndPower]] = {
    believe_the_mark_as_it_is: StoreAndPower,
    believe_the_journals_name: FullAtFirst,
}  # and the store that finds it when it is killed before
