"""One worker's life, with ends and a host that are played: what is free when, and in which order it ends."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator import Settings, Tenure
from replicator.engine import life as module
from replicator.engine.life import FREE_TIMEOUT_S, READ_POLL_S, SLEEP_S_MAX, Life
from replicator.engine.parcel import pack
from replicator.engine.session import Session
from replicator.errors import WorkerFailed
from replicator.link import messages as link
from replicator.link.line import EngineLine
from replicator.model import Epoch


class Tracker:
    """Of payload that ZeroMQ reads until it was looked at so often."""

    def __init__(self, looks: float) -> None:
        self.looks = looks

    @property
    def done(self) -> bool:
        self.looks -= 1
        return self.looks < 0


class Stage:
    """The link's end and the worker's host at once. `says` is what comes, a turn at a time, and `word` what
    the lease was when something was looked for."""

    def __init__(self, session: Session[Tenure]) -> None:
        self.session = session
        self.line: EngineLine | None = None
        self.says: list[list[link.ToEngine]] = []
        self.heard: list[link.ToWorker] = []
        self.timeouts: list[int | None] = []
        self.tracker = Tracker(0)
        self.late = 0  # how often more arrives when the worker has ended
        self.at_receive: list[float] = []
        self.at_stop: tuple[float, bool] | None = None

    def start(self, *messages: link.ToEngine) -> Life:
        """A life, of which that has been heard."""
        life = Life(self.session)
        self.says.append([link.Started("edge-1", True), *messages])
        life._receive()
        return life

    def _is_lent(self) -> float:
        return self.session.words.slot(7).word[0]

    # ── the end ──

    def watch(self, source: object) -> None:
        """Nothing is polled."""

    def use(self, line: EngineLine) -> None:
        """It is not heard either."""

    def send(self, message: link.ToWorker, parts: object = ()) -> Tracker | None:
        self.heard.append(message)
        return self.tracker if isinstance(message, link.Submit) else None

    def wait(self, timeout_ms: int | None) -> set[object]:
        self.timeouts.append(timeout_ms)
        return set() if self.says else {self.fileno()}

    def wait_for_link(self, timeout_ms: int) -> bool:
        self.late -= 1
        return self.late >= 0

    def receive(self) -> Iterator[tuple[link.ToEngine, list[memoryview]]]:
        self.at_receive.append(self._is_lent())
        for message in self.says.pop(0) if self.says else ():
            yield message, []

    # ── the host ──

    def fileno(self) -> int:
        return 99

    def why(self) -> str:
        return "it died"

    def stop(self) -> bool:
        self.at_stop = self._is_lent(), self.session.lending._line is None
        return True


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session[Tenure]]:
    session = Session(Settings(data_dir=tmp_path / "data"), Tenure)
    yield session
    session.close()


@pytest.fixture
def stage(session: Session[Tenure], monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage(session)
    monkeypatch.setattr(Life, "_start", lambda life, undo: (stage, stage))
    return stage


def submit(session: Session[Tenure], stream: str = "s") -> Any:
    """A checkpoint of the tenure of epoch 1."""
    return session.submit(Epoch(1), stream, pack(bytearray(100), b"", False, 1000), False)


def test_a_payload_is_free_when_both_have_let_go_of_it(session: Session[Tenure], stage: Stage) -> None:
    """The worker, which says so, and ZeroMQ, which may read it still."""
    life = stage.start(link.TenureStarted(1, 7))
    stage.tracker = Tracker(2)
    ticket = submit(session)
    life._send_all()
    assert isinstance(stage.heard[-1], link.Submit)
    stage.says.append([link.Released(stage.heard[-1].handle)])
    life._receive()
    life._release_read()
    assert not ticket.released.is_set()
    life._release_read()
    assert ticket.released.is_set()


@pytest.mark.parametrize("looks", [5, float("inf")])
def test_what_zeromq_still_reads_is_waited_for(session: Session[Tenure], stage: Stage, looks: float) -> None:
    """ZeroMQ may read them still; but not for long."""
    life = stage.start(link.TenureStarted(1, 7))
    stage.tracker = Tracker(looks)
    submit(session)
    life._send_all()
    began_at = time.monotonic()
    life.bury()
    assert stage.tracker.looks < 0 or time.monotonic() - began_at >= FREE_TIMEOUT_S


def test_a_resign_goes_after_the_checkpoints_before_it(session: Session[Tenure], stage: Stage) -> None:
    """Also if both are there when the link's thread looks, and another call comes while it sends."""
    life = stage.start(link.TenureStarted(1, 7))
    submit(session, "first")
    session.call(link.AskStatus(1))
    next_entry = session.next_entry

    def meanwhile() -> Any:
        found = next_entry()
        if found is None and session.tenure is not None and not session._resignation.epoch:
            submit(session, "last")
            session.resign(Epoch(1), None)
        return found

    session.next_entry = meanwhile  # type: ignore[method-assign]
    life._send_all()
    life._send_all()
    heard = [type(message) for message in stage.heard]
    assert heard == [link.Submit, link.AskStatus, link.Submit, link.Resign]


