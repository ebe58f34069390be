"""The background look at what lies on the disk: every chunk of every retained checkpoint, in turn.

Disks rot where nobody reads (R22). A walk goes over the checkpoints that were retained when it began, as
far as its budget of bytes carries, and goes on from there at the next call; at its end it starts anew.
"""

from __future__ import annotations

from collections.abc import Iterator

from replicator.adapters.store_payload import Payload
from replicator.adapters.store_record import Entry, chunks_of, read_chunk, read_manifest
from replicator.errors import StoreDamaged
from replicator.model import Digest, Manifest, StreamName

Damage = tuple[StreamName, Digest]


class Scrubber:
    """A walk that remembers where it stands. For one thread at a time."""

    def __init__(self, payload: Payload) -> None:
        self._payload = payload
        self._steps = self._walk()

    def scrub(self, budget_bytes: int) -> list[Damage]:
        """Read about *budget_bytes* on, to the walk's end at most; return the damaged checkpoints found."""
        damaged: dict[Damage, None] = {}
        while budget_bytes > 0:
            step = next(self._steps, None)
            if step is None:
                self._steps = self._walk()
                break
            size, damage = step
            budget_bytes -= size
            if damage is not None:
                damaged[damage] = None
        return list(damaged)

    def _walk(self) -> Iterator[tuple[int, Damage | None]]:
        """What each step read, in bytes, and what it found damaged. A chunk is read once in a walk."""
        sound: set[Digest] = set()
        for stream, record in list(self._payload.memory.streams.items()):
            for entry in record.entries:
                damage = (stream, entry.digest)
                manifest = self._manifest(stream, entry)
                if manifest is None:
                    yield 0, damage if self._is_retained(stream, entry) else None
                    continue
                for digest, size in chunks_of(manifest).items():
                    if digest in sound:
                        continue
                    with self._payload.reading() as txn:
                        stored = read_chunk(txn, digest)
                    if stored is not None:
                        sound.add(digest)
                        yield size, None
                    else:
                        yield size, damage if self._is_retained(stream, entry) else None

    def _manifest(self, stream: StreamName, entry: Entry) -> Manifest | None:
        try:
            with self._payload.reading() as txn:
                return read_manifest(txn, stream, entry)
        except StoreDamaged:
            return None

    def _is_retained(self, stream: StreamName, entry: Entry) -> bool:
        record = self._payload.memory.streams.get(stream)
        return record is not None and entry in record.entries
