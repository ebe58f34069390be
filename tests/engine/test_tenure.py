"""The tenure: its lease word, what it restores, how it is taken and given back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from replicator import (
    Checkpoint,
    CheckpointUnreadable,
    Committed,
    CommitUnknown,
    Position,
    Replicator,
    Settings,
    Superseded,
    Tenure,
    TenureEnded,
)
from replicator.link import messages as link
from replicator.link.endpoint import EngineEnd
from replicator.model import Buffer
from tests.engine.fake_worker import DEADLINE_S, FakeWorker, soon


def test_active_is_the_lease_word(tenure: Tenure, worker: FakeWorker) -> None:
    """It follows the shared memory, without a message: suspended when the lease has passed, and back."""
    assert tenure.active
    assert tenure.wait_active(0)
    worker.lend(-0.001)
    assert not tenure.active
    assert not tenure.wait_active(0.01)
    assert repr(tenure) == "<Tenure epoch=1 suspended>"
    resumer = threading.Timer(0.01, worker.lend)
    resumer.start()
    assert tenure.wait_active(DEADLINE_S)
    resumer.join()
    assert repr(tenure) == "<Tenure epoch=1 active>"


def test_what_is_submitted_while_suspended_commits_later(tenure: Tenure, worker: FakeWorker) -> None:
    """Suspended is not over."""
    worker.lend(-1)
    ticket = tenure.submit("s", b"")
    worker.lend()
    worker.commit(worker.hear(link.Submit)[0])
    assert isinstance(ticket.result(DEADLINE_S), Committed)


def test_nothing_is_reported_committed_without_the_lease(tenure: Tenure, worker: FakeWorker) -> None:
    """A commit that was said under a lease and is read after it waits: for the resumed tenure, or its end."""
    first = tenure.submit("s", b"1")
    submit = worker.hear(link.Submit)[0]
    worker.lend(-1)
    worker.say(link.Committed(submit.handle, first.position, ("a", "b"), {}, until_ns=1))
    resumer = threading.Timer(0.02, worker.lend)
    resumer.start()
    assert isinstance(first.result(DEADLINE_S), Committed)
    assert tenure.active, "resumed before it was reported"
    resumer.join()
    second = tenure.submit("s", b"2")
    submit = worker.hear(link.Submit)[0]
    worker.lend(-1)
    worker.say(link.Committed(submit.handle, second.position, ("a", "b"), {}, until_ns=1))
    worker.say(link.TenureEnded(1, "deposed"))
    with pytest.raises(CommitUnknown, match="deposed"):
        second.result(DEADLINE_S)


def test_a_commit_that_is_told_in_other_words_waits_for_the_lease_too(
    worker: FakeWorker, make_settings: Callable[..., Settings]
) -> None:
    """That all members hold a checkpoint, or that it was superseded, tells of a commit (R25)."""
    with Replicator(make_settings(acks="all", close_timeout_s=0)) as replicator:
        worker.start_tenure()
        tenure = next(iter(replicator.tenures(DEADLINE_S)))
        held, superseded = tenure.submit("s", b""), tenure.submit("t", b"")
        actives: list[bool] = []
        for ticket in (held, superseded):
            ticket.add_done_callback(lambda _: actives.append(tenure.active))
        submits = [worker.hear(link.Submit)[0] for _ in range(2)]
        worker.commit(submits[0])
        soon(lambda: replicator._session._backlog._awaited)
        worker.lend(-1)
        worker.say(link.HeldByAll(submits[0].handle, ("a", "b", "c")))
        worker.say(link.Superseded(submits[1].handle, Position(1, 2)))
        soon(lambda: replicator._session.withholds)
        resumer = threading.Timer(0.02, worker.lend)
        resumer.start()
        assert isinstance(held.result(DEADLINE_S), Committed)
        assert superseded.result(DEADLINE_S) == Superseded(Position(1, 1), Position(1, 2))
        resumer.join()
        soon(lambda: len(actives) == 2)
        assert actives == [True, True]


def test_a_tenure_that_has_ended_never_comes_back(
    replicator: Replicator, tenure: Tenure, worker: FakeWorker
) -> None:
    """Not even if its slot of the lease words is used again: waiting for it returns false."""
    worker.lend(-1)
    worker.say(link.TenureEnded(1, "deposed"))
    assert not tenure.wait_active(DEADLINE_S)
    worker.lend()
    assert not tenure.active
    assert repr(tenure) == "<Tenure epoch=1 ended>"


def test_restored_is_what_the_tenure_starts_from(replicator: Replicator, worker: FakeWorker) -> None:
    """Payload, meta and position by stream; deleted streams are not in it, but their sequences go on."""
    soon(lambda: worker.words is not None)
    worker.say(link.RestoredDeleted(3, "gone", Position(2, 41)))
    parts = (3, "parts", Position(2, 7), b"", ("a", "b"), True)
    worker.say(link.Restored(*parts), b"1", b"2")
    small = [(link.Restored(3, name, Position(2, 5), b"", ("",), False), (b"1",)) for name in ("s1", "s2")]
    worker.say(link.RestoredSmall(tuple(small)))
    worker.start_tenure(3, ("orders", 12, b"state"))
    tenure = next(iter(replicator.tenures(DEADLINE_S)))
    assert dict(tenure.restored) == {
        "s1": Checkpoint("s1", Position(2, 5), b"", {"": b"1"}, False),  # type: ignore[arg-type]
        "s2": Checkpoint("s2", Position(2, 5), b"", {"": b"1"}, False),  # type: ignore[arg-type]
        "parts": Checkpoint("parts", Position(2, 7), b"", {"a": b"1", "b": b"2"}, True),  # type: ignore[arg-type]
        "orders": Checkpoint("orders", Position(2, 12), b"meta", {"": b"state"}, False),  # type: ignore[arg-type]
    }
    assert tenure.restored["orders"].payload == b"state"
    assert tenure.restored["parts"].payload == {"a": b"1", "b": b"2"}
    assert tenure.restored.get("gone") is None
    assert [tenure.next_position(name).sequence for name in ("gone", "s2", "parts", "orders", "new")] == [
        42,
        6,
        8,
        13,
        1,
    ]
    assert not tenure.unchanged
    taken = tenure.restored.take("orders")
    assert taken is not None
    assert taken.payload == b"state"
    assert tenure.restored.take("orders") is None
    assert list(tenure.restored) == ["parts", "s1", "s2"]


def test_an_unavailable_stream_raises_when_asked_for(replicator: Replicator, worker: FakeWorker) -> None:
    """No engine starts it from nothing unawares; the others are there, and its sequences go on (R8)."""
    soon(lambda: worker.words is not None)
    worker.say(link.RestoredUnavailable(2, "rotten", Position(1, 5), "chunk 3 is damaged on all replicas"))
    worker.start_tenure(2, ("fine", 1, b""))
    tenure = next(iter(replicator.tenures(DEADLINE_S)))
    assert tenure.restored.unavailable == {"rotten"}
    assert set(tenure.restored) == {"rotten", "fine"}
    for ask in (tenure.restored.get, tenure.restored.__getitem__, tenure.restored.take):
        with pytest.raises(CheckpointUnreadable, match="'rotten' cannot be restored now: chunk 3"):
            ask("rotten")
    assert tenure.next_position("rotten") == Position(2, 6)


def test_an_unchanged_tenure_says_so(replicator: Replicator, tenure: Tenure, worker: FakeWorker) -> None:
    """A primary that had to take a higher epoch need not restore (R11); the instants come along."""
    ticket = tenure.submit("s", b"")
    worker.lend(slot=2)
    worker.say(link.TenureStarted(5, 2, True, {"granted": 1.5}))
    renewed = next(iter(replicator.tenures(DEADLINE_S)))
    assert (renewed.epoch, renewed.unchanged, renewed.instants) == (5, True, {"granted": 1.5})
    assert tenure.ended_reason == "a newer tenure has started"
    assert isinstance(ticket.exception(DEADLINE_S), CommitUnknown)


def test_resigning_refuses_more_and_says_so_once(tenure: Tenure, worker: FakeWorker) -> None:
    """What went before it goes first; the end comes from the worker."""
    tenure.submit("s", b"")
    tenure.resign("edge-2")
    tenure.resign()
    with pytest.raises(TenureEnded, match="being handed over"):
        tenure.submit("s", b"")
    worker.hear(link.Submit)
    resign, _ = worker.hear(link.Resign)
    assert resign == link.Resign(1, "edge-2")
    assert not tenure.wait_ended(0.02)
    assert worker.hears_nothing_but(link.Ready)
    worker.say(link.TenureEnded(1, "resigned"))
    assert tenure.wait_ended(DEADLINE_S)


def test_the_refusal_of_an_operators_handover_is_not_the_engines(
    tenure: Tenure, worker: FakeWorker, replicator: Replicator
) -> None:
    """It undoes no resignation, though the two may cross; that of a named successor does."""
    refused = link.ResignRefused(1, "c is not reachable")
    worker.say(refused)
    worker.say(link.RestoredDeleted(2, "the last word", Position(1, 1)))
    soon(lambda: replicator._session._restoring._sequences)
    assert tenure.resign_refused is None
    tenure.resign("c")
    worker.say(refused)
    soon(lambda: tenure.resign_refused == "c is not reachable")
    assert tenure.submit("s", b"")
    tenure.resign_refused = None
    tenure.resign()
    worker.say(refused)
    worker.say(link.RestoredDeleted(3, "the last word", Position(1, 1)))
    soon(lambda: replicator._session._restoring._epoch == 3)
    assert tenure.resign_refused is None
    with pytest.raises(TenureEnded, match="being handed over"):
        tenure.submit("s", b"")


def test_a_later_wish_is_told_when_the_first_is_refused(tenure: Tenure, worker: FakeWorker) -> None:
    """To whom it comes, by a signal's handler, say; a refusal of one who was not named last is not told."""
    tenure.resign("b")
    tenure.resign("c")
    tenure.resign()
    worker.say(link.ResignRefused(1, "b is down"))
    assert [worker.hear(link.Resign)[0].successor for _ in range(2)] == ["b", None]
    assert tenure.resign_refused is None
    with pytest.raises(TenureEnded, match="being handed over"):
        tenure.submit("s", b"")


