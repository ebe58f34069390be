"""Status: everybody's word, gathered within half a second."""

from __future__ import annotations

import math
import os
import sys
import zlib
from typing import Any

import pytest
from msgspec import json

from replicator.core.effects import ForgetTombstone, MarkCommitted
from replicator.core.events import Accepted
from replicator.core.messages import StatusReport, StatusRequest
from replicator.link import messages as link
from replicator.model import Chunk, Codec, Epoch, Generation, Manifest, Part, Position, Sequence, StreamName
from replicator.worker.status import (
    ASKERS_MAX,
    GATHER_TIMEOUT_S,
    LOST_AFTER_S,
    REPORT_BYTES_MAX,
    UNPACKED_BYTES_MAX,
    WITHHELD_MAX,
)
from tests.worker.driver_fakes import B, Bench, C, head

ORDERS = StreamName("orders")


def accepted(sequence: int) -> Accepted:
    """The stream has a head of 100 bytes."""
    chunk = Chunk(bytes(32), 100, bytes(32), 100, Codec.NONE)
    each = head(sequence=sequence)
    manifest = Manifest("orders", 1, 3, sequence, (Part("", (chunk,)),), b"", False, False, each.digest)
    return Accepted(manifest, Epoch(4), 1)


def own_report(bench: Bench) -> bytes:
    """What the bench's node says of itself to a peer."""
    bench.arrive(StatusRequest(1))
    bench.turn()
    _, envelope = bench.control.sent.pop()
    assert isinstance(envelope.message, StatusReport)
    return envelope.message.report


def unpacked(report: bytes) -> dict[str, Any]:
    """What a report says."""
    found: dict[str, Any] = json.decode(zlib.decompress(report))
    return found


def ask(bench: Bench) -> list[dict[str, Any]]:
    """Ask over the link; the replies come here."""
    bench.end.waiting.append((link.AskStatus(8), []))
    bench.turn()
    return replies(bench)


def replies(bench: Bench) -> list[dict[str, Any]]:
    return [json.decode(reply.report) for reply in bench.end.all(link.StatusReply)]


def answer(bench: Bench, node: Any, report: bytes) -> None:
    """A peer answers the question that is out."""
    nonce = next(e.message.nonce for _, e in bench.control.sent if isinstance(e.message, StatusRequest))
    bench.arrive(StatusReport(nonce, report), node=node, key=node)
    bench.turn()


def test_all_members_are_asked_and_a_silent_one_is_said_to_be_so(bench: Bench) -> None:
    """The answer comes as soon as all have spoken, else after `GATHER_TIMEOUT_S`; what is
    not known of them is None."""
    bench.core.lacking = {B: 0, C: None}
    report = own_report(bench)
    assert ask(bench) == []
    answer(bench, B, report)
    assert replies(bench) == []
    bench.clock.now += GATHER_TIMEOUT_S
    bench.turn()
    (status,) = replies(bench)
    assert (status["node"], status["cluster"]) == ("a", "replicator")
    assert [(member["node"], member["reachable"]) for member in status["members"]] == [
        ("a", True),
        ("b", True),
        ("c", False),
    ]
    assert status["members"][2] == {"node": "c", "reachable": False}
    assert [member["lacking"] for member in status["members"][:2]] == [{"b": 0, "c": None}] * 2
    assert status["members"][1]["usage"] == {"streams": 1, "published": 2, "messages_refused": 0}


def test_streams_that_a_tenure_is_without_are_named_within_a_bound(bench: Bench) -> None:
    """Their checkpoints nobody can read: an operator has to know which, and of many not all, but how many
    there are: one rotten chunk may be a part of all of them (I12)."""
    for count, left_out in ((WITHHELD_MAX, 0), (WITHHELD_MAX + 2, 2)):
        bench.core.withheld = [StreamName(f"s{number:03}") for number in range(count)]
        report = unpacked(own_report(bench))
        assert report["withheld"] == bench.core.withheld[:WITHHELD_MAX]
        assert report["withheld_left_out"] == left_out


