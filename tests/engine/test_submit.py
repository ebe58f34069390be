"""What `submit` takes, what it refuses, and when a payload is released."""

from __future__ import annotations

import array
import ctypes
import os
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from replicator import (
    Backlogged,
    Committed,
    PayloadTooLarge,
    Position,
    Replicator,
    Settings,
    Tenure,
    Ticket,
    WrongState,
)
from replicator.engine.backlog import Backlog
from replicator.link import messages as link
from replicator.link.endpoint import EngineEnd, Tracker
from replicator.model import Buffer
from tests.engine.conftest import after
from tests.engine.fake_worker import DEADLINE_S, FakeWorker, soon

LARGE = 1 << 20  # sent from where it lies; small payloads are copied by ZeroMQ


class Lead(ctypes.Structure):
    """A C library's state, of which the payload would be the address."""

    _fields_ = (("count", ctypes.c_int), ("data", ctypes.POINTER(ctypes.c_double)))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (("s", "text"), TypeError, "the payload must be bytes-like"),
        (("s", None), TypeError, "the payload must be bytes-like"),
        (("s", {"p": 7}), TypeError, "part 'p' must be bytes-like"),
        (("s", {7: b""}), TypeError, "a part's name is a str"),
        (("s", {"é" * 128: b""}), ValueError, "at most 255 bytes"),
        (("s", dict.fromkeys(map(str, range(4097)), b"")), ValueError, "4097 parts"),
        (("s", memoryview(bytes(8))[::2]), ValueError, "not C-contiguous"),
        (("s", (ctypes.py_object * 1)()), TypeError, "the payload holds references, not"),
        (("s", {"p": (ctypes.py_object * 1)()}), TypeError, "part 'p' holds references, not"),
        (("s", Lead()), TypeError, "the payload holds references, not"),
        (("s", (ctypes.c_char_p * 1)()), TypeError, "the payload holds references, not"),
        (("s", (ctypes.c_wchar_p * 1)()), TypeError, "the payload holds references, not"),
        (("s", b"", b"m" * 4097), ValueError, "meta has 4097 bytes"),
        (("s", b"", 7), TypeError, "meta must be bytes-like, not int"),
        (("s", b"", 1 << 62), TypeError, "meta must be bytes-like, not int"),
        (("s", b"", [7]), TypeError, "meta must be bytes-like, not list"),
        (("s", b"", "7"), TypeError, "meta must be bytes-like, not str"),
        ((b"s", b""), TypeError, "a stream's name is a str"),
        (("", b""), ValueError, "1 to 255 bytes"),
        (("é" * 128, b""), ValueError, "1 to 255 bytes"),
        (("a\0b", b""), ValueError, "no NUL"),
        (("s\udc80", b""), ValueError, "surrogates"),
        (("s", bytes(1001)), PayloadTooLarge, "1001 bytes, REPLICATOR_PAYLOAD_BYTES_MAX is 1000"),
        (("s", {"a": bytes(501), "b": bytes(500)}), PayloadTooLarge, "1001 bytes"),
    ],
)
def test_what_cannot_be_taken_is_refused_at_once(
    worker: FakeWorker,
    make_settings: Callable[..., Settings],
    arguments: tuple[Any, ...],
    error: type[Exception],
    text: str,
) -> None:
    """The caller's mistakes raise in submit itself, take no sequence and send nothing."""
    with Replicator(make_settings(payload_bytes_max=1000, close_timeout_s=0)) as replicator:
        worker.start_tenure()
        tenure = next(iter(replicator.tenures(DEADLINE_S)))
        with pytest.raises(error, match=text):
            tenure.submit(*arguments)
        assert tenure.next_position("s") == Position(1, 1)
        assert replicator.flush(0)
        assert worker.hears_nothing_but(link.Ready)


def test_parts_that_are_too_many_chunks_are_refused_at_once(
    worker: FakeWorker, make_settings: Callable[..., Settings]
) -> None:
    """Each part begins a chunk of its own: no manifest names so many, though the bytes are not too many."""
    many = dict.fromkeys(map(str, range(4095)), bytes(15 * 1024 + 1))
    settings = make_settings(chunk_bytes=1024, payload_bytes_max=2**26, close_timeout_s=0)
    with Replicator(settings) as replicator:
        worker.start_tenure()
        tenure = next(iter(replicator.tenures(DEADLINE_S)))
        with pytest.raises(PayloadTooLarge, match="make 66544 chunks of 1024 bytes, 65536 are allowed"):
            tenure.submit("s", many | {"large": bytes(2**20)})
        assert tenure.submit("s", many).position == Position(1, 1)


