"""R21 broken where a disk went back in time (T19)."""

from __future__ import annotations

import pytest

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

    def envelope(self: Counters, to: NodeId) -> tuple[int, Incarnation, int]:
        return self._state.counter, *self._state.remembered.get(to, (Incarnation(b""), 0))

    patch.setattr(Counters, "envelope", envelope)


def forget_the_verdict(patch: Patch) -> None:
    """A store that was found to be an old copy passes for sound when its node is started again (T19)."""
    patch.setattr(Counters, "is_condemned", False)
