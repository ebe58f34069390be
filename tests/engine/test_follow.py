"""Following: committed checkpoints for an engine that keeps warm while its node is a backup."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Callable

import pytest

from replicator import Checkpoint, Position, Replicator, Settings, WrongState
from replicator.link import messages as link
from tests.engine.fake_worker import DEADLINE_S, FakeWorker, soon


def offer(worker: FakeWorker, stream: str, sequence: int, payload: bytes) -> None:
    worker.say(link.StandbyOffered(stream, Position(1, sequence), b"meta", ("",), False), payload)


def test_a_backup_follows_what_is_committed(replicator: Replicator, worker: FakeWorker) -> None:
    """Each checkpoint is acknowledged when the engine asks for the next; a newer one replaces one that was
    not taken; the end of following is told."""
    followed = replicator.follow(DEADLINE_S)
    taken: list[Checkpoint] = []
    thread = threading.Thread(target=lambda: taken.append(next(followed)))
    thread.start()
    assert worker.hear(link.Follow)[0].on
    offer(worker, "s", 4, b"four")
    thread.join()
    assert taken == [Checkpoint("s", Position(1, 4), b"meta", {"": b"four"}, False)]  # type: ignore[arg-type]
    assert worker.hears_nothing_but(link.Follow)
    offer(worker, "s", 5, b"five")
    offer(worker, "s", 6, b"six")
    soon(lambda: worker._orders.empty())
    shelf = replicator._session._shelf
    soon(lambda: [each.message.position.sequence for each in shelf._follower.waiting.values()] == [6])
    assert next(followed).payload == b"six"
    assert worker.hear(link.StandbyTaken)[0].stream == "s"
    close: Callable[[], None] = followed.close  # type: ignore[attr-defined]
    close()
    assert not worker.hear(link.Follow)[0].on


def test_a_warm_standby_is_restored_from_what_it_followed(replicator: Replicator, worker: FakeWorker) -> None:
    """What came last of a stream comes once: taken, loaded or still waiting, the tenure has it; of what the
    follower is done with it says so. The next tenure has nothing of it."""
    followed = replicator.follow(DEADLINE_S)
    taken: list[Checkpoint] = []
    thread = threading.Thread(target=lambda: taken.extend([next(followed), next(followed)]))
    thread.start()
    assert worker.hear(link.Follow)[0].on
    for stream, payload in (("a", b"loaded"), ("b", b"being loaded"), ("c", b"waiting")):
        offer(worker, stream, 4, payload)
    thread.join()
    assert [each.stream for each in taken] == ["a", "b"]
    for stream in "abc":
        worker.say(link.RestoredKnown(5, stream, Position(1, 4)))
    worker.say(link.TenureStarted(5, 1))
    tenure = next(replicator.tenures(DEADLINE_S))
    restored = [(each.payload, each.is_followed) for each in tenure.restored.values()]
    assert restored == [(b"loaded", True), (b"being loaded", False), (b"waiting", False)]
    assert tenure.restored["a"].payload is taken[0].payload
    assert tenure.next_position("a").sequence == 5
    worker.say(link.RestoredKnown(6, "a", Position(1, 4)))
    worker.say(link.TenureStarted(6, 2))
    assert next(replicator.tenures(DEADLINE_S)).restored.unavailable == {"a"}


def test_who_follows_again_hears_all_that_comes(replicator: Replicator, worker: FakeWorker) -> None:
    """Also if the follower before ends later, which a reference to it may bring about."""
    left = replicator.follow(DEADLINE_S)
    offer(worker, "s", 4, b"four")
    assert next(left).payload == b"four"
    assert worker.hear(link.Follow)[0].on
    again = replicator.follow(DEADLINE_S)
    payloads: list[object] = []
    thread = threading.Thread(target=lambda: payloads.append(next(again).payload))
    thread.start()
    assert worker.hear(link.Follow)[0].on
    del left
    offer(worker, "s", 5, b"five")
    thread.join(DEADLINE_S)
    assert payloads == [b"five"]
    assert worker.hears_nothing_but(link.Ready)


def test_the_end_of_one_follower_is_not_that_of_the_next(
    replicator: Replicator, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who begins between the last look of the one that ends and his word is not ended with him."""
    session, want, given = replicator._session, replicator._session.want, []
    following = threading.Thread(target=lambda: given.append(next(replicator.follow(DEADLINE_S)).payload))

    def begin_first(wish: link.Ready | link.Follow) -> None:
        if wish == link.Follow(False) and not following.ident:
            following.start()
            soon(lambda: session._wanted[link.Follow] == link.Follow(True) and session._follower > 1)
        want(wish)

    monkeypatch.setattr(session, "want", begin_first)
    assert list(replicator.follow(0.01)) == []
    assert [worker.hear(link.Follow)[0].on for _ in range(4)] == [True, True, False, True]
    offer(worker, "s", 4, b"four")
    following.join(DEADLINE_S)
    assert given == [b"four"]


def test_a_follower_in_a_forked_child_is_refused(replicator: Replicator, worker: FakeWorker) -> None:
    """Though a thread that is not there had the session's lock as the process forked."""
    followed = replicator.follow(DEADLINE_S)
    offer(worker, "s", 4, b"four")
    assert next(followed).payload == b"four"
    with replicator._session._lock:
        child = os.fork()
        if not child:
            try:
                next(followed)
            except WrongState:
                os._exit(7)
            finally:
                os._exit(8)
    killer = threading.Timer(DEADLINE_S, os.kill, (child, signal.SIGKILL))
    killer.start()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    killer.cancel()


