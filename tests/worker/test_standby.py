"""Warm standbys: which committed checkpoints a following engine is offered, and when."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import pytest

from replicator.core import effects, events
from replicator.link import messages as link
from replicator.model import Digest, Epoch, Head, StreamName
from replicator.worker.standby import OUT_MAX
from tests.worker.driver_fakes import Bench, head

ORDERS = StreamName("orders")
FOUR = Epoch(4)
LENT = effects.SetLease(FOUR, 1010.0)


def start(*heads: Head) -> effects.StartTenure:
    return effects.StartTenure(FOUR, heads, (), False)


def known(bench: Bench, *heads: Head) -> None:
    """Have the core know of these heads, all committed."""
    bench.core.streams.update({each.stream: (each, (each.generation, each.sequence)) for each in heads})


def offers(bench: Bench) -> list[tuple[str, int]]:
    return [(offer.stream, offer.position.sequence) for offer in bench.end.all(link.StandbyOffered)]


def test_a_follower_is_offered_the_newest_of_each_stream(bench: Bench) -> None:
    """What was committed before it followed, too; one per stream until it is taken, then the latest."""
    bench.emit(effects.Standby(head(sequence=1)))
    assert bench.loader.jobs == []
    known(bench, head(sequence=1))
    bench.end.waiting.append((link.Follow(True), []))
    bench.turn()
    bench.load()
    for sequence in (2, 3):
        bench.emit(effects.Standby(head(sequence=sequence)))
    bench.load()
    assert [offer.position.sequence for offer in bench.end.all(link.StandbyOffered)] == [1]
    bench.end.waiting.append((link.StandbyTaken("orders", head().position), []))
    bench.turn()
    bench.load()
    assert [offer.position.sequence for offer in bench.end.all(link.StandbyOffered)] == [1, 3]


def test_a_follower_that_takes_nothing_costs_no_memory(bench: Bench) -> None:
    """A bounded number of streams is out at a time; the others come as those are taken."""
    bench.standbys.follow(True)
    for index in range(OUT_MAX + 5):
        bench.emit(effects.Standby(head(f"s{index}")))
    bench.load()
    assert len(bench.end.all(link.StandbyOffered)) == OUT_MAX
    bench.standbys.taken(StreamName("s0"), head("s0").position)
    bench.load()
    assert len(bench.end.all(link.StandbyOffered)) == OUT_MAX + 1


def test_what_waits_costs_the_control_thread_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many streams wait, a commit looks at none while no place is free, and one that is taken looks
    at no more than there are places: a backup that follows has heartbeats to answer."""
    seen: list[str] = []

    class Counted(OrderedDict[str, Head]):
        def __iter__(self) -> Iterator[str]:
            for stream in super().__iter__():
                seen.append(stream)
                yield stream

    monkeypatch.setattr(bench.standbys, "_waiting", Counted())
    bench.standbys.follow(True)
    for index in range(100):
        bench.emit(effects.Standby(head(f"s{index}")))
    assert 1 <= len(seen) <= OUT_MAX
    bench.emit(*(effects.Standby(head(f"s{index}", 2)) for index in range(100)))
    assert len(seen) <= OUT_MAX
    bench.standbys.loaded(next(bench.loader.results()))
    seen.clear()
    bench.standbys.taken(StreamName("s0"), head("s0").position)
    assert 1 <= len(seen) <= OUT_MAX
    assert len(bench.loader.jobs) == OUT_MAX


def test_a_tenure_need_not_load_what_a_standby_has(bench: Bench) -> None:
    """The very checkpoint that was offered last of its stream is named only; one that is newer is loaded, and
    in the next tenure all are."""
    bench.standbys.follow(True)
    for stream in ("orders", "sensors"):
        bench.emit(effects.Standby(head(stream, 2)))
    bench.load()
    newer = head("sensors", 3)
    bench.emit(start(head("orders", 2), newer), LENT)
    assert [(m.stream, m.position) for m in bench.end.all(link.RestoredKnown)] == [
        ("orders", head("orders", 2).position)
    ]
    assert [job[1] for job in bench.loader.jobs] == [newer]
    bench.load()
    assert isinstance(bench.end.told[-1], link.TenureStarted)
    bench.emit(effects.EndTenure(FOUR, ""), effects.StartTenure(Epoch(5), (head("orders", 2),), (), False))
    assert [job[1] for job in bench.loader.jobs] == [head("orders", 2)]


def test_a_follower_begins_with_what_the_core_knows_to_be_committed(bench: Bench) -> None:
    """Streams that were idle since this worker started are offered; one whose head is not known to be
    committed, or is a tombstone, is not. While this node has a tenure of its own nothing is, and after it
    what that has committed."""
    known(bench, head(), head("idle", 10), head("gone", 3, tombstone=True))
    bench.core.streams["young"] = (head("young", 2), (1, 1))
    bench.core.streams["new"] = (head("new"), None)
    bench.standbys.follow(True)
    bench.load()
    assert offers(bench) == [("orders", 1), ("idle", 10)]
    bench.standbys.follow(False)
    bench.emit(start(), LENT)
    known(bench, head("idle", 11))
    bench.standbys.follow(True)
    bench.load()
    assert len(offers(bench)) == 2
    bench.emit(effects.EndTenure(FOUR, ""))
    bench.load()
    assert offers(bench)[2:] == [("orders", 1), ("idle", 11)]


