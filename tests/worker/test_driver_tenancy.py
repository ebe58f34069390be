"""Tenures: what the engine is handed, when, and what it is not."""

from __future__ import annotations

import math

import pytest

from replicator.core import effects, events
from replicator.link import messages as link
from replicator.model import Digest, Epoch, Generation, Head, Manifest, Payload, Position, Role, StreamName
from replicator.worker.inbox import Loaded
from replicator.worker.tenancy import DRAINED_NS, MEND_TIMEOUT_S
from tests.worker.driver_fakes import A, Bench, head

ORDERS = StreamName("orders")
FOUR, FIVE = Epoch(4), Epoch(5)
LENT = effects.SetLease(FOUR, 1010.0)


def start(*heads: Head, unavailable: tuple[Head, ...] = (), unchanged: bool = False) -> effects.StartTenure:
    return effects.StartTenure(FOUR, heads, unavailable, unchanged)


def manifest_of(each: Head) -> Manifest:
    return Manifest(each.stream, 1, 3, each.sequence, (), b"", False, False, each.digest)


def written(each: Head) -> events.AcceptRefused:
    """What the store says when a rotten head's chunks have been fetched and written again."""
    return events.AcceptRefused(manifest_of(each), FOUR, events.Why.STALE)


def test_a_tenure_starts_when_every_head_is_loaded(bench: Bench) -> None:
    """Restored streams come first, of each kind; then the start, with the moments of the takeover."""
    bench.emit(effects.Changed(Role.BACKUP, Role.CANDIDATE, ""))
    bench.clock.now += 1
    bench.emit(effects.AdoptHeads(FOUR, frozenset()))
    bench.clock.now += 1
    bench.inbox.deliver(events.Fetched(1, ORDERS, manifest_of(head())))
    bench.turn()
    bench.clock.now += 1
    gone, lost = head("gone", 8, tombstone=True), head("lost", 9)
    bench.emit(start(head(), head("sensors", 2), gone, unavailable=(lost,)), LENT)
    assert bench.end.all(link.TenureStarted) == []
    bench.load()
    assert {message.stream for message in bench.end.all(link.Restored)} == {"orders", "sensors"}
    (deleted,) = bench.end.all(link.RestoredDeleted)
    assert (deleted.stream, deleted.position) == ("gone", gone.position)
    assert [message.stream for message in bench.end.all(link.RestoredUnavailable)] == ["lost"]
    started = bench.end.told[-1]
    assert isinstance(started, link.TenureStarted)
    assert started.epoch == FOUR
    moments = {
        "detected": 999,
        "granted": 1000,
        "claimed": 1001,
        "fetched": 1002,
        "adopted": 1003,
        "restored": 1003,
    }
    assert started.instants == moments


def test_a_tenure_without_streams_starts_at_once(bench: Bench) -> None:
    """Nothing to load, nothing to wait for."""
    bench.emit(start(), LENT)
    assert len(bench.end.all(link.TenureStarted)) == 1


def test_a_tenure_starts_with_its_lease(bench: Bench) -> None:
    """An engine that looks at the lease word when it is told finds it written, and by this tenure."""
    bench.words.slot(1).deadline_ns = 1005 * 10**9
    bench.emit(start())
    assert bench.end.told == []
    bench.emit(LENT)
    assert len(bench.end.all(link.TenureStarted)) == 1


def test_a_rotten_head_is_mended_before_the_tenure_starts(bench: Bench) -> None:
    """The core is told, has it fetched, and it is tried again (R22)."""
    bench.loader.rotten = {"orders"}
    bench.emit(start(head()), LENT)
    bench.load()
    bench.turn()
    assert bench.core.events[-1] == events.HeadRotten(ORDERS, Digest(head().digest))
    assert bench.end.told == []
    bench.loader.rotten = set()
    bench.inbox.deliver(written(head()))
    bench.turn()
    bench.load()
    assert [type(message) for message in bench.end.told] == [link.Restored, link.TenureStarted]


