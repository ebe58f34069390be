"""How finely a stream is cut into chunks: the publisher's own choice, for a manifest tells every length.

A chunk is what is compared with the checkpoint before, so the smaller it is the more is found that has not
changed. But each costs every node its share of bookkeeping, a tenth of a large commit. Where a stream's
checkpoints have nothing in common, small chunks buy nothing: that stream gets larger ones, until something is
found again. What only small ones would find is looked for now and then, in two checkpoints: one to compare
with, and one to compare. A checkpoint that is all known says nothing: chunks of any size find that, and of
another size than before they find nothing. A size that is set for the stream is kept.
"""

from __future__ import annotations

from replicator.model import StreamName
from replicator.settings import Settings

ABOVE_BYTES = 4 * 2**20  # of a checkpoint: smaller ones gain less than two of a hundred
COARSER = 4
COARSE_BYTES_MAX = 2**20  # as much as a message holds
FOUND_SHARE = 1 / 16  # of a checkpoint: less is nothing
FRUITLESS = 4  # checkpoints in a row in which nothing was found
LOOK_EVERY = 32
STREAMS_MAX = 1024


class Grain:
    """The size of each stream's chunks, by what was found in its last checkpoints."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._fruitless: dict[StreamName, int] = {}  # checkpoints in a row, the last stream noted last

    def chunk_bytes(self, stream: StreamName, payload_bytes: int) -> int:
        """The size of the chunks of the stream's next checkpoint."""
        settings, fine = self._settings, self._settings.chunk_bytes
        if (own := settings.own_chunk_bytes_of(stream)) is not None:
            return own
        fruitless = self._fruitless.get(stream, 0)
        is_look = fruitless % LOOK_EVERY >= LOOK_EVERY - 2
        if payload_bytes < ABOVE_BYTES or fruitless < FRUITLESS or is_look:
            return fine
        return max(fine, min(COARSER * fine, COARSE_BYTES_MAX, settings.transaction_bytes_max))

    def note(self, stream: StreamName, payload_bytes: int, found_bytes: int) -> None:
        """Of the stream's checkpoint so much was known already."""
        if payload_bytes < ABOVE_BYTES or found_bytes == payload_bytes:
            return
        fruitless = self._fruitless.pop(stream, 0)
        if found_bytes < FOUND_SHARE * payload_bytes:
            self._fruitless[stream] = fruitless + 1
            if len(self._fruitless) > STREAMS_MAX:
                del self._fruitless[next(iter(self._fruitless))]
