"""What becomes of what is submitted: commits, latest wins, the end of the tenure."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from replicator import (
    Committed,
    CommitUnknown,
    Position,
    Replicator,
    Settings,
    StoredLocally,
    Superseded,
    Tenure,
    TenureEnded,
    Ticket,
)
from replicator.engine import backlog
from replicator.link import messages as link
from tests.engine.fake_worker import DEADLINE_S, FakeWorker, soon

BYTES = [b"one", bytearray(b"one"), memoryview(b"one")]


@pytest.mark.parametrize("payload", BYTES, ids=lambda payload: type(payload).__name__)
def test_a_checkpoint_is_committed(
    tenure: Tenure, worker: FakeWorker, payload: bytes | bytearray | memoryview
) -> None:
    """The worker gets the very bytes and the meta; the ticket ends with position, holders and stages."""
    ticket = tenure.submit("orders", payload, b"offset 7")
    assert ticket.position == Position(1, 1)
    assert ticket.stream == "orders"
    submit, parts = worker.hear(link.Submit)
    assert (submit.epoch, submit.stream, submit.sequence, submit.meta) == (1, "orders", 1, b"offset 7")
    assert (submit.part_names, submit.is_mapping, parts) == (("",), False, [b"one"])
    assert not ticket.done()
    worker.commit(submit)
    outcome = ticket.result(DEADLINE_S)
    assert isinstance(outcome, Committed)
    assert (outcome.position, outcome.holders) == (Position(1, 1), ("a", "b"))
    assert outcome.stages["commit"] == 0.5
    assert 0 <= outcome.stages["waiting"] <= outcome.stages["total"]
    assert repr(ticket) == "<Ticket orders (1, 1) committed>"


def test_a_mapping_travels_as_its_parts(tenure: Tenure, worker: FakeWorker) -> None:
    """Parts keep their names and order, also empty ones."""
    tenure.submit("orders", {"model": b"m", "window": b"", "keys": bytearray(b"kk")})
    submit, parts = worker.hear(link.Submit)
    assert submit.is_mapping
    assert dict(zip(submit.part_names, parts, strict=True)) == {"model": b"m", "window": b"", "keys": b"kk"}


def test_the_latest_wins(tenure: Tenure, worker: FakeWorker) -> None:
    """One checkpoint is with the worker, one waits; the replaced one is superseded by the next commit."""
    first, second, third = (tenure.submit("orders", b"%d" % n) for n in range(3))
    submit, _ = worker.hear(link.Submit)
    assert second.released.is_set()  # replaced: let go of at once
    assert not third.released.is_set()
    worker.commit(submit)
    assert isinstance(first.result(DEADLINE_S), Committed)
    submit, parts = worker.hear(link.Submit)
    assert (submit.sequence, parts) == (3, [b"2"])
    assert not second.done()  # a later one of the stream has to commit first
    worker.commit(submit)
    assert second.result(DEADLINE_S) == Superseded(Position(1, 2), by=Position(1, 3))
    assert isinstance(third.result(DEADLINE_S), Committed)


def test_tickets_end_in_the_order_of_their_sequences(tenure: Tenure, worker: FakeWorker) -> None:
    """Callbacks of a stream never go backwards (I4)."""
    ended: list[int] = []
    first = tenure.submit("orders", b"")
    submit, _ = worker.hear(link.Submit)
    others = [tenure.submit("orders", b"") for _ in range(5)]
    for ticket in (first, *others):
        ticket.add_done_callback(lambda done: ended.append(done.position.sequence))
    worker.commit(submit)
    worker.commit(worker.hear(link.Submit)[0])
    soon(lambda: len(ended) == 6)
    assert ended == [1, 2, 3, 4, 5, 6]


def test_streams_do_not_wait_for_each_other(tenure: Tenure, worker: FakeWorker) -> None:
    """The credit is one stream's own."""
    tickets = [tenure.submit(f"stream {n}", b"") for n in range(3)]
    submits = [worker.hear(link.Submit)[0] for _ in tickets]
    worker.commit(submits[2])
    assert isinstance(tickets[2].result(DEADLINE_S), Committed)
    assert not tickets[0].done()


def test_the_worker_may_supersede_or_abort(tenure: Tenure, worker: FakeWorker) -> None:
    """Both give the credit back; an aborted checkpoint's outcome is unknown, never failed (R17a)."""
    first = tenure.submit("orders", b"")
    worker.say(link.Superseded(worker.hear(link.Submit)[0].handle, Position(1, 9)))
    assert first.result(DEADLINE_S) == Superseded(Position(1, 1), Position(1, 9))
    second = tenure.submit("orders", b"")
    worker.say(link.Aborted(worker.hear(link.Submit)[0].handle, "the disk is full"))
    with pytest.raises(CommitUnknown, match=r"'orders' at \(1, 2\): the disk is full"):
        second.result(DEADLINE_S)
    tenure.submit("orders", b"")
    assert worker.hear(link.Submit)[0].sequence == 3


