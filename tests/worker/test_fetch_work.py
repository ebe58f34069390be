"""A fetch's work: what is lacking is not gone over with each turn, however much of it there is (R18)."""

from __future__ import annotations

from msgspec import structs

from replicator.model import NodeId
from tests.worker.test_fetch import A, B, begun, chunk, has_credit


class Looked(bytes):
    """A digest that counts how often one is looked for in a table."""

    times = 0

    def __hash__(self) -> int:
        Looked.times += 1
        return super().__hash__()


def test_a_rest_goes_over_nothing_that_is_lacking() -> None:
    """It takes many turns, and what the largest checkpoint lacks would fill each of them."""
    chunks = [structs.replace(chunk(n), stored_digest=Looked(n.to_bytes(32))) for n in range(100)]
    fetch = begun(chunks, A, B)
    request = fetch.next_request(0.0, has_credit)
    assert request is not None
    fetch.asked(*request, 0.0)
    assert [fetch.lacks(A, digest) for digest in request[1]] == [True] * 4
    Looked.times = 0
    fetch.rest()
    assert not fetch.has_failed
    assert not fetch.is_done
    assert Looked.times == 0


def test_what_a_source_lacks_is_gone_over_once() -> None:
    """To find anew with each request that it has nothing would take minutes for a large checkpoint."""
    chunks = [structs.replace(chunk(n), stored_digest=Looked(n.to_bytes(32))) for n in range(400)]
    fetch = begun(chunks, A, B)
    Looked.times, asked = 0, list[NodeId]()
    while (request := fetch.next_request(0.0, has_credit)) is not None:
        node, digests = request
        fetch.asked(node, digests, 0.0)
        asked.append(node)
        for digest in digests:
            if node == A:
                fetch.lacks(A, digest)
            else:
                fetch.got(digest)
    assert asked == [A] * 100 + [B] * 100
    assert fetch.is_done
    assert Looked.times < 20 * len(chunks)
