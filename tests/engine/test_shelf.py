"""The shelf: which checkpoint a follower is given next, and which one a tenure starts from."""

from __future__ import annotations

from replicator.engine.checkpoint import Arrival, Checkpoint
from replicator.engine.shelf import Shelf
from replicator.link import messages as link
from replicator.model import Position, StreamName

S = StreamName("s")


def arrival(sequence: int) -> Arrival:
    """A checkpoint of the stream as the worker offers it."""
    return Arrival(link.StandbyOffered(S, Position(1, sequence), b"", ("",), False), [b"%d" % sequence])


def test_a_follower_that_takes_an_older_one_keeps_no_newer_one_from_the_tenure() -> None:
    """What a tenure starts from is what came last, whoever followed then."""
    shelf = Shelf()
    shelf.put(arrival(1), is_wanted=True)
    shelf.put(arrival(2), is_wanted=False)
    taken = shelf.take()
    assert taken is not None
    assert taken.payload == b"1"
    assert shelf.restored(S) == arrival(2)


def test_nobody_has_what_comes_while_nobody_follows() -> None:
    """Only a follower is done at once with what it was given before."""
    shelf = Shelf()
    shelf.put(arrival(1), is_wanted=True)
    assert isinstance(shelf.take(), Checkpoint)
    assert shelf.put(arrival(1), is_wanted=True)
    assert not shelf.put(arrival(1), is_wanted=False)


def test_nothing_waits_of_a_worker_that_is_gone() -> None:
    """A stream may be deleted before the next one offers anything."""
    shelf = Shelf()
    shelf.put(arrival(1), is_wanted=True)
    shelf.lost()
    assert shelf.take() is None
    assert shelf.restored(S) == "what the standby was given is gone"