def test_what_an_aborted_checkpoint_had_replaced_ends_with_it(tenure: Tenure, worker: FakeWorker) -> None:
    """No later commit of the stream is to come that would end it."""
    first, replaced, last = (tenure.submit("orders", b"") for _ in range(3))
    for ticket in (first, last):
        assert not replaced.done()
        worker.say(link.Aborted(worker.hear(link.Submit)[0].handle, "the disk is full"))
        with pytest.raises(CommitUnknown, match="the disk is full"):
            ticket.result(DEADLINE_S)
    with pytest.raises(CommitUnknown, match="the disk is full"):
        replaced.result(DEADLINE_S)


def test_the_end_of_the_tenure_leaves_outcomes_unknown(
    replicator: Replicator, tenure: Tenure, worker: FakeWorker
) -> None:
    """What is with the worker, what waits and what was replaced: all raise CommitUnknown; later submits
    raise TenureEnded, and the next tenure's count on from what is restored."""
    tickets = [tenure.submit("orders", b"") for _ in range(3)]
    worker.hear(link.Submit)
    worker.say(link.TenureEnded(1, "deposed by edge-2"))
    for ticket in tickets:
        with pytest.raises(CommitUnknown, match="deposed by edge-2"):
            ticket.result(DEADLINE_S)
    assert tenure.wait_ended(DEADLINE_S)
    assert tenure.ended_reason == "deposed by edge-2"
    assert not tenure.active
    for call in (lambda: tenure.submit("orders", b""), lambda: tenure.next_position("orders")):
        with pytest.raises(TenureEnded, match="epoch 1 is over"):
            call()
    worker.start_tenure(4, ("orders", 2, b"restored"), slot=2)
    following = next(iter(replicator.tenures(DEADLINE_S)))
    assert (following.epoch, following.active, tenure.active) == (4, True, False)
    assert following.next_position("orders") == Position(4, 3)
    assert following.submit("orders", b"").position == Position(4, 3)
    assert worker.hear(link.Submit)[0].epoch == 4


def test_an_answer_of_the_past_changes_nothing(
    replicator: Replicator, tenure: Tenure, worker: FakeWorker
) -> None:
    """A commit, release or end that comes for a tenure that is over is ignored."""
    old = tenure.submit("orders", b"")
    submit, _ = worker.hear(link.Submit)
    worker.say(link.TenureEnded(1, "deposed"))
    worker.start_tenure(2, slot=2)
    following = next(iter(replicator.tenures(DEADLINE_S)))
    fresh = following.submit("orders", b"")
    worker.commit(submit)
    worker.say(link.TenureEnded(1, "deposed"))
    worker.say(link.Released(submit.handle))
    worker.commit(worker.hear(link.Submit)[0])
    assert isinstance(fresh.result(DEADLINE_S), Committed)
    assert isinstance(old.exception(), CommitUnknown)


