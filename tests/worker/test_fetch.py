"""A fetch's decisions, without sockets and clock: whom it asks for what, and when it gives up (R18)."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from replicator.codec.chunking import seal
from replicator.codec.frames import CHUNKS_PER_REQUEST, REPLY_BYTES_MAX, REQUEST_BYTES_MAX
from replicator.core import effects
from replicator.model import (
    Chunk,
    Codec,
    Digest,
    Epoch,
    Generation,
    Manifest,
    NodeId,
    Part,
    Sequence,
    StreamName,
)
from replicator.worker.fetch import ATTEMPTS_MAX, UNREACHABLE_PAUSE_S, URGENT_PATIENCE_S, Fetch
from replicator.worker.patience import PATIENCE_S

A, B = NodeId("a"), NodeId("b")
CREDIT = 4


def chunk(number: int, size: int = 2**18) -> Chunk:
    """A chunk of that number."""
    digest = Digest(number.to_bytes(32))
    return Chunk(digest, size, digest, size, Codec.NONE)


def manifest_of(chunks: Iterable[Chunk]) -> Manifest:
    """A checkpoint of these chunks."""
    return seal(StreamName("s"), Generation(1), Epoch(1), Sequence(1), (Part("", tuple(chunks)),))


def begun(chunks: list[Chunk], *sources: NodeId, verify: bool = False) -> Fetch:
    """A fetch of chunks, all of them missing, or with *verify* all of them present."""
    manifest = manifest_of(chunks)
    fetch = Fetch(effects.Fetch(1, StreamName("s"), Digest(manifest.digest), None, sources, verify))
    fetch.begin(manifest, [] if verify else chunks, chunks if verify else [])
    return fetch


def has_credit(_: NodeId) -> bool:
    """Nothing else is asked of anybody."""
    return True


def patience_of(_: NodeId) -> float:
    """Nothing is known of anybody."""
    return PATIENCE_S


def ask(fetch: Fetch, now: float = 0.0) -> list[tuple[NodeId, int]]:
    """Send all requests that may be sent; whom, for how many."""

    def may_ask(node: NodeId) -> bool:
        return fetch.asked_bytes(node) < CREDIT * REQUEST_BYTES_MAX

    sent: list[tuple[NodeId, int]] = []
    while request := fetch.next_request(now, may_ask):
        fetch.asked(*request, now)
        sent.append((request[0], len(request[1])))
    return sent


def test_the_manifest_comes_first() -> None:
    """As long as it is not known, nothing else is asked for."""
    manifest = manifest_of([chunk(1)])
    fetch = Fetch(effects.Fetch(1, StreamName("s"), Digest(manifest.digest), None, (A,)))
    assert fetch.next_request(0.0, has_credit) == (A, [manifest.digest])
    assert ask(fetch) == [(A, 1)]
    fetch.begin(manifest, [chunk(1)], [])
    assert fetch.next_request(0.0, has_credit) == (A, [Digest(chunk(1).stored_digest)])


def test_requests_and_credit_are_bounded() -> None:
    """A request names so many chunks and bytes at most, and all that is under way so many requests."""
    assert ask(begun([chunk(n) for n in range(100)], A)) == [(A, 4)] * CREDIT
    tiny = begun([chunk(n, 10) for n in range(100)], A)
    assert ask(tiny) == [(A, CHUNKS_PER_REQUEST)] * CREDIT
    assert ask(begun([chunk(n, 2**24) for n in range(9)], A)) == [(A, 1)]


def test_what_comes_gives_credit_back_and_ends_the_fetch() -> None:
    """Each chunk is asked for once; when the last one is here the fetch is done."""
    chunks = [chunk(n) for n in range(40)]
    fetch = begun(chunks, A)
    asked = sum(count for _, count in ask(fetch))
    for each in chunks:
        assert not fetch.is_done
        assert fetch.needs(Digest(each.stored_digest)) == each
        fetch.got(Digest(each.stored_digest))
        assert fetch.needs(Digest(each.stored_digest)) is None
        asked += sum(count for _, count in ask(fetch))
    assert fetch.is_done
    assert asked == len(chunks)


def test_what_a_source_lacks_is_asked_of_the_next() -> None:
    """And of that one only; the rest still comes from the first."""
    chunks = [chunk(n) for n in range(3)]
    fetch = begun(chunks, A, B)
    assert ask(fetch) == [(A, 3)]
    assert fetch.lacks(A, Digest(chunks[1].stored_digest))
    assert not fetch.lacks(A, Digest(chunks[1].stored_digest))
    assert not fetch.lacks(B, Digest(chunks[0].stored_digest))
    assert ask(fetch) == [(B, 1)]


def test_it_fails_when_everybody_lacks_the_same() -> None:
    """But not before what is under way has ended."""
    chunks = [chunk(0), chunk(1)]
    fetch = begun(chunks, A)
    ask(fetch)
    fetch.lacks(A, Digest(chunks[0].stored_digest))
    assert not fetch.has_failed
    fetch.got(Digest(chunks[1].stored_digest))
    assert fetch.next_request(0.0, has_credit) is None
    assert fetch.has_failed
    assert begun(chunks).has_failed


def test_what_every_source_lacks_may_still_come_otherwise() -> None:
    """By a publication, or in answer to another fetch: then this one has not failed."""
    chunks = [chunk(0), chunk(1)]
    fetch = begun(chunks, A)
    ask(fetch)
    fetch.lacks(A, Digest(chunks[0].stored_digest))
    fetch.got(Digest(chunks[0].stored_digest))
    fetch.got(Digest(chunks[1].stored_digest))
    assert not fetch.has_failed
    assert fetch.is_done


@pytest.mark.parametrize("first", [A, B])
def test_it_fails_when_those_that_are_left_lack_the_same(first: NodeId) -> None:
    """Whoever might have had it has gone silent, before or after the other said that it has not."""
    fetch = begun([chunk(0)], A, B)
    ask(fetch, 0.0)
    if first == A:
        fetch.lacks(A, Digest(chunk(0).stored_digest))
    for attempt in range(1, ATTEMPTS_MAX + 1):
        assert not fetch.has_failed
        ask(fetch, (attempt - 1) * PATIENCE_S)
        fetch.expire(attempt * PATIENCE_S, patience_of)
    if first == B:
        assert ask(fetch, 100.0) == [(B, 1)]
        assert fetch.lacks(B, Digest(chunk(0).stored_digest))
    assert fetch.has_failed


def test_rotten_chunks_that_nobody_is_left_for_fail_it() -> None:
    """What was present and turns out to be rotten is lacking as much as what never came."""
    fetch = begun([chunk(0), chunk(1)], verify=True)
    (first,) = fetch.take_unchecked(1)
    fetch.want(first)
    assert not fetch.has_failed
    fetch.take_unchecked(1)
    assert fetch.has_failed


def test_a_silent_source_is_asked_again_and_then_left() -> None:
    """One attempt more, in case a message was lost; then the next source gets all of it."""
    fetch = begun([chunk(0)], A, B)
    assert ask(fetch, 0.0) == [(A, 1)]
    fetch.expire(PATIENCE_S * 0.9, patience_of)
    assert ask(fetch, PATIENCE_S * 0.9) == []
    fetch.expire(PATIENCE_S, patience_of)
    assert ask(fetch, PATIENCE_S) == [(A, 1)]
    fetch.expire(PATIENCE_S * ATTEMPTS_MAX, patience_of)
    assert ask(fetch, PATIENCE_S * ATTEMPTS_MAX) == [(B, 1)]


def test_who_was_silent_once_and_answers_is_patiently_waited_for_again() -> None:
    """A message that is lost now and then is no reason to leave a source, however long the fetch takes."""
    fetch = begun([], A)
    for number in range(ATTEMPTS_MAX + 1):
        now = number * PATIENCE_S
        fetch.want(chunk(number))
        assert ask(fetch, now) == [(A, 1)]
        fetch.expire(now + PATIENCE_S, patience_of)
        assert ask(fetch, now + PATIENCE_S) == [(A, 1)]
        fetch.got(Digest(chunk(number).stored_digest))
        fetch.heard(A, now + PATIENCE_S)


def test_to_ask_for_more_is_no_sign_of_life() -> None:
    """Silence counts from the first request that is not answered."""
    chunks = [chunk(n) for n in range(8)]
    fetch = begun(chunks, A)
    for now in (0.0, PATIENCE_S * 0.9):
        request = fetch.next_request(now, has_credit)
        assert request is not None
        fetch.asked(*request, now)
    fetch.expire(PATIENCE_S, patience_of)
    assert fetch.asked_bytes(A) == 0


def test_a_source_without_credit_is_not_left_for_one_silence() -> None:
    """What it was asked for is asked once more, as of any other, though more was wanted of it meanwhile."""
    fetch = begun([chunk(n) for n in range(8)], A)
    request = fetch.next_request(0.0, has_credit)
    assert request is not None
    fetch.asked(*request, 0.0)
    assert fetch.next_request(0.0, lambda _: False) is None
    for _ in range(2):
        fetch.expire(PATIENCE_S, patience_of)
    assert ask(fetch, PATIENCE_S) == [(A, 4), (A, 4)]


@pytest.mark.parametrize(
    ("size", "patience_s"),
    [(1, PATIENCE_S), (3 * REPLY_BYTES_MAX, 3 * PATIENCE_S), (64 * REPLY_BYTES_MAX, URGENT_PATIENCE_S)],
)
def test_a_source_has_time_for_a_whole_chunk(size: int, patience_s: float) -> None:
    """An answer holds at least one: a large chunk takes a slow link as many times as long as an answer of
    small ones, and is no silence. Whoever is known to take longer still has that time."""
    fetch = begun([chunk(0, size)], A)
    assert ask(fetch, 0.0) == [(A, 1)]
    fetch.expire(0.99 * patience_s, patience_of)
    assert ask(fetch, 0.99 * patience_s) == []
    fetch.expire(patience_s, lambda _: 20.0)
    assert ask(fetch, patience_s) == []
    fetch.expire(patience_s, patience_of)
    assert ask(fetch, patience_s) == [(A, 1)]


def test_a_claim_waits_long_for_its_last_source_only() -> None:
    """However slow a source once was, another one is asked soon; the last is given all its time."""
    manifest = manifest_of([chunk(0)])
    fetch = Fetch(effects.Fetch(1, StreamName("s"), Digest(manifest.digest), manifest, (A, B), urgent=True))
    fetch.begin(manifest, [chunk(0)], [])
    now = 0.0
    for _ in range(ATTEMPTS_MAX):
        assert ask(fetch, now) == [(A, 1)]
        now += URGENT_PATIENCE_S
        fetch.expire(now, lambda _: 20.0)
    assert ask(fetch, now) == [(B, 1)]
    fetch.expire(now + 19.9, lambda _: 20.0)
    assert ask(fetch, now + 19.9) == []
    fetch.expire(now + 20.0, lambda _: 20.0)
    assert ask(fetch, now + 20.0) == [(B, 1)]


def test_a_slow_source_that_answers_is_not_left() -> None:
    """Patience begins anew with each answer."""
    chunks = [chunk(n) for n in range(16)]
    fetch = begun(chunks, A, B)
    ask(fetch, 0.0)
    for number, each in enumerate(chunks[:-1], 1):
        now = number * PATIENCE_S * 0.9
        fetch.got(Digest(each.stored_digest))
        fetch.heard(A, now)
        fetch.expire(now, patience_of)
        assert ask(fetch, now) == []


def test_silence_counts_only_while_something_is_asked() -> None:
    """A source that was not asked for long is not taken for silent when it is asked again."""
    chunks = [chunk(0), chunk(1)]
    fetch = begun(chunks[:1], A)
    ask(fetch, 0.0)
    fetch.got(Digest(chunks[0].stored_digest))
    fetch.expire(100.0, patience_of)
    fetch.want(chunks[1])
    assert ask(fetch, 100.0) == [(A, 1)]
    fetch.expire(100.1, patience_of)
    assert not fetch.has_failed


def test_an_answer_to_another_fetch_is_a_sign_of_life_to_younger_requests() -> None:
    """The answers come in the order of the requests: an older one would have been answered before."""
    fetch = begun([chunk(0)], A, B)
    assert ask(fetch, 1.0) == [(A, 1)]
    for asked_at, is_left in [(0.9, False), (1.0, False), (1.1, True)]:
        fetch.heard_by_any(A, 0.9, 2.0)
        fetch.heard_by_any(A, asked_at, 2.1)
        fetch.heard_by_any(B, 0.0, 2.2)
        fetch.expire(2.1 + PATIENCE_S - 0.01, patience_of)
        assert (fetch.asked_bytes(A) == 0) is is_left


def test_who_waits_for_credit_waits_for_the_source() -> None:
    """It asks nobody else meanwhile, and leaves a source that is dead with those that have asked it."""
    fetch = begun([chunk(0)], A, B)
    now = 5.0
    for _ in range(3):
        assert fetch.next_request(now, lambda _: False) is None
        now += PATIENCE_S * 0.9
        fetch.heard_by_any(A, now, now)
        fetch.expire(now, patience_of)
    for _ in range(ATTEMPTS_MAX):
        assert fetch.next_request(now, lambda node: node == B) is None
        now += PATIENCE_S
        fetch.expire(now, patience_of)
    assert fetch.next_request(now, lambda node: node == B) == (B, [chunk(0).stored_digest])


def test_an_unreachable_source_is_tried_for_a_while() -> None:
    """Others are asked meanwhile; alone, it is tried until the patience has ended, then the fetch fails."""
    fetch = begun([chunk(0)], A, B)
    fetch.unreachable(A, 0.0)
    assert ask(fetch, 0.0) == [(B, 1)]
    alone = begun([chunk(0)], A)
    alone.unreachable(A, 0.0)
    assert alone.next_request(0.0, has_credit) is None
    assert not alone.has_failed
    assert alone.next_request(UNREACHABLE_PAUSE_S, has_credit) is not None
    alone.unreachable(A, PATIENCE_S * ATTEMPTS_MAX)
    assert alone.has_failed


def test_a_source_that_was_reached_meanwhile_is_tried_for_a_while_again() -> None:
    """The while counts from the first time in a row."""
    fetch = begun([chunk(0)], A)
    fetch.unreachable(A, 0.0)
    assert ask(fetch, 1.0) == [(A, 1)]
    fetch.lacks(A, Digest(chunk(0).stored_digest))
    fetch.want(chunk(1))
    fetch.unreachable(A, 100.0)
    assert ask(fetch, 101.0) == [(A, 1)]


def test_what_is_present_is_checked_before_it_is_done() -> None:
    """A fetch that verifies gives out every present chunk once; what is found rotten is wanted."""
    chunks = [chunk(n) for n in range(5)]
    fetch = begun(chunks, A, verify=True)
    assert not fetch.is_done
    assert fetch.take_unchecked(3) == chunks[:3]
    assert fetch.take_unchecked(3) == chunks[3:]
    assert fetch.is_done
    fetch.want(chunks[4])
    assert not fetch.is_done
    assert ask(fetch) == [(A, 1)]


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_fetch_is_done_at_once(count: int) -> None:
    """When nothing is missing, no source is needed."""
    fetch = begun([], *[A] * count)
    assert fetch.is_done
    assert not fetch.has_failed


def test_a_rest_is_no_silence() -> None:
    """While nothing more may be asked for, those who have answered everything are not waited for."""
    fetch = begun([chunk(number) for number in range(8)], A)
    assert fetch.next_request(0.0, lambda _: False) is None
    fetch.rest()
    fetch.expire(100.0, patience_of)
    for now in (100.0, 100.0 + PATIENCE_S):
        assert ask(fetch, now) == [(A, 4), (A, 4)]
        fetch.expire(now + PATIENCE_S, patience_of)