@pytest.mark.parametrize(
    "payload", [array.array("d", [1.5, 2.5]), memoryview(bytes(range(12))).cast("B", (3, 4)), bytearray()]
)
def test_any_contiguous_buffer_is_taken(tenure: Tenure, worker: FakeWorker, payload: Any) -> None:
    """Whatever its item type and shape: its bytes are what is restored."""
    tenure.submit("s", payload)
    assert worker.hear(link.Submit)[1] == [bytes(payload)]


def test_numpy_arrays_are_taken(tenure: Tenure, worker: FakeWorker) -> None:
    """Through the buffer protocol, not copied; a view with gaps is refused, as are references,
    whatever the fields are called."""
    numpy = pytest.importorskip("numpy")
    state = numpy.arange(6.0).reshape(2, 3)
    tenure.submit("s", state)
    assert worker.hear(link.Submit)[1] == [state.tobytes()]
    tenure.submit("empty", numpy.zeros((0, 4)))
    assert worker.hear(link.Submit)[1] == [b""]
    with pytest.raises(ValueError, match="not C-contiguous"):
        tenure.submit("s", state.T)
    tenure.submit("s", numpy.zeros(1, [("Offset", "i4"), ("O", "f8", (2, 2)), ("Z", "c16")]))
    for kind in (object, [("offset", "i4"), ("model", object)]):
        with pytest.raises(TypeError, match="holds references"):
            tenure.submit("s", numpy.zeros(1, kind))


@pytest.mark.parametrize("meta", [b"offset 7", bytearray(b"offset 7"), memoryview(b"offset 7")])
def test_any_buffer_is_a_meta(tenure: Tenure, worker: FakeWorker, meta: Any) -> None:
    """Its bytes are what comes back; they are the caller's to change at once."""
    tenure.submit("s", b"", meta)
    assert worker.hear(link.Submit)[0].meta == b"offset 7"


def test_a_payload_is_released_when_the_worker_has_let_go_of_it(tenure: Tenure, worker: FakeWorker) -> None:
    """Not when it was sent, nor when it committed: then the worker may still read it, in a thread."""
    worker.releases = False
    payload = bytearray(LARGE)
    ticket = tenure.submit("s", payload)
    submit, _ = worker.hear(link.Submit)
    worker.commit(submit)
    assert isinstance(ticket.result(DEADLINE_S), Committed)
    assert not ticket.released.is_set()
    assert not ticket.released.wait(0.01)
    worker.say(link.Released(submit.handle))
    assert ticket.released.wait(DEADLINE_S)
    payload.clear()  # nobody has a view of it any more: a bytearray may be resized again


def test_a_payload_outlives_its_tenure_until_the_worker_lets_go(tenure: Tenure, worker: FakeWorker) -> None:
    """The end of the tenure does not end the reading; what waits in the engine is free at once."""
    worker.releases = False
    flying, waiting = (tenure.submit("s", bytearray(LARGE)) for _ in range(2))
    submit, _ = worker.hear(link.Submit)
    worker.say(link.TenureEnded(1, "deposed"))
    assert flying.exception(DEADLINE_S)
    assert waiting.released.is_set()
    assert not flying.released.is_set()
    worker.say(link.Released(submit.handle))
    assert flying.released.wait(DEADLINE_S)


def test_a_worker_that_dies_releases_everything(tenure: Tenure, worker: FakeWorker) -> None:
    """There is nobody left who could read."""
    worker.releases = False
    payload = bytearray(LARGE)
    ticket = tenure.submit("s", payload)
    worker.hear(link.Submit)
    worker.die()
    assert ticket.released.wait(DEADLINE_S)
    payload.clear()


