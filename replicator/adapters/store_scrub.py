"""The background look at what lies on the disk: every chunk of every retained checkpoint, in turn.

Disks rot where nobody reads (R22). A walk goes over the streams that there were when it began, and of each
over what is retained when its turn comes, as far as its budget of bytes carries or until it is told to stop,
and goes on from there at the next call; at its end it starts anew.

What somebody else has come upon is looked for at once: whoever reads for a peer does not know which heads
it belongs to, and a claimant that counts on such a head would keep all streams waiting for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TypeVar

from replicator.adapters.store_payload import Payload
from replicator.adapters.store_record import (
    Entry,
    Readable,
    StreamRecord,
    chunks_of,
    load,
    read_chunk,
    read_manifest,
    stream_key,
)
from replicator.errors import StoreDamaged
from replicator.model import Digest, StreamName

Damage = tuple[StreamName, Digest]
_T = TypeVar("_T")

logger = logging.getLogger(__name__)


class Scrubber:
    """A walk that remembers where it stands. For one thread at a time."""

    def __init__(self, payload: Payload, discard: Callable[[Digest], None]) -> None:
        self._payload = payload
        self._discard = discard
        self._steps = self._walk()
        self._suspects: SimpleQueue[Digest | StreamName | None] = SimpleQueue()

    def suspect(self, what: Digest | StreamName | None) -> None:
        """A chunk, or a manifest of that stream, could not be read; None only ends a `wait`. Any thread."""
        self._suspects.put(what)

    def wait(self, timeout_s: float | None, is_wanted: Callable[[], bool]) -> list[Damage]:
        """Wait, for so long at most, until something is suspected; return the heads that lack it indeed."""
        suspects: set[Digest | StreamName | None] = set()
        with suppress(Empty):
            suspects.add(self._suspects.get(timeout=timeout_s))
            while True:
                suspects.add(self._suspects.get_nowait())
        rotten = {each for each in suspects if isinstance(each, bytes) and self._is_unreadable(each)}
        streams = self._payload.memory.streams if suspects - {None} else {}
        heads = [(s, record.head) for s, record in list(streams.items()) if rotten or s in suspects]
        for _ in range(2):  # where there are many, those that came first may be mended by now
            heads = [each for each in heads if is_wanted() and self._lacks(*each, rotten)]
        return [(stream, head.digest) for stream, head in heads]

    def _lacks(self, stream: StreamName, head: Entry, rotten: set[Digest]) -> bool:
        """Whether its manifest cannot be read, or one of those chunks, which it names."""
        manifest, is_damaged = self._look(stream, head, read_manifest, stream, head)
        named = rotten.intersection(chunks_of(manifest)) if manifest is not None else ()
        return bool(is_damaged) or any(self._look(stream, head, read_chunk, digest)[1] for digest in named)

    def _is_unreadable(self, digest: Digest) -> bool:
        """Whether a chunk is so still: it may have been about to be written."""
        with suppress(StoreDamaged), self._payload.reading() as view:
            return read_chunk(view, digest) is None
        return True

    def scrub(self, budget_bytes: int, is_wanted: Callable[[], bool]) -> list[Damage]:
        """Read about *budget_bytes* on, while that *is_wanted* and to the walk's end at most; return the
        damaged checkpoints found."""
        damaged: dict[Damage, None] = {}
        while budget_bytes > 0 and is_wanted():
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
        """What each step read, in bytes, and what it found damaged: one manifest, or one chunk, which is read
        once in a walk. A newer checkpoint may have taken the place of what is looked at: a chunk that it goes
        on with is suspected, whoever needs it now."""
        sound: set[Digest] = set()
        for stream in list(self._payload.memory.streams):
            record = self._payload.memory.streams.get(stream)
            for entry in record.entries if record is not None else ():
                damage = (stream, entry.digest)
                manifest, is_damaged = self._look(stream, entry, read_manifest, stream, entry)
                yield 0, damage if is_damaged else None
                for digest, size in chunks_of(manifest).items() if manifest is not None else ():
                    if digest in sound:
                        continue
                    chunk, is_damaged = self._look(stream, entry, read_chunk, digest)
                    if chunk is not None:
                        sound.add(digest)
                    elif is_damaged is not None:
                        self._discard(digest)
                    yield size, damage if is_damaged else None

    def _look(
        self, stream: StreamName, entry: Entry, read: Callable[..., _T | None], *names: object
    ) -> tuple[_T | None, bool | None]:
        """What *read* finds, and whether the checkpoint lacks it; None where LMDB cannot tell."""
        try:
            with self._payload.reading() as view:
                found = None
                with suppress(StoreDamaged):
                    found = read(view, *names)
                return found, found is None and _is_retained(view, stream, entry)
        except StoreDamaged as error:  # a page of LMDB's own, which nobody can write again: on with the rest
            logger.error("scrub of stream=%s: %s", stream, error)
            return None, None


def _is_retained(view: Readable, stream: StreamName, entry: Entry) -> bool:
    """Whether the checkpoint has to be there, by the very view in which something of it is not.

    The store's memory cannot tell: while the writer is at work it is ahead of what readers see, and what
    is not there yet, or not any more, is not rotten.
    """
    record = load(StreamRecord, view, stream_key(stream))
    return record is not None and entry in record.entries
