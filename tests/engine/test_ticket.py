"""A ticket ends whatever happens to those who wait for it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import wait
from contextlib import suppress
from itertools import count
from types import FrameType

import pytest

from replicator import Position, StoredLocally, StreamName, Ticket
from replicator.engine.ticket import Settled
from tests.engine.fake_worker import DEADLINE_S

OUTCOME = StoredLocally(Position(1, 1))


def is_interrupted(call: Callable[[], object], at: int) -> bool:
    """Make the call, in which a signal's handler raises where the interpreter looks for signals: when it has
    called something, that time which *at* says. Whether there were so many."""
    places, before = count(), sys.getprofile()

    def look(_: FrameType, event: str, __: object) -> None:
        if event in ("c_return", "return") and next(places) == at:
            raise KeyboardInterrupt

    sys.setprofile(look)
    try:
        with suppress(TimeoutError):
            call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(before)
    return False


@pytest.mark.parametrize(
    "call",
    [
        lambda ticket: ticket.result(0.001),
        lambda ticket: ticket.exception(0),
        lambda ticket: ticket.done(),
        lambda ticket: ticket.add_done_callback(id),
        lambda ticket: ticket.released.wait(0.001),
    ],
    ids=["result", "exception", "done", "add_done_callback", "released"],
)
def test_a_signal_that_interrupts_who_waits_holds_up_nobody(call: Callable[[Ticket], object]) -> None:
    """Neither the link's thread, which ends the ticket, nor who waits once more; and it is the signal's own
    exception that comes out, not one of a lock that was let go of already."""
    for place in count():
        ticket = Ticket()
        ticket.stream, ticket.position = StreamName("s"), Position(1, 1)
        was_interrupted = is_interrupted(lambda ticket=ticket: call(ticket), place)  # type: ignore[misc]
        teller = threading.Thread(target=Settled(ticket, OUTCOME).tell, daemon=True)
        teller.start()
        teller.join(DEADLINE_S)
        assert not teller.is_alive()
        ticket.released.set()
        assert ticket.released.wait(0)
        assert ticket.result(0) == OUTCOME
        if not was_interrupted:
            break
    assert place


def test_who_finds_a_ticket_done_has_what_it_ended_as() -> None:
    """Also while the link's thread has yet to open the door for those who wait: `concurrent.futures.wait`
    has named it done by then."""
    may_go_on = threading.Event()

    def stop(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_name == "_invoke_callbacks":
            may_go_on.wait(DEADLINE_S)

    def tell() -> None:
        sys.setprofile(stop)
        Settled(ticket, OUTCOME).tell()

    ticket = Ticket()
    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        assert wait([ticket], DEADLINE_S).done == {ticket}
        assert ticket.result(0) == OUTCOME
        assert ticket.exception(0) is None
    finally:
        may_go_on.set()
        teller.join(DEADLINE_S)
