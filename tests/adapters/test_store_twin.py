"""The store against a dumb twin: any order of effects, with a crash or a restart between any two."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import rule
from msgspec import Struct, field

from replicator.model import Chunk, Manifest
from tests.adapters.store_kit import Opened, chunk_of
from tests.adapters.twin import KEEP, STREAMS, StoreAndTwin

BOUND = 60

every = settings(
    max_examples=20,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


class Crowd(Struct):
    """Transfers that share the bound, as plainly as it can be told (I12)."""

    held: dict[tuple[str, int], list[Chunk]] = field(default_factory=dict)
    idle: dict[tuple[str, int], int] = field(default_factory=dict)  # refused since it brought anything
    turns: list[str] = field(default_factory=list)

    @property
    def chunks(self) -> frozenset[Chunk]:
        return frozenset(chunk for held in self.held.values() for chunk in held)

    def bring(self, stream: str, sequence: int, chunks: Iterable[Chunk]) -> None:
        held = self.held.setdefault((stream, sequence), [])
        held += [chunk for chunk in chunks if chunk not in held]
        self.idle[stream, sequence] = 0
        if stream not in self.turns:
            self.turns.append(stream)

    def settle(self, stream: str, sequence: int) -> None:
        for transfer in [key for key in self.held if key[0] == stream and key[1] <= sequence]:
            del self.held[transfer]
        if stream in self.turns:
            self.turns.remove(stream)
            if any(chunks for (name, _), chunks in self.held.items() if name == stream):
                self.turns.append(stream)

    def limit(self, stored: frozenset[Chunk]) -> None:
        """Refused is what was not *stored* before, and is not now."""
        holding = [transfer for transfer, chunks in self.held.items() if chunks]
        _, *others = sorted(holding, key=lambda key: (self.idle[key] > BOUND, self.turns.index(key[0]), key))
        loose = [(transfer, chunk) for transfer in others for chunk in self.held[transfer]]
        before = self.chunks
        while sum(chunk.stored_bytes for _, chunk in loose) > BOUND:
            transfer, chunk = loose.pop()
            self.held[transfer].remove(chunk)
        refused = sum(chunk.stored_bytes for chunk in before - self.chunks - stored)
        for transfer in self.idle:
            self.idle[transfer] += refused


class CrowdedStore(StoreAndTwin):
    """With a small bound: some transfers are given up, those of every checkpoint that is asked for go on."""

    def open(self, path: Path) -> None:
        self.crowd = Crowd()
        self.pieces: dict[bytes, tuple[bytes, ...]] = {}
        self.transfers = {}
        self.opened = Opened(path, keep=KEEP, durability="memory", loose_bytes_max=BOUND)

    @rule(
        stream=st.sampled_from((*STREAMS, "d")),
        ahead=st.integers(1, 3),
        sizes=st.lists(st.integers(5, 2 * BOUND), min_size=1, max_size=4),
    )
    def give_up(self, stream: str, ahead: int, sizes: list[int]) -> None:
        """Bring the chunks, and never ask."""
        self.bring(stream, self.sequence(stream) + ahead, *(stream.encode() * size for size in sizes))

    def bring(self, stream: str, sequence: int, *pieces: bytes, tombstone: bool = False) -> Manifest:
        stored = self.stored()
        manifest = super().bring(stream, sequence, *pieces, tombstone=tombstone)
        self.pieces[manifest.digest] = pieces
        self.brings(manifest, pieces, stored)
        return manifest

    def brings(self, manifest: Manifest, pieces: tuple[bytes, ...], stored: frozenset[Chunk]) -> None:
        if pieces:
            self.crowd.bring(manifest.stream, manifest.sequence, map(chunk_of, pieces))
            self.rest(stored)

    def rest(self, stored: frozenset[Chunk]) -> None:
        """Let the bound be kept and garbage be swept, so that it does not matter in which batches."""
        for _ in range(3):
            self.opened.barrier()
        for known in (stored, self.stored() | self.crowd.chunks):
            if any(self.crowd.held.values()):
                self.crowd.limit(known)

    def ask(self, manifest: Manifest, epoch: int) -> None:
        """Bring what lacks until it is whole (I8)."""
        for _ in range(4 * BOUND):
            stored = self.stored()
            pieces = self.pieces.get(manifest.digest, ())
            lacking = [(chunk_of(piece), piece) for piece in pieces if chunk_of(piece) not in stored]
            assert set(self.opened.store.missing([chunk for chunk, _ in lacking])) == dict(lacking).keys()
            if not lacking:
                break
            self.opened.put(manifest, lacking, max(self.world.promised, 0))
            self.brings(manifest, tuple(piece for _, piece in lacking), stored)
        else:
            raise AssertionError(f"{manifest.stream} {manifest.sequence} is never whole")
        acceptances = self.world.acceptances
        super().ask(manifest, epoch)
        if self.world.acceptances > acceptances:
            self.crowd.settle(manifest.stream, manifest.sequence)
            self.rest(self.stored())

    def stored(self) -> frozenset[Chunk]:
        """The chunks that somebody needs."""
        retained = (manifest for twin in self.world.streams.values() for manifest in twin.retained)
        return self.crowd.chunks | {
            chunk for found in retained for part in found.parts for chunk in part.chunks
        }

    def brought(self) -> frozenset[Chunk]:
        return self.crowd.chunks


TestStoreAndTwin = StoreAndTwin.TestCase
TestStoreAndTwin.settings = every
TestCrowdedStore = CrowdedStore.TestCase
TestCrowdedStore.settings = every
