"""The blocking front door around the tenures: start, follow, status, flush, close, and workers that die."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replicator import (
    Committed,
    CommitUnknown,
    Replicator,
    ReplicatorError,
    Settings,
    SettingsError,
    StoreInUse,
    Tenure,
    TransportError,
    Unavailable,
    WorkerFailed,
    WrongState,
)
from replicator.engine import keeper, life
from replicator.engine.ticket import Latch
from replicator.link import messages as link
from replicator.link.endpoint import EngineEnd
from tests.engine.fake_worker import DEADLINE_S, FakeWorker, soon


def test_from_env_reads_the_variables(tmp_path: Path, worker: FakeWorker) -> None:
    """A wrong one ends the start with a line of its own, and nothing has been started then."""
    environ = {"REPLICATOR_DATA_DIR": str(tmp_path), "REPLICATOR_ISOLATION": "thread"}
    with Replicator.from_env(environ) as replicator:
        assert (replicator.node, replicator.members) == ("local", ("local",))
    with pytest.raises(SettingsError, match="REPLICATOR_ACKS"):
        Replicator.from_env({**environ, "REPLICATOR_ACKS": "none"})
    assert worker.starts == 1


def test_members_are_the_peers(worker: FakeWorker, make_settings: Callable[..., Settings]) -> None:
    """All nodes of the cluster, this one too."""
    peers = {"b": ("127.0.0.1", 7403), "a": ("127.0.0.1", 7400), "c": ("127.0.0.1", 7406)}
    with Replicator(make_settings(node="b", peers=peers)) as replicator:
        assert replicator.members == ("a", "b", "c")
        assert repr(replicator) == "<Replicator b backup>"
    assert repr(replicator) == "<Replicator b closed>"


@pytest.mark.parametrize(
    "error",
    [
        SettingsError(["REPLICATOR_SECRET_KEY_FILE: no such file", "REPLICATOR_PEERS: too many"]),
        StoreInUse("process 7 has it open"),
        TransportError("cannot bind 127.0.0.1:7400"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_keeps_the_worker_from_starting_is_raised(
    worker: FakeWorker,
    make_settings: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
    error: ReplicatorError,
) -> None:
    """As what it is, by whatever is called first; every later call raises it, too."""
    monkeypatch.setattr(keeper, "STORE_WAIT_S", 0.05)
    worker.refuses = error
    replicator = Replicator(make_settings())
    calls: list[Callable[[], object]] = [
        lambda: next(iter(replicator.tenures())),
        lambda: next(iter(replicator.follow())),
        replicator.status,
        replicator.__enter__,
    ]
    for call in calls:
        with pytest.raises(type(error)) as raised:
            call()
        assert str(raised.value) == str(error)
    replicator.close()
    assert worker.starts == (2 if isinstance(error, StoreInUse) else 1)


def test_a_store_in_use_is_tried_again_for_a_while(
    worker: FakeWorker, make_settings: Callable[..., Settings]
) -> None:
    """The worker of an engine that was killed a moment ago lets go of the store soon."""
    worker.refuses = StoreInUse("process 7 has it open")
    replicator = Replicator(make_settings())
    soon(lambda: worker.starts)
    worker.refuses = None
    with replicator:
        soon(lambda: worker.starts == 2)


def test_a_worker_that_dies_ends_the_tenure_and_is_started_again(
    replicator: Replicator, tenure: Tenure, worker: FakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    """The lease word is 0 at once, tickets are unknown; the new one is told that an engine is there."""
    ticket = tenure.submit("s", b"")
    with caplog.at_level(logging.WARNING):
        worker.die()
        with pytest.raises(CommitUnknown, match="the worker's thread ended"):
            ticket.result(DEADLINE_S)
    assert tenure.wait_ended(DEADLINE_S)
    assert not tenure.active
    soon(lambda: worker.starts == 2)
    assert worker.hear(link.Ready)[0].ready
    assert worker.hear(link.Ready)[0].ready
    worker.start_tenure(2)
    assert next(iter(replicator.tenures(DEADLINE_S))).epoch == 2
    assert "worker ended failures=1 kind=WorkerDied" in caplog.text


def test_a_worker_whose_remains_cannot_be_cleared_ends_the_tenure_all_the_same(
    replicator: Replicator, tenure: Tenure, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that takes no change any more: tickets end, another worker is started."""
    bury = life.Life.bury

    def fail(buried: life.Life) -> None:
        bury(buried)
        raise OSError("read-only file system")

    monkeypatch.setattr(life.Life, "bury", fail)
    ticket = tenure.submit("s", b"")
    worker.die()
    with pytest.raises(CommitUnknown, match="the worker's thread ended"):
        ticket.result(DEADLINE_S)
    soon(lambda: worker.starts == 2)


