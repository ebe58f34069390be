"""What a store keeps of the lease: for how long it may have been lent (R24)."""

from __future__ import annotations

from replicator.core.effects import WritePromise
from replicator.core.events import PromiseWritten
from replicator.model import Owner, Promise
from tests.adapters.store_kit import Stores


def test_r24_a_store_knows_for_how_long_the_lease_may_be_lent(stores: Stores) -> None:
    """The longest maximum of all processes since the promise's owner was another; the next owner's begins
    anew with that of the process that promises, as no lease stands by then."""
    first = stores.open(lease_max_s=5.0)
    first.promise(1)
    first.store.close()
    second = stores.open(lease_max_s=0.5)
    assert second.durable.lent_max_s == 5.0
    second.promise(2)  # the same owner may be lent what it was lent before
    second.store.close()
    third = stores.open(lease_max_s=0.5)
    assert third.durable.lent_max_s == 5.0
    third.perform(WritePromise(Promise(3, Owner("edge-2", bytes(16), bytes(16)))))
    assert isinstance(third.next(), PromiseWritten)
    third.store.close()
    assert stores.open(lease_max_s=0.5).durable.lent_max_s == 0.5
