"""The driver: what comes goes to the core, what the core wants is done, in order and in time."""

from __future__ import annotations

import os
import threading
from typing import Any, cast

import pytest

from replicator.adapters.ports import MEND_INTERVAL_S
from replicator.core import effects, events
from replicator.core.messages import ACKS_PER_MESSAGE, Ack, Acked, Hello, Progress, Raft
from replicator.link import messages as link
from replicator.model import (
    Epoch,
    Generation,
    Owner,
    Payload,
    Position,
    Process,
    Promise,
    Role,
    Sequence,
    StreamName,
)
from tests.worker.driver_fakes import ID, A, B, Bench, C

ORDERS = StreamName("orders")
HELLO = Hello(True, None, "", "")


def test_events_reach_the_core_in_order_and_its_effects_are_done_in_order(bench: Bench) -> None:
    """The store's completions keep their order, and effects of one event are performed as they were given."""
    release, forget = effects.Release(3), effects.ForgetTombstone(ORDERS, Generation(1), Sequence(2))
    bench.core.react = lambda event: [forget, effects.AllowPublish(Epoch(1), 9), release]
    first, second = events.StoreRoom(True), events.StoreRoom(False)
    bench.inbox.deliver(first)
    bench.inbox.deliver(second)
    bench.turn()
    assert bench.core.events == [first, second]
    assert bench.store.performed == [forget, forget]
    assert bench.data.calls == [("allow", Epoch(1), 9)] * 2


@pytest.mark.parametrize("new", [Role.BACKUP, Role.CANDIDATE, Role.FAULTY])
def test_who_is_primary_no_longer_publishes_nothing(bench: Bench, new: Role) -> None:
    """The data path lets go of what has not left; of a candidate that has lost it has nothing."""
    bench.emit(effects.Changed(Role.CANDIDATE, Role.BACKUP, "lost"))
    assert bench.data.calls == []
    bench.emit(effects.Changed(Role.PRIMARY, new, "over"))
    assert bench.data.calls == [("abandon",)]


def test_an_event_s_instant_is_read_after_it_has_come(bench: Bench) -> None:
    """A lender's clock is read after the question was received, so its lease never ends before the
    holder's (R24, I9), however long the messages before it took."""
    bench.control.cost_s = 0.001
    for _ in range(3):
        bench.arrive(HELLO)
    bench.turn()
    assert bench.core.instants == pytest.approx([1000.001, 1000.002, 1000.003])


def test_a_flood_keeps_nobody_from_the_clock(bench: Bench) -> None:
    """However much arrives, the elector and the core get their time after `SLICE_S`; nothing is dropped."""
    bench.control.cost_s = 0.001
    for _ in range(100):
        bench.arrive(HELLO)
    bench.turn()
    assert len(bench.core.events) <= 12
    assert bench.elector.ticks == 1
    for _ in range(20):
        bench.turn()
    assert len(bench.core.events) == 100
    assert bench.elector.ticks >= 4


def test_a_flood_of_what_is_refused_keeps_nobody_from_the_clock(bench: Bench) -> None:
    """What is no message takes its time as well, and is left for the next turn when that is over."""
    bench.control.cost_s = 0.001
    bench.control.waiting += [(None, b"no message")] * 1000
    bench.turn()
    assert len(bench.control.waiting) >= 980


def test_a_tick_comes_when_it_is_due(bench: Bench) -> None:
    """The core gets its Tick at its deadline, not before."""
    bench.core.deadline = bench.clock.now + 0.5
    bench.turn()
    assert bench.core.events == []
    bench.clock.now += 0.5
    bench.turn()
    assert bench.core.events == [events.Tick()]


def test_connections_are_looked_at_every_second(bench: Bench) -> None:
    """Also when nothing else is to be done; not with every turn."""
    start = bench.clock.now
    for _ in range(5):
        bench.clock.now += MEND_INTERVAL_S / 2
        bench.turn()
    assert bench.control.mended == bench.data.mended == [start + n * MEND_INTERVAL_S for n in (0.5, 1.5, 2.5)]


def test_a_sleeping_driver_is_woken(bench: Bench) -> None:
    """What another thread delivers is handled at once, though nothing is due for long."""
    bench.driver._candidacy.deadline = bench.clock.now + 60
    timer = threading.Timer(0.05, bench.inbox.deliver, [events.StoreRoom(True)])
    timer.start()
    for _ in range(3):  # a turn ends without an event only after SLEEP_S_MAX
        if not bench.core.events:
            bench.driver._turn()
    timer.join()
    assert bench.core.events == [events.StoreRoom(True)]


def test_r16_publications_are_left_where_they_are_while_nobody_has_room_for_them(bench: Bench) -> None:
    """They are received when there is room, and when there is room again."""
    for room in (True, False, True):
        bench.data.has_room = room
        os.eventfd_write(bench.data.bell, 1)
        before = len(bench.data.calls)
        bench.turn()
        assert bench.data.calls[before:] == [("receive",)] * room


def test_the_elector_s_messages_go_to_the_elector(bench: Bench) -> None:
    """Raft messages never reach the core."""
    bench.arrive(Raft(b"vote"))
    bench.turn()
    assert bench.elector.received == [(B, b"vote")]
    assert bench.core.events == []