def test_a_worker_that_keeps_dying_is_given_up(
    worker: FakeWorker, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the set number of restarts in a row every call raises what it died of."""
    monkeypatch.setattr(keeper, "BACK_OFF_MIN_S", 0.001)
    with Replicator(make_settings(worker_restarts_max=2)) as replicator:
        worker.refuses = WorkerFailed("the store fails to sync")
        worker.die()
        with pytest.raises(WorkerFailed, match="the store fails to sync"):
            list(replicator.tenures(DEADLINE_S))
        assert worker.starts == 3
        assert repr(replicator) == "<Replicator local failed>"


def test_where_the_links_thread_fails_nobody_waits_for_a_worker(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZeroMQ's own thread cannot be started: every call says so, and what was opened is closed."""

    def refuse() -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(EngineEnd, "warm_up", refuse)
    replicator = Replicator(make_settings())
    failed = replicator._session.changed.wait_for(lambda: replicator._session.failure, DEADLINE_S)
    assert failed is not None
    with pytest.raises(WorkerFailed, match="RuntimeError: can't start new thread"):
        replicator.status()
    replicator.close()
    assert replicator._session.words.fd < 0


def test_a_worker_that_talks_nonsense_is_ended(tenure: Tenure, worker: FakeWorker) -> None:
    """What is not a message of the link ends the tenure as a death does."""
    worker._orders.put(lambda end: end.socket.send(b"nonsense"))
    assert tenure.wait_ended(DEADLINE_S)
    assert "not a message of the link" in (tenure.ended_reason or "")


def answering(worker: FakeWorker) -> Iterator[link.AskStatus]:
    while True:
        ask, _ = worker.hear(link.AskStatus)
        worker.say(link.StatusReply(ask.nonce + 1000, b"[]"))  # nobody's
        worker.say(link.StatusReply(ask.nonce, b'{"role": "backup"}'))
        yield ask


def test_status_is_the_workers(replicator: Replicator, worker: FakeWorker) -> None:
    """Asked for by many at once, each gets an answer; without one it is unavailable."""
    reports: list[dict[str, object]] = []
    threads = [
        threading.Thread(target=lambda: reports.append(replicator.status(DEADLINE_S))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    answers = answering(worker)
    for _ in threads:
        next(answers)
    for thread in threads:
        thread.join()
    assert reports == [{"role": "backup"}] * 3
    with pytest.raises(Unavailable, match="does not answer"):
        replicator.status(0.01)


def test_flush_waits_for_what_is_open(replicator: Replicator, tenure: Tenure, worker: FakeWorker) -> None:
    """True when all of it has ended, false when the time is over first."""
    assert replicator.flush(0)
    first, second = tenure.submit("s", b""), tenure.submit("s", b"")
    assert not replicator.flush(0.01)
    flushed: list[bool] = []
    flusher = threading.Thread(target=lambda: flushed.append(replicator.flush(DEADLINE_S)))
    flusher.start()
    worker.commit(worker.hear(link.Submit)[0])
    worker.commit(worker.hear(link.Submit)[0])
    flusher.join()
    assert flushed == [True]
    assert first.done()
    assert second.done()


@pytest.mark.parametrize("how", ["commit", "tenure's end"])
def test_flush_waits_for_what_is_told_just_now(
    replicator: Replicator, tenure: Tenure, worker: FakeWorker, how: str
) -> None:
    """A callback may take its time: those that end after its ticket are open until they have ended."""
    tickets = [tenure.submit("s", b"") for _ in range(5)]
    in_callback, go_on = threading.Event(), threading.Event()
    tickets[2].add_done_callback(lambda _: in_callback.set())
    tickets[2].add_done_callback(lambda _: go_on.wait(DEADLINE_S))
    submit, _ = worker.hear(link.Submit)
    if how == "commit":
        worker.commit(submit)
        worker.commit(worker.hear(link.Submit)[0])
    else:
        worker.say(link.TenureEnded(1, "deposed"))
    assert in_callback.wait(DEADLINE_S)
    assert [ticket.done() for ticket in tickets] == [True] * 3 + [False] * 2
    assert not replicator.flush(0)
    go_on.set()
    assert replicator.flush(DEADLINE_S)
    assert all(ticket.done() for ticket in tickets)


def test_close_commits_hands_over_and_ends(
    replicator: Replicator, tenure: Tenure, worker: FakeWorker
) -> None:
    """In this order: the last checkpoint's commit, the resignation, the worker's close."""
    ticket = tenure.submit("s", b"last")
    closer = threading.Thread(target=replicator.close, args=(DEADLINE_S,))
    closer.start()
    submit, _ = worker.hear(link.Submit)
    assert worker.hears_nothing_but(link.Ready)
    worker.commit(submit)
    assert isinstance(ticket.result(DEADLINE_S), Committed)
    worker.hear(link.Resign)
    worker.say(link.TenureEnded(1, "resigned"))
    worker.hear(link.Close)
    closer.join(DEADLINE_S)
    assert not closer.is_alive()
    assert tenure.ended_reason == "resigned"
    replicator.close()
    for call in (replicator.status, lambda: replicator.delete("s")):
        with pytest.raises(WrongState, match="closed"):
            call()


def test_close_hands_over_whatever_was_refused_before(
    replicator: Replicator, tenure: Tenure, worker: FakeWorker
) -> None:
    """A successor who cannot take over is named as it closes: it resigns once more, to whom it comes."""
    tenure.resign("c")
    assert worker.hear(link.Resign)[0].successor == "c"
    closer = threading.Thread(target=replicator.close, args=(DEADLINE_S,))
    closer.start()
    worker.say(link.ResignRefused(1, "c is not reachable"))
    assert worker.hear(link.Resign)[0].successor is None
    worker.say(link.TenureEnded(1, "resigned"))
    worker.hear(link.Close)
    closer.join(DEADLINE_S)
    assert not closer.is_alive()


def test_who_closes_second_waits_too(replicator: Replicator, tenure: Tenure, worker: FakeWorker) -> None:
    """Two threads close: neither returns before the last checkpoint has committed and all has ended."""
    tenure.submit("s", b"last")
    closers = [threading.Thread(target=replicator.close, args=(DEADLINE_S,)) for _ in range(2)]
    for closer in closers:
        closer.start()
    soon(lambda: len(replicator._session.settled.next().waiters or ()) == 2)
    worker.commit(worker.hear(link.Submit)[0])
    worker.hear(link.Resign)
    soon(lambda: len(replicator._session.changed.next().waiters or ()) == 2)
    worker.say(link.TenureEnded(1, "resigned"))
    worker.hear(link.Close)
    for closer in closers:
        closer.join(DEADLINE_S)
        assert not closer.is_alive()


def test_a_close_that_is_interrupted_is_finished_by_the_next(
    replicator: Replicator, tenure: Tenure, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Ctrl-C, wherever it waits: the worker is told to end all the same, and is gone when a close returns,
    if only that at the interpreter's exit."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    ticket = tenure.submit("s", b"last")
    done_with: list[Callable[..., object]] = []
    monkeypatch.setattr(atexit, "unregister", done_with.append)
    with monkeypatch.context() as patch:
        patch.setattr(Latch, "wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            replicator.close(DEADLINE_S)
    worker.hear(link.Close)
    assert not done_with
    replicator.close(DEADLINE_S)
    assert done_with == [replicator._shut]
    assert isinstance(ticket.exception(0), CommitUnknown)
    assert not replicator._keeper._thread.is_alive()


def test_who_waits_hears_of_a_change_whose_telling_was_interrupted(
    replicator: Replicator, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal's handler raises in the midst of it: nobody waits at what nobody opens any more."""
    ended: list[object] = []
    waiting = threading.Thread(target=lambda: ended.append(list(replicator.tenures())), daemon=True)
    waiting.start()
    soon(lambda: replicator._session.changed._next.waiters)
    set_latch, interrupted = Latch.set, threading.Event()

    def interrupt(latch: Latch) -> None:
        if threading.current_thread() is threading.main_thread() and not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt
        set_latch(latch)

    monkeypatch.setattr(Latch, "set", interrupt)
    with pytest.raises(KeyboardInterrupt):
        replicator.close(0)
    replicator.close(0)
    waiting.join(DEADLINE_S)
    assert ended == [[]]


def test_no_worker_is_started_to_be_closed(
    replicator: Replicator, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A close while the next worker waits for its turn ends the wait, and the thread."""
    monkeypatch.setattr(keeper, "BACK_OFF_MIN_S", DEADLINE_S)
    worker.die()
    soon(lambda: replicator._keeper._failures and replicator._session.bell.is_dozing)
    replicator.close()
    assert worker.starts == 1


def test_close_ends_in_time_without_a_quorum(
    replicator: Replicator, tenure: Tenure, worker: FakeWorker
) -> None:
    """What does not commit within the limit is unknown, and close returns all the same."""
    ticket = tenure.submit("s", b"last")
    began_at = time.monotonic()
    replicator.close(0.05)
    assert time.monotonic() - began_at < 0.05 + 2 * keeper.EXIT_TIMEOUT_S
    assert isinstance(ticket.exception(0), CommitUnknown)
    assert not tenure.active


@pytest.mark.parametrize(
    "call",
    [
        lambda opened, *_: opened.close(),
        lambda opened, *_: opened.flush(),
        lambda opened, *_: opened.status(),
        lambda opened, tenures, _: next(tenures),  # begun elsewhere, as an engine has it in hand
        lambda opened, *_: next(opened.follow(0.1)),
        lambda opened, tenures, tenure: tenure.wait_ended(0.1),
        lambda opened, tenures, tenure: tenure.wait_active(0.1),
    ],
)
def test_no_callback_may_wait_for_the_thread_it_runs_on(
    replicator: Replicator,
    tenure: Tenure,
    worker: FakeWorker,
    call: Callable[[Replicator, Iterator[Tenure], Tenure], object],
) -> None:
    """Nothing would come, and no other ticket would end meanwhile: it is told so."""
    errors: list[BaseException] = []
    tenures = replicator.tenures(0.1)

    def wait(_: object) -> None:
        try:
            call(replicator, tenures, tenure)
        except WrongState as error:
            errors.append(error)

    tenure.submit("s", b"").add_done_callback(wait)
    worker.commit(worker.hear(link.Submit)[0])
    soon(lambda: errors)
    assert "callback" in str(errors[0])