def test_who_follows_on_begins_anew_after_a_tenure(bench: Bench) -> None:
    """Whatever its engine made of the states meanwhile. Also if the tenure has never started, for it may be
    another one that follows now; the engine's end knows what this one has still got."""
    known(bench, head(), head("idle", 10))
    bench.standbys.follow(True)
    bench.standbys.loaded(next(bench.loader.results()))
    bench.emit(start(head(), head("idle", 10)))
    bench.standbys.follow(False)
    bench.standbys.follow(True)
    bench.emit(effects.EndTenure(FOUR, ""))
    bench.load()
    assert offers(bench) == [("orders", 1), ("orders", 1), ("idle", 10)]
    bench.emit(effects.StartTenure(Epoch(5), (), (), False), effects.SetLease(Epoch(5), 1010.0))
    bench.emit(effects.EndTenure(Epoch(5), ""))
    bench.load()
    assert offers(bench)[3:] == [("orders", 1), ("idle", 10)]


def test_who_follows_anew_again_and_again_has_nothing_loaded_twice(bench: Bench) -> None:
    """What is being loaded is for whoever follows when it is there: a follower that asks more often than a
    load takes gets it, and the loader has no more to do for it."""
    known(bench, *(head(f"s{index}") for index in range(OUT_MAX + 1)))
    for _ in range(3):
        bench.standbys.follow(False)
        bench.standbys.follow(True)
    assert len(bench.loader.jobs) == OUT_MAX
    bench.load()
    assert len(offers(bench)) == OUT_MAX
    bench.standbys.taken(StreamName("s0"), head("s0").position)
    assert [each.stream for _, each in bench.loader.jobs] == [f"s{OUT_MAX}"]
    bench.standbys.follow(True)
    bench.load()
    assert len(offers(bench)) == 2 * OUT_MAX


def test_the_end_of_an_older_one_is_not_that_of_the_one_that_is_out(bench: Bench) -> None:
    """The engine was still loading one when its stream was deleted and begun again, or its follower changed:
    the newer one is offered all the same, and nothing of the deleted stream."""
    bench.standbys.follow(True)
    bench.emit(effects.Standby(head()))
    bench.load()
    bench.emit(effects.Standby(head(sequence=2, tombstone=True)), effects.Standby(head(sequence=3)))
    bench.load()
    assert offers(bench) == [("orders", 1), ("orders", 3)]
    bench.standbys.taken(ORDERS, head().position)
    bench.emit(effects.Standby(head(sequence=4)))
    assert bench.loader.jobs == []
    bench.standbys.taken(ORDERS, head(sequence=3).position)
    stale = next(bench.loader.results())
    bench.emit(effects.Standby(head(sequence=5, tombstone=True)), effects.Standby(head(sequence=6)))
    bench.standbys.loaded(stale)
    bench.load()
    assert offers(bench)[2:] == [("orders", 6)]


def test_a_tenure_ends_what_was_to_be_offered(bench: Bench) -> None:
    """The engine has everything by its tenure. One that follows on is offered nothing older afterwards, and
    what it never took is no longer out."""
    bench.standbys.follow(True)
    for index in range(OUT_MAX + 1):
        bench.emit(effects.Standby(head(f"s{index}")))
    results = list(bench.loader.results())
    for result in results[:-1]:
        bench.standbys.loaded(result)
    bench.emit(start(), LENT)
    bench.standbys.loaded(results[-1])
    bench.emit(effects.EndTenure(FOUR, ""))
    assert len(offers(bench)) == OUT_MAX - 1
    for index in range(OUT_MAX):
        bench.emit(effects.Standby(head(f"s{index}", 2)))
    bench.load()
    assert offers(bench)[OUT_MAX - 1 :] == [(f"s{index}", 2) for index in range(OUT_MAX)]


def test_a_deleted_stream_is_offered_no_longer(bench: Bench) -> None:
    """Neither from among those that wait, nor if it was being loaded; its place is another's then. The engine
    is told to forget what it was offered, if it was."""
    bench.standbys.follow(True)
    for index in range(OUT_MAX + 3):
        bench.emit(effects.Standby(head(f"s{index}")))
    bench.emit(effects.Standby(head("s8", 2, tombstone=True)), effects.Standby(head("s0", 2, tombstone=True)))
    bench.load()
    bench.load()
    assert [stream for stream, _ in offers(bench)] == [f"s{index}" for index in (*range(1, OUT_MAX), 9)]
    bench.emit(effects.Standby(head("s1", 2, tombstone=True)))
    assert bench.standbys.offered([head("s1"), head("s2")]) == {"s2"}
    assert bench.end.all(link.StandbyDeleted) == [link.StandbyDeleted("s1")]


def test_nothing_is_loaded_for_an_engine_that_does_not_follow(bench: Bench) -> None:
    """Neither before it follows, nor after it has ended, nor for a deleted stream."""
    bench.standbys.follow(True)
    bench.emit(effects.Standby(head(tombstone=True)))
    assert bench.loader.jobs == []
    bench.emit(effects.Standby(head()))
    bench.standbys.follow(False)
    bench.load()
    bench.emit(effects.Standby(head(sequence=2)))
    assert bench.loader.jobs == []
    assert bench.end.told == []


def test_a_standby_that_cannot_be_read_is_told_to_the_core(bench: Bench) -> None:
    """It is mended before anybody needs it (R22)."""
    bench.standbys.follow(True)
    bench.loader.rotten = {"orders"}
    bench.emit(effects.Standby(head()))
    bench.load()
    bench.turn()
    assert bench.core.events[-1] == events.HeadRotten(ORDERS, Digest(head().digest))