def test_a_checkpoint_whose_sending_fails_is_released(
    replicator: Replicator, tenure: Tenure, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no memory for it that moment: the link ends, and what it had in hand with it; nothing counts
    any more."""
    send = EngineEnd.send

    def refuse(end: EngineEnd, message: link.ToWorker, parts: Iterable[Buffer] = ()) -> Tracker | None:
        if isinstance(message, link.Submit):
            raise MemoryError("no room")
        return send(end, message, parts)

    monkeypatch.setattr(EngineEnd, "send", refuse)
    tickets = [tenure.submit("s", bytearray(LARGE)) for _ in range(3)]
    assert "MemoryError" in str(tickets[0].exception(DEADLINE_S))
    for ticket in tickets:
        assert ticket.released.wait(DEADLINE_S)
    assert replicator._session._backlog.held_bytes == 0


class Pooled(bytearray):
    """A buffer of a pool, which wants it back."""


@pytest.mark.parametrize("how", ["read", "replaced", "deposed", "dead"])
def test_a_payloads_finalizer_may_do_anything(
    replicator: Replicator, tenure: Tenure, worker: FakeWorker, how: str
) -> None:
    """It takes a lock under which others submit, or submits itself: it runs under no lock of ours, whatever
    the payload is let go of for."""
    worker.releases = False
    lock, could = replicator._session._lock, []

    def give_back() -> None:
        could.append(lock.acquire(timeout=DEADLINE_S / 2))
        lock.release()

    tenure.submit("s", b"")
    worker.hear(link.Submit)
    stream = "t" if how in ("read", "dead") else "s"  # these are with the worker, the others wait
    payload = Pooled(LARGE)
    weakref.finalize(payload, give_back)
    released = tenure.submit(stream, payload).released
    del payload
    if how == "read":
        worker.say(link.Released(worker.hear(link.Submit)[0].handle))
    elif how == "replaced":
        tenure.submit("s", b"")
    elif how == "deposed":
        worker.say(link.TenureEnded(1, "deposed"))
    else:
        worker.hear(link.Submit)
        worker.die()
    assert released.wait(DEADLINE_S)
    assert could == [True]


def test_what_was_replaced_is_released_though_a_signal_interrupts(
    tenure: Tenure, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler raises in `submit`, which has taken a newer checkpoint by then."""
    tenure.submit("s", b"")
    worker.hear(link.Submit)
    payload = bytearray(LARGE)
    replaced = tenure.submit("s", payload)
    monkeypatch.setattr(Backlog, "offer", after(Backlog.offer))
    with pytest.raises(KeyboardInterrupt):
        tenure.submit("s", b"")
    assert replaced.released.is_set()
    payload.clear()


def test_a_copy_is_released_at_once(tenure: Tenure, worker: FakeWorker) -> None:
    """With copy=True the caller's buffer is free when submit returns, and what it held then is sent."""
    payload = bytearray(b"before")
    ticket = tenure.submit("s", payload, copy=True)
    assert ticket.released.is_set()
    payload[:] = b"behind"
    assert worker.hear(link.Submit)[1] == [b"before"]


def test_waiting_checkpoints_are_bounded(worker: FakeWorker, make_settings: Callable[..., Settings]) -> None:
    """Past the bound submit refuses; one that replaces another needs only the difference; what is
    released makes room again."""
    worker.releases = False
    limits = make_settings(backlog_bytes_max=1000, payload_bytes_max=1000, close_timeout_s=0)
    with Replicator(limits) as replicator:
        worker.start_tenure()
        tenure = next(iter(replicator.tenures(DEADLINE_S)))
        tenure.submit("a", bytes(600))
        tenure.submit("a", bytes(400))
        with pytest.raises(Backlogged, match="1000 bytes of checkpoints wait"):
            tenure.submit("b", b"1")
        replacing = tenure.submit("a", bytes(400))
        assert replacing.position == Position(1, 3)
        submit, _ = worker.hear(link.Submit)
        worker.say(link.Released(submit.handle))
        soon(lambda: accepts(tenure))


def accepts(tenure: Tenure) -> bool:
    try:
        tenure.submit("b", bytes(600))
    except Backlogged:
        return False
    return True


def test_many_threads_submit(tenure: Tenure, worker: FakeWorker) -> None:
    """Every submit gets a sequence of its own, every ticket ends, and the last sequence commits."""
    tickets: list[Ticket] = []

    def submit() -> None:
        tickets.extend(tenure.submit("s", b"x" * 10) for _ in range(200))

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    last = 0
    while last < 1600:
        message, _ = worker.hear(link.Submit)
        assert message.sequence > last
        last = message.sequence
        worker.commit(message)
    for thread in threads:
        thread.join()
    assert sorted(ticket.position.sequence for ticket in tickets) == list(range(1, 1601))
    outcomes = {type(ticket.result(DEADLINE_S)).__name__ for ticket in tickets}
    assert "Committed" in outcomes
    assert outcomes <= {"Committed", "Superseded"}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_refused(replicator: Replicator, tenure: Tenure) -> None:
    """Handles are the parent's: calls raise WrongState, `active` is false; the parent goes on."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        refusals = 0
        for call in (
            lambda: tenure.submit("s", b""),
            lambda: replicator.delete("s"),
            lambda: replicator.status(),
            lambda: next(iter(replicator.tenures(0))),
            lambda: tenure.resign(),
            lambda: tenure.wait_active(),
            lambda: tenure.wait_ended(),
            lambda: replicator.close(),
        ):
            try:
                call()
            except WrongState as error:
                refusals += "forked child" in str(error)
        os.write(writer, b"%d %d" % (refusals, tenure.active))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 100) == b"8 0"
    os.close(reader)
    os.close(writer)
    assert tenure.active
    assert tenure.submit("s", b"").position == Position(1, 1)
