"""What only the whole world can judge: I1 (one owner), I3, I4, I6, over the history of one path.

A `Ghost` is the part of that history that matters later; equal ghosts of different paths are one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from replicator.core.quorum import quorum_sets
from replicator.model import MemberRecord, StreamName
from tests.exploration.registry import Happened, Registry, Violation

Took = Callable[[tuple[str, bytes], str, int], int]  # replica, stream, epoch -> newest sequence accepted


class Ghost(NamedTuple):
    """Whose each epoch is, what each position names, what was restored, and what has committed."""

    owners: frozenset[tuple[int, bytes]] = frozenset()
    names: frozenset[tuple[str, int, int, bytes]] = frozenset()
    restored: frozenset[tuple[int, str, bytes]] = frozenset()  # by tenure's epoch and stream
    withheld: frozenset[tuple[int, str]] = frozenset()
    begun: frozenset[int] = frozenset()  # epochs of tenures
    committed: frozenset[tuple[int, str, bytes]] = frozenset()  # the newest of each epoch and stream


def judge(ghost: Ghost, event: Happened, registry: Registry, took: Took) -> Ghost:
    """The history with one event more, or a `Violation`."""
    return _JUDGES[event.what](ghost, event, registry, took)


def _word(ghost: Ghost, event: Happened, registry: Registry, took: Took) -> Ghost:
    """A heartbeat or an adoption claims that a majority has promised its epoch to this owner (I1)."""
    for epoch, owner in ghost.owners:
        if epoch == event.epoch and owner != event.subject:
            raise Violation(f"I1: epoch {epoch} has two owners")
    return ghost._replace(owners=ghost.owners | {(event.epoch, event.subject)})


def _name(ghost: Ghost, event: Happened, registry: Registry, took: Took) -> Ghost:
    """A position is given to one content only (I4)."""
    stream, sequence, digest = event.subject
    for other in ghost.names:
        if other[:3] == (stream, event.epoch, sequence) and other[3] != digest:
            raise Violation(f"I4: {stream} {event.epoch}/{sequence} names two contents")
    return ghost._replace(names=ghost.names | {(stream, event.epoch, sequence, digest)})


def _tenure(ghost: Ghost, event: Happened, registry: Registry, took: Took) -> Ghost:
    """What is restored is adopted by a majority (I6) and builds on every earlier epoch's commits (I3)."""
    effect, restored, record = event.subject
    withheld = {StreamName(head.stream) for head in effect.unavailable}
    for head in effect.heads:
        _check_held(record, took, head.stream, event.epoch, head.sequence, "restores")
    for epoch, stream, content in ghost.committed:
        if epoch < event.epoch and stream not in withheld:
            _check_kept(registry, restored.get(stream), content, stream, event.epoch)
    return ghost._replace(
        begun=ghost.begun | {event.epoch},
        restored=ghost.restored | {(event.epoch, stream, content) for stream, content in restored.items()},
        withheld=ghost.withheld | {(event.epoch, stream) for stream in withheld},
    )


def _commit(ghost: Ghost, event: Happened, registry: Registry, took: Took) -> Ghost:
    """A commit is held by a majority (I6), extends its stream's chain (I4), and no later tenure that has
    begun already missed it (I3)."""
    stream, sequence, content, record = event.subject
    _check_held(record, took, stream, event.epoch, sequence, "commits")
    for epoch, other_stream, other in ghost.committed:
        if other_stream == stream:
            older, newer = (other, content) if epoch <= event.epoch else (content, other)
            if not registry.builds_on(newer, older):
                raise Violation(f"I4: commits of {stream} in epochs {epoch} and {event.epoch} are no chain")
    later = dict.fromkeys(epoch for epoch in ghost.begun if epoch > event.epoch)
    for epoch in later:
        if (epoch, stream) not in ghost.withheld:
            had = next((c for e, s, c in ghost.restored if (e, s) == (epoch, stream)), None)
            _check_kept(registry, had, content, stream, epoch)
    kept = {each for each in ghost.committed if each[:2] != (event.epoch, stream)}
    return ghost._replace(committed=frozenset(kept | {(event.epoch, stream, content)}))


def _check_held(record: MemberRecord, took: Took, stream: str, epoch: int, sequence: int, verb: str) -> None:
    for each in quorum_sets(record):
        if sum(took(replica, stream, epoch) >= sequence for replica in each) * 2 <= len(each):
            raise Violation(f"I6: epoch {epoch} {verb} {stream}/{sequence}, which no majority has accepted")


def _check_kept(registry: Registry, restored: bytes | None, content: bytes, stream: str, epoch: int) -> None:
    if restored is None and content in registry.deletions:
        return  # deleted, and forgotten by everybody
    if not registry.builds_on(restored, content):
        raise Violation(f"I3: what epoch {epoch} restores of {stream} does not build on what committed")


_JUDGES = {"word": _word, "name": _name, "tenure": _tenure, "commit": _commit}