@pytest.mark.parametrize("how", ["rotten again", "too late"])
def test_what_nobody_mends_does_not_hold_up_the_tenure(bench: Bench, how: str) -> None:
    """The tenure starts with the others, and `restored` of that stream raises; not before the core knows, so
    that nothing is committed over what was given up (R8)."""
    bench.loader.rotten = {"orders"}
    bench.emit(start(head(), head("sensors", 2)), LENT)
    bench.load()
    bench.turn()
    began = []

    def react(event: events.Event) -> list[effects.Effect]:
        if not isinstance(event, events.AcceptRefused):
            began.append((event, bool(bench.end.all(link.TenureStarted))))
        return []

    bench.core.react = react
    if how == "rotten again":
        bench.inbox.deliver(written(head()))
        bench.turn()
        bench.load()
    else:
        bench.clock.now += MEND_TIMEOUT_S
        bench.turn()
    bench.turn()
    assert began == [(events.StartedWithout(FOUR, ORDERS, Digest(head().digest)), False)]
    told = [type(message) for message in bench.end.told]
    assert told == [link.Restored, link.RestoredUnavailable, link.TenureStarted]
    assert bench.tenancy.deadline == math.inf


def test_each_rotten_head_has_its_time(bench: Bench) -> None:
    """One that is found later is not given up with the first; one that still lacks something is not tried."""
    bench.loader.rotten = {"orders", "sensors"}
    bench.emit(start(head(), head("sensors", 2)), LENT)
    early, late = list(bench.loader.results())
    bench.inbox.deliver((early,))
    bench.turn()
    bench.clock.now += MEND_TIMEOUT_S / 2
    bench.inbox.deliver((late,))
    bench.turn()
    bench.clock.now += MEND_TIMEOUT_S / 2
    for _ in range(2):
        bench.turn()
    assert [message.stream for message in bench.end.all(link.RestoredUnavailable)] == ["orders"]
    bench.loader.rotten = set()
    for why in (events.Why.INCOMPLETE, events.Why.FULL):
        bench.inbox.deliver(events.AcceptRefused(manifest_of(head("sensors", 2)), FOUR, why))
    bench.turn()
    assert not bench.loader.jobs
    bench.inbox.deliver(written(head("sensors", 2)))
    bench.turn()
    bench.load()
    assert [type(message) for message in bench.end.told][-2:] == [link.Restored, link.TenureStarted]


def test_small_heads_that_were_restored_at_once_share_a_frame(bench: Bench) -> None:
    """As many as came together, each with its bytes; what is not of this tenure is left out."""
    bench.emit(start(head(), head("sensors", 2)), LENT)
    both = tuple(bench.loader.results())
    strange = Loaded(FOUR, head("strange", 1), Payload({"": b"1"}))
    bench.inbox.deliver((*both, strange))
    bench.turn()
    (small,) = bench.end.all(link.RestoredSmall)
    found = {message.stream: (message.position, parts) for message, parts in small.checkpoints}
    assert found == {
        "orders": (head().position, (b"orders",)),
        "sensors": (head("sensors", 2).position, (b"sensors",)),
    }
    assert [type(message) for message in bench.end.told] == [link.RestoredSmall, link.TenureStarted]


def test_a_tenure_that_ends_while_it_loads_never_starts(bench: Bench) -> None:
    """Late results of the old epoch do not start the new one either."""
    bench.emit(start(head()), LENT)
    late = list(bench.loader.results())
    bench.emit(effects.EndTenure(FOUR, "fenced"))
    bench.emit(effects.StartTenure(FIVE, (head("sensors", 2),), (), False), effects.SetLease(FIVE, 1010.0))
    for result in late:
        bench.inbox.deliver((result,))
    bench.turn()
    assert bench.end.told == [link.TenureEnded(FOUR, "fenced")]
    bench.load()
    assert [message.epoch for message in bench.end.all(link.TenureStarted)] == [FIVE]