def test_lag_is_what_a_member_lacks_of_the_newest_head(bench: Bench) -> None:
    """In bytes, and for how long it has lacked them; a stream that a member does not know is named too."""
    old = own_report(bench)
    bench.core.streams = {ORDERS: (head(sequence=1), (1, 1))}
    behind = own_report(bench)
    bench.core.streams = {ORDERS: (head(sequence=2), (1, 1))}
    bench.store.head_sizes[ORDERS] = 100
    bench.inbox.deliver(accepted(2))
    bench.emit(MarkCommitted(ORDERS, Generation(1), Position(3, 1)))
    bench.turn()
    bench.clock.now += 2
    ask(bench)
    answer(bench, B, behind)
    answer(bench, C, old)
    (status,) = replies(bench)
    mine, theirs, lacking = (member["streams"][0] for member in status["members"])
    assert (mine["head"], mine["commit"]) == ({"epoch": 3, "sequence": 2}, {"epoch": 3, "sequence": 1})
    assert (mine["lag_bytes"], mine["lag_s"], mine["bytes"]) == (0, 0.0, 100)
    assert (theirs["head"], theirs["lag_bytes"], theirs["lag_s"]) == ({"epoch": 3, "sequence": 1}, 100, 2.0)
    assert (lacking["head"], lacking["lag_bytes"], lacking["lag_s"]) == (None, 100, 2.0)


def test_a_report_is_made_of_what_is_in_memory(bench: Bench) -> None:
    """No manifest is read for it, nor kept: the largest take as long as a lease (R16)."""
    event = accepted(2)
    references = [sys.getrefcount(event.manifest)]
    bench.inbox.deliver(event)
    bench.turn()
    references.append(sys.getrefcount(event.manifest))
    assert references[0] == references[1]
    bench.core.streams = {name: (head(name, sequence=2), None) for name in (ORDERS, "older")}
    bench.store.head_sizes = {ORDERS: 100, "older": 70}
    streams = unpacked(own_report(bench))["streams"]
    assert [(each["bytes"], each["age_s"]) for each in streams] == [(70, None), (100, 0.0)]


@pytest.mark.parametrize("reachable", [(B, C), (C,)])
def test_a_stream_that_a_member_leaves_out_may_be_newest_there(bench: Bench, reachable: Any) -> None:
    """Its lag is None on every member, not 0; of those that all tell it is known. Who is not reachable has
    left out nothing."""
    names = [os.urandom(20).hex() for _ in range(1000)]
    bench.core.streams = {name: (head(name, sequence=9), None) for name in names}
    cut = own_report(bench)
    told = {stream["stream"] for stream in unpacked(cut)["streams"]}
    bench.core.streams = {names[0]: (head(names[0], sequence=1), None)}
    short = own_report(bench)
    bench.core.streams = {name: (head(name, sequence=1), None) for name in names}
    ask(bench)
    for node, report in ((B, cut), (C, short)):
        if node in reachable:
            answer(bench, node, report)
    bench.clock.now += GATHER_TIMEOUT_S
    bench.turn()
    (status,) = replies(bench)
    mine, *_, lacking = (member["streams"] for member in status["members"] if member["reachable"])
    for streams in (mine, lacking):
        assert {stream["stream"] for stream in streams} == set(names)
        unknown = {stream["stream"] for stream in streams if stream["lag_bytes"] is None}
        assert unknown == (set(names) - told if B in reachable else set())
        assert all(stream["lag_s"] is None for stream in streams if stream["stream"] in unknown)


def test_a_deleted_stream_leaves_nothing_behind(bench: Bench) -> None:
    """Its tombstone is forgotten: so are its arrival and commit, and a new stream of the name begins anew."""
    bench.inbox.deliver(accepted(2))
    bench.turn()
    bench.emit(MarkCommitted(ORDERS, Generation(1), Position(3, 2)))
    bench.emit(ForgetTombstone(ORDERS, Generation(1), Sequence(2)))
    bench.core.streams = {ORDERS: (head(sequence=2), None)}
    (stream,) = unpacked(own_report(bench))["streams"]
    assert (stream["age_s"], stream["commit"]) == (None, None)


