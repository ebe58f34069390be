"""R21 broken where a disk went back in time (T19)."""

from __future__ import annotations

import pytest
from msgspec import structs

from replicator.core import counters
from replicator.core.counters import Counters
from replicator.core.events import Received
from replicator.core.replica import _HANDLERS, Replica
from replicator.model import Incarnation, NodeId

Patch = pytest.MonkeyPatch


def believe_old_copies(patch: Patch) -> None:
    """A store goes on although a peer remembers a later state of it (T19)."""
    honest = Replica._on_received

    def _on_received(self: Replica, event: Received) -> None:
        fields = (event.node, event.incarnation, event.process, event.counter, 0, event.message)
        honest(self, Received(*fields))

    patch.setitem(_HANDLERS, Received, _on_received)


def heed_old_copies(patch: Patch) -> None:
    """What an old copy says counts until its node has noticed (T19)."""
    honest = Counters.take

    def take(self: Counters, event: Received) -> bool:
        honest(self, event)
        return False

    patch.setattr(Counters, "take", take)


def take_from_the_unheard(patch: Patch) -> None:
    """What is published is taken before anybody has said what it remembers of the store (T19)."""
    patch.setattr(Counters, "has_compared", lambda self, node: True)


def compare_with_late_words(patch: Patch) -> None:
    """What a peer has said before it heard this process counts as what it remembers (T19)."""
    patch.setattr(Replica, "_has_been_heard", lambda self, message: True)


def count_old_copies(patch: Patch) -> None:
    """An old copy takes what is published before it has heard anybody, and what it answers counts (T19)."""
    heed_old_copies(patch)
    take_from_the_unheard(patch)


def count_past(patch: Patch) -> None:
    """An old copy tells how far it is by now, not how far it was when it was opened (T19)."""

    honest = Counters.envelope

    def envelope(self: Counters, to: NodeId) -> tuple[int, Incarnation, int]:
        return self._state.counter, *honest(self, to)[1:]

    patch.setattr(Counters, "envelope", envelope)


def remember_one_store(patch: Patch) -> None:
    """Of each node only the store is remembered that has spoken last, be it one that was replaced (T19)."""
    forget_members(patch)
    patch.setattr(counters, "INCARNATIONS_MAX", 1)


def forget_members(patch: Patch) -> None:
    """A member's store is forgotten like any other when others have come and gone in its place (T19)."""
    patch.setattr(counters, "is_named", lambda *_: False)


def take_what_is_meant_for_another(patch: Patch) -> None:
    """What a peer says of the store that was here before counts as said of this one (T19)."""
    honest = Counters.compare

    def compare(self: Counters, event: Received, has_heard: bool) -> bool:
        return honest(self, structs.replace(event, remembered=event.remembered or 0), has_heard)

    patch.setattr(Counters, "compare", compare)


def forget_the_verdict(patch: Patch) -> None:
    """A store that was found to be an old copy passes for sound when its node is started again (T19)."""
    patch.setattr(Counters, "is_condemned", False)
