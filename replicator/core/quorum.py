"""Majorities of a member record; of both its sets while a change is under way (R14, R27).

A replica is named here by node *and* incarnation: only the members' present incarnations count (I10).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import lru_cache

from replicator.model import Incarnation, MemberRecord, NodeId, Sequence

ReplicaId = tuple[NodeId, Incarnation]


@lru_cache(maxsize=256)  # records are few and asked for with every message
def quorum_sets(record: MemberRecord) -> tuple[frozenset[ReplicaId], ...]:
    """The sets of which each quorum holds a majority: the members, and during a change the old ones too."""
    sets = (record.members, record.old) if record.old else (record.members,)
    return tuple(frozenset((NodeId(m.node), Incarnation(m.incarnation)) for m in each) for each in sets)


def is_named(replica: ReplicaId, record: MemberRecord | None) -> bool:
    """Whether that very incarnation counts in *record*, in one of its sets at least (I10)."""
    return record is not None and any(replica in each for each in quorum_sets(record))


def majority(count: int) -> int:
    """The smallest number that is more than half of *count*."""
    return count // 2 + 1


def _holds_majority(replicas: Collection[ReplicaId], each: frozenset[ReplicaId]) -> bool:
    return sum(replica in replicas for replica in each) >= majority(len(each))


def is_quorum(replicas: Collection[ReplicaId], record: MemberRecord) -> bool:
    """Whether *replicas* hold a majority of every set of *record*; others in it are ignored."""
    sets = quorum_sets(record)
    return _holds_majority(replicas, sets[0]) and (len(sets) == 1 or _holds_majority(replicas, sets[1]))


def could_have_committed(possible: Collection[ReplicaId], record: MemberRecord) -> bool:
    """Whether a checkpoint that at most *possible* can hold may have been committed (R8).

    False is proof that it was not: no set of *record* has a majority among them. One set is enough for
    doubt during a change of members, for before the joint record the old set alone committed, and after
    the final one, of which nobody heard may know yet, the new set alone does (R27).
    """
    return any(_holds_majority(possible, each) for each in quorum_sets(record))


def quorum_value(value: Callable[[ReplicaId], float], record: MemberRecord) -> float:
    """The highest number that a majority of every set of *record* reaches, each replica having *value*.

    The commit point is the quorum value of acknowledged sequences (R14), the lease's deadline that of
    the instants until which it is lent (R24). O(n log n), n <= MEMBERS_MAX.
    Source: Ongaro 2014, section 3.5 (majority match index).
    """
    return min(
        [sorted(map(value, each), reverse=True)[majority(len(each)) - 1] for each in quorum_sets(record)]
    )


def commit_point(acked: Callable[[ReplicaId], Sequence], record: MemberRecord) -> Sequence:
    """The highest sequence that a majority hold durably in the present epoch (R14).

    Never falls while *record* stays the same and no replica's *acked* falls.
    """
    return Sequence(int(quorum_value(acked, record)))