def test_who_asks_for_a_tenure_takes_nothing_from_a_follower(
    replicator: Replicator, worker: FakeWorker
) -> None:
    """What waits for him is given to him, and its place at the worker given back."""
    followed = replicator.follow(DEADLINE_S)
    offer(worker, "s", 4, b"four")
    assert next(followed).payload == b"four"
    offer(worker, "s", 5, b"five")
    soon(lambda: replicator._session._shelf._follower.waiting)
    assert next(replicator.tenures(0), None) is None
    assert next(followed).payload == b"five"
    assert worker.hear(link.StandbyTaken)[0].stream == "s"


def test_a_follower_may_be_collected_wherever_the_collector_runs(
    replicator: Replicator, worker: FakeWorker
) -> None:
    """It is left behind in a cycle, and some thread makes objects while it has the session's lock."""
    followed = replicator.follow(DEADLINE_S)
    offer(worker, "s", 4, b"four")
    assert next(followed).payload == b"four"
    assert worker.hear(link.Follow)[0].on

    def collect() -> None:
        with replicator._session._lock:
            gc.collect()

    left: list[object] = [followed]
    left.append(left)
    del followed, left
    collector = threading.Thread(target=collect, daemon=True)
    collector.start()
    collector.join(DEADLINE_S)
    assert not collector.is_alive()
    assert not worker.hear(link.Follow)[0].on


def test_what_a_follower_does_to_its_mapping_is_its_own(replicator: Replicator, worker: FakeWorker) -> None:
    """It may take its state apart as it loads it: the tenure restores what was committed, the same bytes."""
    followed = replicator.follow(DEADLINE_S)
    worker.say(link.StandbyOffered("s", Position(1, 4), b"", ("head", "rows"), True), b"width 7", b"1 2 3")
    payload = next(followed).payload
    assert isinstance(payload, dict)
    head = payload.pop("head")
    worker.say(link.RestoredKnown(5, "s", Position(1, 4)))
    worker.say(link.TenureStarted(5, 1))
    restored = next(replicator.tenures(DEADLINE_S)).restored["s"].payload
    assert restored == {"head": b"width 7", "rows": b"1 2 3"}
    assert isinstance(restored, dict)
    assert restored["head"] is head


def test_of_a_deleted_stream_nothing_is_kept(replicator: Replicator, worker: FakeWorker) -> None:
    """Neither what waits for the follower nor what it has taken."""
    followed = replicator.follow(DEADLINE_S)
    offer(worker, "taken", 4, b"")
    assert next(followed).stream == "taken"
    for stream in ("waiting", "other"):
        offer(worker, stream, 4, b"")
    for stream in ("taken", "waiting"):
        worker.say(link.StandbyDeleted(stream))
    shelf = replicator._session._shelf
    soon(lambda: list(shelf._kept) == ["other"])
    assert next(followed).stream == "other"
    assert not shelf._followed
    offer(worker, "waiting", 7, b"anew")
    assert next(followed).payload == b"anew"


def test_following_ends_in_time_and_with_the_replicator(replicator: Replicator) -> None:
    """As the loop over tenures does."""
    assert list(replicator.follow(0.01)) == []
    closer = threading.Timer(0.02, replicator.close, (0,))
    closer.start()
    assert list(replicator.follow()) == []
    closer.join()


def test_a_new_worker_offers_all_anew_and_the_follower_gets_what_is_newer(
    worker: FakeWorker, make_settings: Callable[..., Settings]
) -> None:
    """What it had is acknowledged at once, and still counts as followed when a tenure starts."""
    with Replicator(make_settings(worker_restarts_max=2)) as replicator:
        followed = replicator.follow(DEADLINE_S)
        for stream, sequence in (("same", 4), ("newer", 4), ("loading", 4)):
            offer(worker, stream, sequence, b"old")
        assert [next(followed).stream for _ in range(3)] == ["same", "newer", "loading"]
        assert [worker.hear(link.StandbyTaken)[0].stream for _ in range(2)] == ["same", "newer"]
        worker.die()
        soon(lambda: worker.starts == 2)
        assert worker.hear(link.Follow)[0].on
        for stream, sequence in (("same", 4), ("loading", 4), ("newer", 5)):
            offer(worker, stream, sequence, b"anew")
        assert [worker.hear(link.StandbyTaken)[0].stream for _ in range(2)] == ["same", "loading"]
        given = next(followed)
        assert (given.stream, given.position) == ("newer", Position(1, 5))
        for stream, sequence in (("same", 4), ("loading", 4), ("newer", 5)):
            worker.say(link.RestoredKnown(5, stream, Position(1, sequence)))
        worker.say(link.TenureStarted(5, 1))
        restored = next(replicator.tenures(DEADLINE_S)).restored
        assert {s: c.is_followed for s, c in restored.items()} == {
            "same": True,
            "loading": True,
            "newer": False,
        }
        assert restored["same"].payload == b"anew"
        replicator.close(0)


def test_who_follows_anew_gets_what_the_one_before_had(replicator: Replicator, worker: FakeWorker) -> None:
    """Each begins with what is committed here; so does one that goes on after a tenure of its own, whose
    state went other ways meanwhile."""
    followed = replicator.follow(DEADLINE_S)
    offer(worker, "s", 4, b"four")
    assert next(followed).payload == b"four"
    anew = replicator.follow(DEADLINE_S)
    offer(worker, "s", 4, b"four")
    assert next(anew).payload == b"four"
    worker.say(link.RestoredKnown(5, "s", Position(1, 4)))
    worker.say(link.TenureStarted(5, 1))
    tenure = next(replicator.tenures(DEADLINE_S))
    worker.say(link.TenureEnded(5, "lost"))
    tenure.wait_ended(DEADLINE_S)
    offer(worker, "s", 4, b"four")
    assert next(anew).payload == b"four"