def test_a_tenure_that_is_renewed_while_it_loads_waits_for_its_own_alone(bench: Bench) -> None:
    """What was to be loaded in the older epoch, or mended, has nobody to wait for it (R11)."""
    bench.loader.rotten = {"orders"}
    bench.emit(start(head(), head("sensors", 2)), LENT)
    bench.inbox.deliver((next(bench.loader.results()),))
    bench.turn()
    bench.emit(effects.StartTenure(FIVE, (head("new", 3),), (), False), effects.SetLease(FIVE, 1010.0))
    assert [each.stream for _, each in bench.loader.jobs] == ["new"]
    assert bench.tenancy.deadline == math.inf
    bench.load()
    assert [message.epoch for message in bench.end.all(link.TenureStarted)] == [FIVE]


def test_nothing_is_kept_of_a_checkpoint_that_has_ended(bench: Bench) -> None:
    """Neither its payload nor its instants, however it ends."""
    ends = (
        effects.Commit(1, ORDERS, Generation(1), Position(4, 1), (A,)),
        effects.Supersede(2, ORDERS, Position(4, 1)),
        effects.Abort(3, "over"),
    )
    for each in ends:
        bench.tenancy.keep(each.handle, Payload({"": b"x"}), bench.clock.now)
        bench.emit(each, effects.Release(each.handle))
    assert (bench.tenancy._stages, bench.tenancy._payloads) == ({}, {})
    (committed,) = bench.end.all(link.Committed)  # in an epoch that has no lease word yet
    assert committed.until_ns == int(bench.clock.now * 10**9) + DRAINED_NS


def test_an_unchanged_tenure_restores_all_the_same(bench: Bench) -> None:
    """An engine that does not look at `unchanged` starts from the right state, too (R11)."""
    bench.emit(start(head(), unchanged=True), LENT)
    bench.load()
    assert [type(message) for message in bench.end.told] == [link.Restored, link.TenureStarted]
    assert bench.end.all(link.TenureStarted)[0].unchanged


# ── the lease word ──


def slot_of(bench: Bench) -> int:
    return bench.end.all(link.TenureStarted)[-1].lease_slot


def test_the_lease_word_is_the_tenure_s_own(bench: Bench) -> None:
    """Each tenure has a slot; a deadline goes only to its own epoch's, and 0 to one that has ended."""
    bench.emit(effects.SetLease(FOUR, 1000.5), start(), effects.SetLease(FOUR, 1001.0))
    first = bench.words.slot(slot_of(bench))
    assert first.deadline_ns == 1001 * 10**9
    bench.emit(effects.SetLease(FIVE, 1002.0), effects.StartTenure(FIVE, (), (), False))
    second = bench.words.slot(slot_of(bench))
    assert (first.deadline_ns, second.deadline_ns) == (0, 1002 * 10**9)
    bench.emit(effects.SetLease(FOUR, 1003.0))
    assert (first.deadline_ns, second.deadline_ns) == (0, 1002 * 10**9)


def test_the_lease_word_is_cleared_before_the_engine_is_told(bench: Bench) -> None:
    """Nobody who has heard of the end finds the tenure active, and no late deadline revives it."""
    bench.emit(start(), effects.SetLease(FOUR, 1001.0))
    word = bench.words.slot(slot_of(bench))
    bench.emit(effects.EndTenure(FOUR, "resigned"))
    assert word.deadline_ns == 0
    assert bench.tenancy.epoch is None
    for deadline in (0.0, 1005.0):
        bench.emit(effects.SetLease(FOUR, deadline))
        assert word.deadline_ns == 0
    bench.emit(effects.StartTenure(FIVE, (), (), False))
    assert word.deadline_ns == 0


def test_a_node_alone_needs_no_end_of_its_lease(bench: Bench) -> None:
    """An infinite deadline is a word, too."""
    bench.emit(start(), effects.SetLease(FOUR, float("inf")))
    assert bench.words.slot(slot_of(bench)).deadline_ns == 2**62
