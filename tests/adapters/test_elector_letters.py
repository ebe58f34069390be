"""One elector by itself: whose word counts for its election, and to whom it gives leadership."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from replicator.adapters.elector import (
    LETTER_BYTES_MAX,
    Letter,
    PreVote,
    PreVoteAnswer,
    PySyncObjElector,
    Said,
)
from replicator.adapters.raft import NextNodeIdx, RequestVote, ResponseVote, TimeoutNow
from replicator.model import NodeId

NAMES = [NodeId(name) for name in "abcde"]
ME, B, C, D, E = NAMES
TIMEOUT_MAX_S = 0.8
ANSWER = NextNodeIdx(2, False, True)


class Alone:
    """An elector whose four peers are played."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sent: list[tuple[NodeId, Letter]] = []
        self.elector = PySyncObjElector(
            ME,
            frozenset(NAMES),
            send=self.send,
            on_grant=lambda: None,
            on_revoke=lambda: None,
            election_timeout_max_s=TIMEOUT_MAX_S,
        )
        self.elector.tick(self.now)

    def send(self, node: NodeId, payload: bytes) -> bool:
        self.sent.append((node, msgspec.msgpack.decode(payload, type=Letter)))
        return True

    def pass_time(self, seconds: float) -> None:
        """A tick after the other."""
        for _ in range(round(seconds / 0.02)):
            self.now += 0.02
            self.elector.tick(self.now)

    def wait_to_ask(self) -> int:
        """Until it asks for pre-votes; by which number."""
        self.sent.clear()
        while not (asked := self.said(PreVote)):
            self.pass_time(0.02)
        saying = asked[-1][1]
        assert isinstance(saying, PreVote)
        return saying.nonce

    def said(self, kind: type[Said]) -> list[tuple[NodeId, Said]]:
        """What of that kind it has said, and to whom."""
        return [(node, letter.saying) for node, letter in self.sent if isinstance(letter.saying, kind)]

    def hear(self, node: NodeId, saying: Said, electable: bool = True) -> None:
        self.elector.receive(node, msgspec.msgpack.encode(Letter(electable, False, saying)))

    def stand(self) -> int:
        """Have it stand for election; in which term."""
        nonce = self.wait_to_ask()
        for peer in (B, C):
            self.hear(peer, PreVoteAnswer(nonce, True, 0))
        assert self.said(RequestVote)
        return self.elector.term

    def lead(self) -> None:
        """Have it elected."""
        term = self.stand()
        for peer in (B, C):
            self.hear(peer, ResponseVote(term))
        assert self.elector.leading


@pytest.fixture
def alone() -> Alone:
    return Alone()


def test_pre_votes_of_one_round_count(alone: Alone) -> None:
    """Not those of an earlier one, which come late, nor any together with them."""
    first = alone.wait_to_ask()
    alone.hear(B, PreVoteAnswer(first, True, 0))
    second = alone.wait_to_ask()
    alone.hear(D, PreVoteAnswer(first, True, 0))
    alone.hear(E, PreVoteAnswer(first, True, 0))
    alone.hear(C, PreVoteAnswer(second, True, 0))
    assert not alone.said(RequestVote)
    alone.hear(B, PreVoteAnswer(second, True, 0))
    assert alone.said(RequestVote)


def test_of_two_that_ask_at_once_the_higher_name_goes_first(alone: Alone) -> None:
    """Whoever asks has no word for a lower one, in its first round; all nodes see it alike."""
    alone.wait_to_ask()
    alone.hear(B, PreVote(7))
    assert [saying for _, saying in alone.said(PreVoteAnswer)] == [PreVoteAnswer(7, True, 0)]


def test_who_is_not_electable_any_more_does_not_stand(alone: Alone) -> None:
    """Though it has asked while it was, and all would elect it."""
    nonce = alone.wait_to_ask()
    alone.elector.set_electable(False)
    for peer in (B, C, D, E):
        alone.hear(peer, PreVoteAnswer(nonce, True, 0))
    assert not alone.said(RequestVote)


def test_a_vote_counts_in_its_term(alone: Alone) -> None:
    """One of an earlier candidacy is not one for this."""
    term = alone.stand()
    for peer in (B, C, D, E):
        alone.hear(peer, ResponseVote(term - 1))
    assert not alone.elector.leading
    for peer in (B, C):
        alone.hear(peer, ResponseVote(term))
    assert alone.elector.leading


@pytest.mark.parametrize("change", [lambda payload: payload + b"\0" * LETTER_BYTES_MAX, lambda payload: b"x"])
def test_what_is_no_letter_is_dropped(alone: Alone, change: Callable[[bytes], bytes]) -> None:
    """Too long, or of no sense."""
    alone.sent.clear()
    alone.elector.receive(B, change(msgspec.msgpack.encode(Letter(True, False, PreVote(7)))))
    assert not alone.sent


def test_leadership_goes_to_who_answered_last(alone: Alone) -> None:
    """And can lead: not to one who has been silent for long, or who says that he cannot."""
    alone.lead()
    for peer in (B, C, D, E):
        alone.hear(peer, ANSWER)
        alone.pass_time(0.02)
    alone.hear(E, ANSWER, electable=False)
    alone.sent.clear()
    alone.elector.transfer(None)
    assert [node for node, _ in alone.said(TimeoutNow)] == [D]


def test_leadership_is_given_to_nobody_who_is_silent(alone: Alone) -> None:
    """It is left then: the others stand."""
    alone.lead()
    for _ in range(100):
        if not alone.elector.leading:
            break
        alone.hear(B, ANSWER)
        alone.hear(C, ANSWER, electable=False)
        alone.pass_time(0.02)
    alone.hear(D, ANSWER)
    for _ in range(25):
        alone.pass_time(0.02)
        for peer in (B, C):
            alone.hear(peer, ANSWER, electable=False)
    alone.sent.clear()
    assert alone.elector.leading
    alone.elector.transfer(None)
    assert not alone.said(TimeoutNow)
    assert not alone.elector.leading
