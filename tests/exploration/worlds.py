"""The worlds that are explored: who is there, what has happened before, and what may happen how often.

Time is each machine's own and stands still but for `tick`, which lets it pass to the core's next deadline,
or for longer than any lease where the core waits for nothing. Clocks are thus not related at all: what
holds here holds at whatever rates they run (and what needs rates, I9, is for the simulator to judge).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from random import Random
from types import MappingProxyType

from msgspec import Struct, structs

from replicator.core import effects
from replicator.core.config import Config
from replicator.model import Incarnation, Member, MemberRecord, NodeId, StreamName
from tests.exploration.machine import Machine
from tests.exploration.registry import Input, Registry
from tests.simulation.disk import Disk, PutChunks

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
S, T = StreamName("s"), StreamName("t")
ABC = frozenset({A, B, C})
NEVER_S = 1e6
HEARTBEATS = MappingProxyType({"heartbeat_interval_s": 0.25})  # else there is only the first of an epoch

# What a disk does without a delay, unless a world wants it otherwise.
HINTS = (effects.MarkCommitted, effects.ForgetTombstone, effects.RememberCounters, PutChunks)
SLOW_ACCEPTS = (*HINTS, effects.WritePromise, effects.WriteRecord, effects.AdoptHeads)
SLOW_PROMISES = (*HINTS, effects.WriteRecord, effects.AdoptHeads, effects.Accept)
ALL_AT_ONCE = (*HINTS, effects.WritePromise, effects.WriteRecord, effects.AdoptHeads, effects.Accept)

Play = tuple[NodeId, Input] | frozenset[NodeId]


class World(Struct, frozen=True):
    """A small world. *budgets* say how often each kind of input may happen, for all nodes together
    ('crash') or for one ('grant a'); what is not named never happens. *more* is what the long form of the
    world has besides. *prologue* is played first, and what was sent in it is gone unless the world
    *replays* it; then *opening* is played."""

    name: str
    about: str
    budgets: Mapping[str, int]
    more: Mapping[str, int]
    prologue: tuple[Play, ...] = ()
    opening: tuple[Play, ...] = ()
    nodes: frozenset[NodeId] = ABC
    streams: tuple[StreamName, ...] = (S,)
    at_once: tuple[type, ...] = ALL_AT_ONCE
    in_packets: bool = True  # whether what one step sends to one peer arrives together, or not at all
    replays: bool = False  # whether what was sent in the prologue may still arrive
    config: Mapping[str, float] = MappingProxyType({})

    def long(self) -> World:
        """The same world with more of everything."""
        both = Counter(self.budgets) + Counter(self.more)
        return structs.replace(self, budgets=dict(both), more={})

    def incarnation(self, node: NodeId, disk: int) -> Incarnation:
        """A node's first disk, or the one that replaces it."""
        return Incarnation(f"{node}#{disk}".encode().ljust(16, b"\0"))

    def machine(self, node: NodeId, registry: Registry) -> Machine:
        """A machine with the cluster founded on its disk, not started yet."""
        settings = {"heartbeat_interval_s": NEVER_S, "behind_interval_s": 0.0, **self.config}
        config = Config(node=node, peers=self.nodes - {node}, **settings)  # type: ignore[arg-type]
        disk = Disk(node, self.incarnation(node, 1), Random(0), lambda *_: None)
        image = disk.image
        members = tuple(Member(each, self.incarnation(each, 1)) for each in sorted(self.nodes))
        image.record, image.founded = MemberRecord(1, members), True
        image.remembered = {peer: ((self.incarnation(peer, 1), 0),) for peer in config.peers}
        return Machine(registry, config, disk, self.at_once, self.in_packets)


def _primary(node: NodeId, among: frozenset[NodeId] = ABC) -> tuple[Play, ...]:
    return ((node, Input("grant")), among, (node, Input("revoke")))


def _submit(node: NodeId, among: frozenset[NodeId] = ABC) -> tuple[Play, ...]:
    return ((node, Input("submit", S)), among)


def _ticks(*nodes: NodeId) -> tuple[Play, ...]:
    return tuple((node, Input("tick")) for node in nodes)


LED = (*_primary(A), *_submit(A))  # a leads, 1 has committed everywhere
ONE_IN_FLIGHT = ((A, Input("submit", S)),)
# b has taken over from a, whom nobody heard any longer while it published 2 to itself.
SPLIT = (*LED, *_submit(A, frozenset({A})), *_ticks(B, C), *_primary(B, frozenset({B, C})))