def test_a_refusal_is_that_of_the_successor_named_last(tenure: Tenure, worker: FakeWorker) -> None:
    """Not of the one before, of whom it was told; nor of one who was named again in between."""
    tenure.resign("b")
    worker.say(link.ResignRefused(1, "b is down"))
    soon(lambda: tenure.resign_refused == "b is down")
    tenure.resign("c")
    assert tenure.resign_refused is None
    tenure.resign("b")
    tenure.resign("c")
    worker.say(link.ResignRefused(1, "c is down"))
    soon(lambda: tenure.resign_refused == "c is down")
    assert [worker.hear(link.Resign)[0].successor for _ in range(2)] == ["b", "c"]
    assert tenure.submit("s", b"")


@pytest.mark.parametrize("name", ["", "x" * 256, "\udcff", "a\0", 7])
def test_what_is_no_name_is_no_successor(tenure: Tenure, worker: FakeWorker, name: Any) -> None:
    """It is refused where it is given, and the tenure goes on."""
    with pytest.raises((TypeError, ValueError)):
        tenure.resign(name)
    ticket = tenure.submit("s", b"")
    worker.commit(worker.hear(link.Submit)[0])
    assert isinstance(ticket.result(DEADLINE_S), Committed)
    assert worker.hears_nothing_but(link.Ready)