def test_acks_of_one_turn_travel_together(bench: Bench) -> None:
    """A store that answers for many streams at once sends one message to the primary, and before anything
    else that goes there."""
    acked = [Acked(f"s{index}", 1, 1, bytes(32)) for index in range(3)]
    bench.emit(*(effects.Send(B, Ack(4, (each,))) for each in acked), effects.Send(C, Ack(4, (acked[0],))))
    assert bench.control.sent == []
    bench.emit(effects.Send(B, Progress(4, 1)))
    bench.turn()
    sent = [(to, envelope.message) for to, envelope in bench.control.sent]
    assert sent == [(B, Ack(4, tuple(acked))), (B, Progress(4, 1)), (C, Ack(4, (acked[0],)))]


def test_no_message_has_more_acks_than_are_read(bench: Bench) -> None:
    """The primary would take none of a longer one, and wait for all of them."""
    acked = [Acked(f"s{index}", 1, 1, bytes(32)) for index in range(ACKS_PER_MESSAGE + 1)]
    bench.emit(*(effects.Send(B, Ack(4, (each,))) for each in acked))
    bench.turn()
    sent = [envelope.message for _, envelope in bench.control.sent]
    assert sent == [Ack(4, tuple(acked[:-1])), Ack(4, (acked[-1],))]


def test_acks_of_two_epochs_travel_apart(bench: Bench) -> None:
    """An ack says in which epoch it was given (R13)."""
    old, new = (Acked("s", 1, sequence, bytes(32)) for sequence in (1, 2))
    bench.emit(effects.Send(B, Ack(4, (old,))), effects.Send(B, Ack(5, (new,))))
    bench.turn()
    assert [envelope.message for _, envelope in bench.control.sent] == [Ack(4, (old,)), Ack(5, (new,))]


def test_a_submitted_payload_is_published_and_released(bench: Bench) -> None:
    """The core sees a handle and a size; the bytes go from the link to the data path, uncopied, and are
    let go of when the core says so."""
    part = memoryview(b"state")
    submit = link.Submit(4, "orders", 9, 5, b"meta", ("",), False)
    bench.end.waiting.append((submit, [part]))
    publish = effects.Publish(5, ORDERS, Generation(1), Epoch(4), Sequence(9))
    bench.core.react = lambda event: [publish]
    bench.turn()
    assert bench.core.events == [events.Submitted(Epoch(4), ORDERS, Sequence(9), 5, 5)]
    _, effect, payload = bench.data.calls[0]
    assert effect is publish
    assert payload == Payload({"": part}, b"meta")
    assert payload.parts[""] is part
    bench.emit(effects.Release(5))
    assert bench.end.told == [link.Released(5)]


def test_a_commit_tells_how_long_each_stage_took(bench: Bench) -> None:
    """Publish, store and commit are spans, each from where the one before ends."""
    bench.tenancy.keep(5, Payload({}), 1.0)
    bench.tenancy.published(5, 1.5)
    bench.tenancy.stored(effects.StoredLocally(5), 1.75)
    commit = effects.Commit(5, ORDERS, Generation(1), Position(4, 9), (A, B))
    bench.tenancy.committed(commit, 2.75)
    (told,) = bench.end.all(link.Committed)
    assert told.stages == {"publish": 0.5, "store": 0.25, "commit": 1.0}
    assert told.holders == (A, B)


@pytest.mark.parametrize("acks", ["quorum", "local", "all"])
def test_the_engine_is_told_what_its_tickets_wait_for(acks: str) -> None:
    """Each message wakes the engine's process: what no ticket waits for is not sent."""
    bench = Bench(acks=acks)
    bench.emit(effects.StoredLocally(5), effects.HeldByAll(5, (A,)), effects.StoredLocally(0))
    told = {"quorum": [], "local": [link.Stored(5)], "all": [link.HeldByAll(5, (A,))]}
    assert bench.end.told == told[acks]
    bench.close()


def test_an_engine_that_is_ready_may_lead(bench: Bench) -> None:
    """Only while an engine waits for tenures does the node stand for election (T17)."""
    for ready in (True, False):
        bench.end.waiting.append((link.Ready(ready), []))
    bench.turn()
    assert bench.elector.electable[1:] == [True, False]
    assert bench.core.events == [events.EngineReady(True), events.EngineReady(False)]


def test_a_replica_that_cannot_lead_does_not_stand(bench: Bench) -> None:
    """With an engine, but with a full disk or not a member yet, it is not elected for nothing (T17)."""
    bench.core.can_lead = False
    bench.end.waiting.append((link.Ready(True), []))
    bench.turn()
    assert bench.elector.electable[1:] == []
    bench.core.can_lead = True
    bench.clock.now += 0.02
    bench.turn()
    assert bench.elector.electable[1:] == [True]
    bench.emit(effects.Changed(Role.CANDIDATE, Role.PRIMARY, "for the test"))
    bench.core.can_lead = False  # a primary's disk is full: whether another does better is its own decision
    bench.clock.now += 0.02
    bench.turn()
    assert bench.elector.electable[1:] == [True]