def test_submit_does_not_wait_for_the_tickets_that_end(
    replicator: Replicator, tenure: Tenure, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many a commit supersedes or the end of the tenure leaves open: what they end as is made
    under no lock."""
    lock, could = replicator._session._lock, []

    def unlocked(kind: type) -> Callable[..., object]:
        def make(*arguments: object) -> object:
            could.append(lock.acquire(timeout=DEADLINE_S / 2))
            lock.release()
            return kind(*arguments)

        return make

    for kind in (Superseded, CommitUnknown):
        monkeypatch.setattr(backlog, kind.__name__, unlocked(kind))
    tickets = [tenure.submit("orders", b"") for _ in range(4)]
    worker.commit(worker.hear(link.Submit)[0])
    worker.commit(worker.hear(link.Submit)[0])
    tickets += [tenure.submit("orders", b"") for _ in range(4)]
    assert isinstance(tickets[3].result(DEADLINE_S), Committed)
    worker.say(link.TenureEnded(1, "deposed"))
    assert tenure.wait_ended(DEADLINE_S)
    assert {type(ticket.exception(DEADLINE_S)) for ticket in tickets[4:]} == {CommitUnknown}
    assert could == [True] * 6


def test_a_deletion_is_like_a_checkpoint(replicator: Replicator, tenure: Tenure, worker: FakeWorker) -> None:
    """It takes the stream's next sequence, waits its turn, and its ticket ends as any other."""
    tenure.submit("orders", b"")
    deleted = replicator.delete("orders")
    assert deleted.released.is_set()
    worker.commit(worker.hear(link.Submit)[0])
    delete, _ = worker.hear(link.Delete)
    assert (delete.stream, delete.sequence) == ("orders", 2)
    worker.commit(delete)
    assert isinstance(deleted.result(DEADLINE_S), Committed)
    assert tenure.submit("orders", b"").position == Position(1, 3)


def test_a_backup_deletes_nothing(replicator: Replicator) -> None:
    """Only the primary may."""
    with pytest.raises(TenureEnded, match="local is not primary"):
        replicator.delete("orders")


def test_acks_local_ends_a_ticket_when_it_is_stored_here(
    worker: FakeWorker, make_settings: Callable[..., Settings]
) -> None:
    """The credit comes back with the commit all the same; without the setting Stored ends nothing."""
    with Replicator(make_settings(acks="local", close_timeout_s=0)) as replicator:
        worker.start_tenure()
        tenure = next(iter(replicator.tenures(DEADLINE_S)))
        first, second = tenure.submit("orders", b""), tenure.submit("orders", b"")
        submit, _ = worker.hear(link.Submit)
        worker.say(link.Stored(submit.handle))
        assert first.result(DEADLINE_S) == StoredLocally(Position(1, 1))
        assert not second.done()
        worker.commit(submit)
        submit, _ = worker.hear(link.Submit)
        worker.say(link.Stored(submit.handle))
        assert second.result(DEADLINE_S) == StoredLocally(Position(1, 2))
        assert replicator.flush(0)
        worker.say(link.Aborted(submit.handle, "the disk of another is full"))
        assert tenure.submit("orders", b"").position == Position(1, 3)
        assert worker.hear(link.Submit)[0].sequence == 3


def test_acks_all_waits_for_every_member(worker: FakeWorker, make_settings: Callable[..., Settings]) -> None:
    """The credit comes back with the commit, the ticket ends when all hold it, or a later one; what had
    committed when the tenure ends is committed."""
    with Replicator(make_settings(acks="all", close_timeout_s=0)) as replicator:
        worker.start_tenure()
        tenure = next(iter(replicator.tenures(DEADLINE_S)))
        tickets: list[Ticket] = []
        submits = []
        for _ in range(3):
            tickets.append(tenure.submit("orders", b""))
            submits.append(worker.hear(link.Submit)[0])
            worker.commit(submits[-1])
        worker.say(link.HeldByAll(submits[1].handle, ("a", "b", "c")))
        for ticket in tickets[:2]:
            outcome = ticket.result(DEADLINE_S)
            assert isinstance(outcome, Committed)
            assert (outcome.position, outcome.holders) == (ticket.position, ("a", "b", "c"))
        assert not tickets[2].done()
        worker.say(link.TenureEnded(1, "deposed"))
        last = tickets[2].result(DEADLINE_S)
        assert isinstance(last, Committed)
        assert last.holders == ("a", "b")


def test_callbacks_run_on_the_links_thread_and_may_submit(
    tenure: Tenure, worker: FakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    """A callback that raises is logged, and the others run; SystemExit does not end the thread."""
    again: list[Ticket] = []

    def leave(_: object) -> None:
        raise SystemExit("not here")

    ticket = tenure.submit("orders", b"")
    ticket.add_done_callback(lambda _: 1 / 0)
    ticket.add_done_callback(lambda _: again.append(tenure.submit("orders", b"")))
    ticket.add_done_callback(leave)
    with caplog.at_level(logging.ERROR):
        worker.commit(worker.hear(link.Submit)[0])
        worker.commit(worker.hear(link.Submit)[0])
        soon(lambda: again)
        assert isinstance(again[0].result(DEADLINE_S), Committed)
    assert "ZeroDivisionError" in caplog.text
    assert "SystemExit" in caplog.text


def test_a_callback_that_exits_keeps_no_other_from_its_call(
    tenure: Tenure, worker: FakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever awaits the ticket is told by one, too."""
    called: list[object] = []

    def leave(_: object) -> None:
        raise SystemExit("not here")

    ticket = tenure.submit("orders", b"")
    ticket.add_done_callback(leave)
    ticket.add_done_callback(called.append)
    worker.commit(worker.hear(link.Submit)[0])
    soon(lambda: called == [ticket])
    assert "SystemExit: not here" in caplog.text
    with pytest.raises(SystemExit):  # at once, and on the caller's own thread
        ticket.add_done_callback(leave)


def test_a_name_may_be_more_than_a_str(tenure: Tenure, worker: FakeWorker) -> None:
    """What is derived from it travels as what it says: an encoder knows no other."""

    class Name(str):
        def __str__(self) -> str:
            return "something else"

    tenure.submit(Name("orders"), {Name("rows"): b"1"})
    submit, parts = worker.hear(link.Submit)
    assert (submit.stream, submit.part_names, parts) == ("orders", ("rows",), [b"1"])
    worker.commit(submit)
    ticket = tenure.submit(Name("orders"), b"2")
    assert (type(ticket.stream), ticket.position.sequence) == (str, 2)
    worker.commit(worker.hear(link.Submit)[0])
    tenure.delete(Name("orders"))
    assert worker.hear(link.Delete)[0].stream == "orders"


def test_a_ticket_cannot_be_cancelled(tenure: Tenure) -> None:
    """What was submitted may commit, whatever its submitter wants."""
    ticket = tenure.submit("orders", b"")
    assert not ticket.cancel()
    assert not ticket.cancelled()
    assert repr(ticket) == "<Ticket orders (1, 1) open>"
