"""Which chunks the store holds and who needs them.

A chunk is needed once by each retained manifest that names it, and once by each running transfer, that is
each checkpoint to come, that brought it; when nobody needs it any longer it is garbage, which is deleted
along with a later transaction, or comes back to life if it is asked for before (R23). All this is memory,
rebuilt at open from the retained manifests; what no manifest names then is garbage.

A transfer's need ends when a checkpoint of its stream with its sequence or a later one is accepted. After
each batch all transfers but the first together hold at most *transfer_bytes_max*: newcomers give way, so the
last transfer loses what it brought last (I12). A stream takes its turn when it first brings something, and
has it until it accepts; within a stream, sequences go in order. But behind all others are transfers that
have brought nothing while more than the bound was refused to the rest: they may have been abandoned.

So every transfer that goes on is accepted (I8). The streams before it are finitely many, since turns are
never given twice. Each of them accepts, or is abandoned and costs the others one bound's worth of traffic.
Then the transfer is the first, which loses nothing however large it is: it lacks nothing at its next try.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count, islice
from typing import TypeVar

from replicator.adapters.store_record import chunk_key
from replicator.core.events import Event
from replicator.model import Buffer, Digest, Sequence, StreamName

_Transfer = tuple[StreamName, Sequence]
_K = TypeVar("_K")
_V = TypeVar("_V")


class Change:
    """One transaction in the making: what it writes, what it answers, and how to undo it in memory."""

    def __init__(self) -> None:
        self.writes: dict[bytes, Buffer | None] = {}
        self.events: list[Event] = []
        self._undo: list[tuple[dict[object, object], object, object]] = []

    def set(self, table: dict[_K, _V], key: _K, value: _V | None) -> None:
        """Set *key* in a table of the memory, or remove it (None), so that `undo` can take it back."""
        before = table.get(key)
        if before == value:
            return
        self._undo.append((table, key, before))  # type: ignore[arg-type]
        if value is None:
            del table[key]
        else:
            table[key] = value

    def undo(self) -> None:
        """Take back everything that was set, the last first."""
        for table, key, value in reversed(self._undo):
            if value is None:
                del table[key]
            else:
                table[key] = value


class Chunks:
    """The book of chunks. Changed by the writer only; single look-ups are safe from any thread."""

    def __init__(self, transfer_bytes_max: int) -> None:
        self.needs: dict[Digest, int] = {}
        self.absent: dict[Digest, bool] = {}  # needed, but not there: found rotten, or gone
        self.garbage: dict[Digest, bool] = {}  # there, but not needed
        self._sizes: dict[Digest, int] = {}
        self._totals = {"stored": 0}  # the sum of these, in a table so that it is undone with them
        self._transfers: dict[StreamName, dict[Sequence, dict[Digest, bool]]] = {}
        self._transfer_bytes: dict[_Transfer, int] = {}
        self._transfer_bytes_max = transfer_bytes_max
        self._turns: dict[StreamName, int] = {}  # kept while it holds nothing, so that its turn does come
        self._next_turn = count()
        self._refused_bytes = 0  # a clock, never set back: how much was not even written, for the bound
        self._brought_at: dict[_Transfer, int] = {}  # by that clock

    def is_kept(self, digest: Digest) -> bool:
        """Whether it is there and needed, so that nobody has to bring it."""
        return digest in self.needs and digest not in self.absent

    def is_stored(self, digest: Digest) -> bool:
        """Whether it is there, be it as garbage."""
        return self.is_kept(digest) or digest in self.garbage

    @property
    def stored_bytes(self) -> int:
        return self._totals["stored"]

    def need(self, change: Change, digest: Digest, size: int) -> None:
        """Count one more need."""
        change.set(self.needs, digest, self.needs.get(digest, 0) + 1)
        self._weigh(change, digest, size)
        change.set(self.garbage, digest, None)

    def drop(self, change: Change, digest: Digest) -> None:
        """Count one need less."""
        left = self.needs[digest] - 1
        change.set(self.needs, digest, left or None)
        if not left:
            self._weigh(change, digest, None)
            if digest in self.absent:
                change.set(self.absent, digest, None)
            else:
                change.set(self.garbage, digest, True)

    def _weigh(self, change: Change, digest: Digest, size: int | None) -> None:
        change.set(self._totals, "stored", self._totals["stored"] - self._sizes.get(digest, 0) + (size or 0))
        change.set(self._sizes, digest, size)

    def drop_all(self, change: Change, digests: Iterable[Digest]) -> None:
        """Count one need less of each."""
        for digest in digests:
            self.drop(change, digest)

    def bring(
        self, change: Change, stream: StreamName, sequence: Sequence, digest: Digest, stored: Buffer
    ) -> None:
        """A transfer has brought the chunk: keep it for the transfer, write it unless it is there."""
        if not self.is_stored(digest):
            change.writes[chunk_key(digest)] = stored
        transfer = self._transfers.setdefault(stream, {}).setdefault(sequence, {})
        if digest not in transfer:
            self.need(change, digest, len(stored))
            self._count(change, (stream, sequence), len(stored))
            change.set(transfer, digest, True)
        if stream not in self._turns:
            change.set(self._turns, stream, next(self._next_turn))
        change.set(self._brought_at, (stream, sequence), self._refused_bytes)
        change.set(self.absent, digest, None)

    def settle(self, change: Change, stream: StreamName, sequence: Sequence) -> None:
        """A checkpoint was accepted: the stream's transfers up to it need nothing any longer."""
        going_on = None
        for claimed, transfer in self._transfers.get(stream, {}).items():
            if claimed > sequence and transfer:
                going_on = next(self._next_turn)
            elif claimed <= sequence:
                for digest in list(transfer):
                    self._let_go(change, (stream, claimed), digest)
        change.set(self._turns, stream, going_on)

    def limit(self, change: Change) -> None:
        """Let the last transfers lose what they brought last until all but the first are within the bound."""
        excess = sum(self._transfer_bytes.values()) - self._transfer_bytes_max
        if excess <= 0:
            return
        first, *others = sorted(self._transfer_bytes, key=self._rank)
        excess -= self._transfer_bytes[first]
        while excess > 0:
            stream, sequence = others.pop()
            for digest in reversed(list(self._transfers[stream][sequence])):
                if excess <= 0:
                    break
                size = self._sizes[digest]
                excess -= size
                self._let_go(change, (stream, sequence), digest)
                if digest in self.garbage and change.writes.get(chunk_key(digest)):
                    change.writes[chunk_key(digest)] = None  # it only came with this change
                    change.set(self.garbage, digest, None)
                    self._refused_bytes += size

    def _rank(self, transfer: _Transfer) -> tuple[bool, int, Sequence]:
        stream, sequence = transfer
        refused_bytes = self._refused_bytes - self._brought_at[transfer]
        return refused_bytes > self._transfer_bytes_max, self._turns[stream], sequence

    def discard(self, change: Change, digest: Digest) -> None:
        """The stored bytes are rotten: delete them; who needs the chunk lacks it from now on."""
        change.writes[chunk_key(digest)] = None
        change.set(self.garbage, digest, None)
        if digest in self.needs:
            change.set(self.absent, digest, True)

    def oldest_garbage(self, count_max: int) -> list[Digest]:
        """What may be deleted with the next transaction."""
        return list(islice(self.garbage, count_max))

    def sweep(self, change: Change, digests: list[Digest]) -> None:
        """Delete those of *digests* that are still garbage."""
        for digest in digests:
            if digest in self.garbage:
                change.writes[chunk_key(digest)] = None
                change.set(self.garbage, digest, None)

    def tidy(self) -> None:
        """Forget the transfers that ended; after a change is durable, since it cannot be undone."""
        for stream, transfers in list(self._transfers.items()):
            for sequence in [sequence for sequence, transfer in transfers.items() if not transfer]:
                del transfers[sequence]
            if not transfers:
                del self._transfers[stream]

    def _let_go(self, change: Change, transfer: _Transfer, digest: Digest) -> None:
        stream, sequence = transfer
        self._count(change, transfer, -self._sizes[digest])
        change.set(self._transfers[stream][sequence], digest, None)
        self.drop(change, digest)

    def _count(self, change: Change, transfer: _Transfer, size: int) -> None:
        held = self._transfer_bytes.get(transfer, 0) + size
        change.set(self._transfer_bytes, transfer, held or None)
        if not held:
            change.set(self._brought_at, transfer, None)