WORLDS = [
    World(
        "pair",
        "two nodes, both granted; each may publish, one may die",
        {"grant": 2, "submit": 2, "crash": 1},
        {"crash": 1, "grant": 1, "tick": 1},
        nodes=frozenset({A, B}),
    ),
    World(
        "duel",
        "of three nodes two are granted leadership at the same time",
        {"grant a": 1, "grant b": 1},
        {"submit": 2, "tick": 1},
    ),
    World(
        "takeover",
        "a leads; b is granted, leases end, both publish, what a sends may be lost or late",
        {"grant b": 1, "tick b": 1, "tick c": 1},
        {"submit": 2, "bare": 1},
        LED,
        ONE_IN_FLIGHT,
    ),
    World(
        "slow-disks",
        "as takeover, and acceptances wait for the disks",
        {"grant b": 1, "tick b": 1, "tick c": 1},
        {"submit b": 1, "crash": 1},
        LED,
        ONE_IN_FLIGHT,
        at_once=SLOW_ACCEPTS,
    ),
    World(
        "slow-both",
        "as slow-disks, and promises wait for the disks as well",
        {"grant b": 1, "tick b": 1, "tick c": 1},
        {"submit b": 1, "crash": 1},
        LED,
        ONE_IN_FLIGHT,
        at_once=(*HINTS, effects.WriteRecord, effects.AdoptHeads),
    ),
    World(
        "slow-words",
        "promises wait for the disks, two nodes claim, one dies with what is not synced",
        {"grant a": 1, "grant b": 1, "crash c": 1},
        {"tick c": 1, "submit": 1},
        at_once=SLOW_PROMISES,
    ),
    World(
        "comeback",
        "b leads after a split; a, which holds an uncommitted 2, is granted again",
        {"grant a": 1, "tick a": 2, "tick c": 1, "submit b": 1},
        {"submit a": 1, "grant c": 1, "tick": 2},
        SPLIT,
        config=HEARTBEATS,
    ),
    World(
        "rot",
        "2 has committed on a and b, a is silent; a chunk rots, c claims",
        {"grant c": 1, "rot b": 1, "tick c": 2, "tick b": 1, "unfetched": 1},
        {"submit c": 1, "rot": 1, "unfetched": 2},
        (*LED, *_submit(A, frozenset({A, B}))),
        config=MappingProxyType({"fetch_retry_s": 0.0}),
    ),
    World(
        "amnesia",
        "2 has committed on a and b; b dies, gets an empty disk, and c claims",
        {"grant c": 1, "crash b": 1, "wipe": 1, "tick c": 2},
        {"tick b": 1, "submit c": 1, "tick a": 1},
        (*LED, *_submit(A, frozenset({A, B}))),
    ),
    World(
        "deletion",
        "a has deleted the stream, c has not heard of it; perhaps it is made anew; c claims",
        {"tick a": 1, "tick b": 1, "tick c": 1, "grant c": 1},
        {"submit": 1, "tick": 1},
        (*LED, (A, Input("delete", S)), frozenset({A, B})),
        config=HEARTBEATS,
    ),
    World(
        "lapse",
        "a leads, its lease lapses and comes back with its heartbeats, b is granted",
        {"tick a": 2, "submit a": 1},
        {"tick": 2, "grant b": 1, "submit a": 1},
        LED,
        config=HEARTBEATS,
    ),
    World(
        "crashes",
        "a leads; processes die, with what is not synced, and start again; a and b are granted",
        {"grant b": 1, "crash a": 1, "tick b": 1, "tick c": 1},
        {"grant a": 1, "crash": 2, "submit": 1, "tick a": 1, "tick b": 1},
        LED,
        ONE_IN_FLIGHT,
        at_once=SLOW_ACCEPTS,
    ),
    World(
        "two-streams",
        "as takeover with two streams",
        {"grant b": 1, "tick b": 1, "tick c": 1},
        {"submit": 2},
        LED,
        (*ONE_IN_FLIGHT, (A, Input("submit", T))),
        streams=(S, T),
    ),
    World(
        "repeats",
        "as takeover, and packets may arrive twice, old ones too",
        {"grant b": 1, "tick b": 1, "tick c": 1, "again": 1},
        {"again": 2, "submit": 2},
        LED,
        replays=True,
    ),
    World(
        "loose",
        "as takeover, every message on its own",
        {"grant b": 1, "tick b": 1, "tick c": 1},
        {"submit": 2},
        LED,
        in_packets=False,
    ),
]