def test_a_report_has_a_bound(bench: Bench) -> None:
    """With very many streams it tells of the first ones, and says how many it leaves out (R16)."""
    bench.core.streams = {f"{os.urandom(60).hex()}-{index}": (head(), None) for index in range(6000)}
    report = own_report(bench)
    assert len(report) <= REPORT_BYTES_MAX
    told = unpacked(report)
    names = [stream["stream"] for stream in told["streams"]]
    assert names == sorted(bench.core.streams)[: 6000 - told["streams_left_out"]]
    assert len(report) > REPORT_BYTES_MAX * 3 / 4


def test_ordinary_streams_are_told_by_the_hundred(bench: Bench) -> None:
    """A report with its bound is still one: names that resemble each other take little of it."""
    bench.core.streams = {f"orders-of-shop-{index:04}": (head(), None) for index in range(500)}
    assert unpacked(own_report(bench))["streams_left_out"] == 0


def test_one_answer_at_a_time_is_under_way(bench: Bench) -> None:
    """Who has not answered yet is not asked again, until it has or its answer must be lost: on a slow link
    answers would gather before the heartbeats (R16)."""

    def gather() -> list[Any]:
        before = len(bench.control.sent)
        ask(bench)
        bench.clock.now += GATHER_TIMEOUT_S
        bench.turn()
        return [to for to, e in bench.control.sent[before:] if isinstance(e.message, StatusRequest)]

    report = own_report(bench)
    assert gather() == [B, C]
    assert gather() == []
    answer(bench, B, report)
    assert gather() == [B]
    bench.clock.now += LOST_AFTER_S
    assert gather() == [B, C]


def test_an_answer_that_is_late_answers_the_next_who_asks(bench: Bench) -> None:
    """Its member is not asked again meanwhile, so it would be unreachable every other time; an answer that
    has been given up is one no more."""
    report = own_report(bench)
    ask(bench)
    bench.clock.now += GATHER_TIMEOUT_S
    bench.turn()
    ask(bench)
    answer(bench, B, report)
    answer(bench, C, report)
    assert [member["reachable"] for member in replies(bench)[-1]["members"]] == [True, True, True]
    ask(bench)
    bench.clock.now += LOST_AFTER_S
    bench.turn()
    ask(bench)
    answer(bench, B, report)
    bench.clock.now += GATHER_TIMEOUT_S
    bench.turn()
    assert [member["reachable"] for member in replies(bench)[-1]["members"]] == [True, False, False]


@pytest.mark.parametrize(
    "nonsense",
    [
        b"",
        b"{",
        *map(
            zlib.compress, (b"", b"[]", b'{"streams": 7}', b'{"role": null}', bytes(UNPACKED_BYTES_MAX * 2))
        ),
    ],
)
def test_a_senseless_report_is_ignored(bench: Bench, nonsense: bytes) -> None:
    """Whatever a member sends, the others' status comes (I12)."""
    ask(bench)
    answer(bench, B, nonsense)
    bench.clock.now += GATHER_TIMEOUT_S
    bench.turn()
    (status,) = replies(bench)
    assert [member["reachable"] for member in status["members"]] == [True, False, False]


def test_askers_share_a_gathering(bench: Bench) -> None:
    """Who asks while members are being asked gets the same answer; nobody is asked twice."""
    ask(bench)
    ask(bench)
    bench.clock.now += GATHER_TIMEOUT_S
    bench.turn()
    assert len(replies(bench)) == 2
    assert [to for to, _ in bench.control.sent] == [B, C]
    assert bench.census.deadline == math.inf  # or the driver would never sleep again


def test_one_asker_too_many_is_told_so(bench: Bench) -> None:
    """At once; the others' answer comes."""
    told: list[bytes] = []
    for _ in range(ASKERS_MAX + 1):
        bench.driver.ask_status(told.append)
    assert told == [b'{"error":"too many ask for the status"}']
    bench.clock.now += GATHER_TIMEOUT_S
    bench.turn()
    assert len(told) == ASKERS_MAX + 1