def test_a_signals_handler_may_resign(replicator: Replicator, tenure: Tenure, worker: FakeWorker) -> None:
    """Whatever the thread was doing that it interrupts."""
    with replicator._session._lock:
        tenure.resign()
    assert worker.hear(link.Resign)[0].epoch == 1


def test_a_resign_does_not_overtake_a_checkpoint(
    replicator: Replicator, tenure: Tenure, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both come while the link's thread is sending something else, after it has looked for checkpoints."""
    send = EngineEnd.send

    def send_slowly(end: EngineEnd, message: link.ToWorker, parts: Iterable[Buffer] = ()) -> object:
        if isinstance(message, link.AskStatus):
            tenure.submit("s", b"the last one")
            tenure.resign()
        return send(end, message, parts)

    monkeypatch.setattr(EngineEnd, "send", send_slowly)
    replicator._session.call(link.AskStatus(1))
    assert worker.hear(link.Submit)[1] == [b"the last one"]
    assert worker.hear(link.Resign)[0].epoch == 1


def test_asking_for_the_next_tenure_gives_the_present_one_back(
    replicator: Replicator, tenure: Tenure, worker: FakeWorker
) -> None:
    """An engine that asks is done with it: nobody is primary without working."""
    following: list[Tenure] = []
    waiter = threading.Thread(target=lambda: following.extend(replicator.tenures(0.2)))
    waiter.start()
    worker.hear(link.Resign)
    worker.say(link.TenureEnded(1, "resigned"))
    worker.start_tenure(2, slot=2)
    soon(lambda: following)
    assert following[0].epoch == 2
    worker.say(link.TenureEnded(2, "deposed"))
    waiter.join(DEADLINE_S)
    assert not waiter.is_alive()


def test_tenures_end_when_none_comes_in_time(replicator: Replicator, worker: FakeWorker) -> None:
    """The worker was told that an engine is there; one that ended before it was taken is passed over."""
    assert list(replicator.tenures(0.01)) == []
    assert worker.hear(link.Ready)[0].ready
    worker.start_tenure(1)
    worker.say(link.TenureEnded(1, "deposed"))
    worker.start_tenure(2, slot=2)
    soon(lambda: replicator._session.tenure is not None)
    soon(lambda: (tenure := replicator._session.tenure) is not None and tenure.epoch == 2)
    assert next(iter(replicator.tenures(DEADLINE_S))).epoch == 2


def test_closing_ends_the_loop_over_tenures(replicator: Replicator, worker: FakeWorker) -> None:
    """From another thread, whether it waits or asks later."""
    ended = threading.Event()

    def wait() -> None:
        assert list(replicator.tenures()) == []
        ended.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    worker.hear(link.Ready)
    replicator.close(0)
    assert ended.wait(DEADLINE_S)
    waiter.join()
    assert list(replicator.tenures()) == []