def test_r24_no_lease_outlives_the_worker(session: Session[Tenure], stage: Stage) -> None:
    """It is over before what the worker had still said is heard, which may take long."""
    life = stage.start(link.TenureStarted(1, 7))
    session.words.slot(7).deadline_ns = 2**62
    stage.at_receive.clear()
    stage.late = 2
    stage.says = [[link.Failed("StoreError", "its last word")]]
    life._receive()
    stage.at_receive.clear()
    failure = life.serve(lambda: None)
    assert stage.at_receive == [0, 0, 0]
    assert failure.text == "its last word"


def test_a_last_word_may_come_late(session: Session[Tenure], stage: Stage) -> None:
    """What a dead worker had sent is still on its way."""
    life = stage.start()
    stage.late = 1
    receive = stage.receive

    def late() -> Iterator[tuple[link.ToEngine, list[memoryview]]]:
        if not stage.late:
            stage.says = [[link.Failed("StoreError", "its last word")]]
        return receive()

    stage.receive = late  # type: ignore[method-assign]
    assert life.serve(lambda: None).text == "its last word"


def test_a_worker_that_is_buried_has_neither_lease_nor_line(session: Session[Tenure], stage: Stage) -> None:
    """Before it is waited for: a thread may take its time."""
    stage.line = EngineLine()
    life = stage.start(link.TenureStarted(1, 7))
    assert session.lending._line is stage.line
    session.words.slot(7).deadline_ns = 2**62
    life.bury()
    assert stage.at_stop == (0, True)
    stage.line.close()


def test_a_line_that_the_worker_cannot_use_is_closed(session: Session[Tenure], stage: Stage) -> None:
    """Its other end is: it would be readable for ever."""
    stage.line = EngineLine()
    life = Life(session)
    stage.says.append([link.Started("edge-1", False)])
    life._receive()
    assert session.lending._line is None
    assert stage.line.fileno() == -1


def test_the_thread_sleeps_no_longer_than_it_may(session: Session[Tenure], stage: Stage) -> None:
    """A limit may be far away; and while somebody waits for a payload to be read, it looks soon."""
    life = stage.start()
    stage.says = [[]]
    life._sleep(lambda: None)
    life._sleep(lambda: time.monotonic() + 1e10)
    session.lending.is_awaited = True
    life._sleep(lambda: None)
    endless, far, soon = stage.timeouts
    assert (endless, far) == (None, SLEEP_S_MAX * 1000)
    assert soon is not None
    assert soon <= READ_POLL_S * 1000 + 1


def test_the_socket_is_the_owner_s_alone(
    session: Session[Tenure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the directory may be to others."""
    found: list[int] = []

    def child(settings: Settings, address: str, *_: object) -> None:
        found.append(stat.S_IMODE(Path(address.removeprefix("ipc://")).stat().st_mode))
        raise WorkerFailed("for the test")

    monkeypatch.setattr(module, "ChildProcess", child)
    monkeypatch.setattr(module, "SOCKET_PATH_BYTES_MAX", 1000)
    monkeypatch.chdir(tmp_path)
    before = os.umask(0)
    try:
        with pytest.raises(WorkerFailed):
            Life(Session(Settings(data_dir=Path("data")), Tenure))
    finally:
        os.umask(before)
    assert found == [0o600]