def test_resign_is_for_its_own_tenure(bench: Bench) -> None:
    """A late Resign of an earlier tenure ends nothing."""
    bench.emit(effects.SetLease(Epoch(4), 1001.0))
    bench.end.waiting = [(link.Resign(3, None), []), (link.Resign(4, "c"), [])]
    bench.core.events.clear()
    bench.turn()
    assert bench.core.events == [events.ResignAsked(C)]


def test_a_primary_leaves_in_good_order(bench: Bench) -> None:
    """Told to close, it resigns, waits until another leads, and no longer than `FAREWELL_S`.
    Who takes over is the core's choice: the elector gives nothing away before the last commit."""
    bench.elector.leader = A
    bench.end.waiting.append((link.Ready(True), []))
    bench.turn()
    bench.emit(effects.Changed(Role.CANDIDATE, Role.PRIMARY, "for the test"))
    bench.core.events.clear()
    bench.end.waiting.append((link.Close(), []))
    bench.turn()
    assert bench.core.events == [events.ResignAsked()]
    assert bench.elector.electable[1:] == [True]
    bench.core.deadline = 0.0  # every turn has something to do, and takes a while

    def react(event: events.Event) -> list[effects.Effect]:
        bench.clock.now += 0.02
        return []

    bench.core.react = react
    bench.driver.run()
    assert bench.core.events[-1] == events.EngineReady(False)
    assert 0.1 <= bench.clock.now - 1000.0 < 0.2


def test_a_primary_leaves_with_its_successor_s_promise(bench: Bench) -> None:
    """That another leads is not enough: with its own promise on the disk its next process would promise
    nobody for as long as a lease may be (R24), and the others would need each other."""
    bench.elector.leader = B
    bench.emit(effects.WritePromise(Promise(Epoch(4), Owner(A, ID, Process(bytes(16))))))
    bench.driver.leave()
    bench.core.deadline = 0.0  # every turn has something to do, and takes a while

    def react(event: events.Event) -> list[effects.Effect]:
        bench.clock.now += 0.02
        if event != events.Tick() or bench.clock.now < 1000.05:
            return []
        return [effects.WritePromise(Promise(Epoch(5), Owner(B, ID, Process(bytes(16)))))]

    bench.core.react = react
    bench.driver.run()
    assert 0.05 <= bench.clock.now - 1000.0 < 0.1


def test_the_elector_is_told_whether_this_node_is_behind(bench: Bench) -> None:
    """One that is behind stands after the others, until it is so no longer (T17)."""
    for behind in (True, False):
        bench.core.is_behind = behind
        bench.clock.now += 0.02
        bench.turn()
        assert bench.elector.behind is behind


@pytest.mark.parametrize("who", ["elector", "core", "connections", "operator", "tenancy", "census", "peers"])
def test_the_driver_sleeps_no_longer_than_until_something_is_due(bench: Bench, who: str) -> None:
    """Whoever has something to do next, nobody else need have."""
    bench.turn()
    driver = bench.driver
    driver._candidacy.deadline = driver._mend_at = driver._neighbours.deadline = 2000.0
    due = bench.clock.now + 0.3
    match who:
        case "elector":
            driver._candidacy.deadline = due
        case "core":
            bench.core.deadline = due
        case "connections":
            driver._mend_at = due
        case "operator":
            driver.operator.deadline = due
        case "tenancy":
            bench.tenancy._mending[ORDERS] = cast(Any, None), due
        case "census":
            bench.census.deadline = due
        case _:
            driver._neighbours.deadline = due
    bench.turn()
    assert driver._due == due


def test_a_backup_leaves_at_once(bench: Bench) -> None:
    """Nobody waits for a node that does not lead. It stands for election no longer."""
    bench.end.waiting.append((link.Ready(True), []))
    bench.turn()
    bench.driver.leave()
    assert bench.elector.electable[1:] == [True, False]
    bench.driver.run()
    assert bench.clock.now == 1000.0
    assert bench.elector.electable[1:] == [True, False]


def test_a_node_alone_leaves_at_once() -> None:
    """It is its own leader, and nobody is there to take that over."""
    bench = Bench(peers={})
    bench.elector.leader = A
    bench.driver.leave()
    bench.driver.run()
    assert bench.clock.now == 1000.0
    bench.close()


def test_all_effects_can_be_performed(bench: Bench) -> None:
    """Whatever the core may want, the driver knows how to do."""
    assert set(effects.Effect.__args__) <= bench.driver._performers.keys()
    assert set(link.ToWorker.__args__) == bench.driver._hearers.keys()


def test_every_envelope_says_who_and_what_is_durable(bench: Bench) -> None:
    """The counter of what is durable now, and the newest one heard of the recipient (R21, R28)."""
    bench.emit(effects.Send(B, HELLO))
    ((to, envelope),) = bench.control.sent
    assert (to, envelope.node, envelope.incarnation, envelope.process) == (B, A, ID, ID)
    assert (envelope.counter, envelope.remembered, envelope.cluster) == (7, 5, "replicator")
