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

from collections.abc import Iterable, Mapping, Sequence as Ordered
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
        self._undo: list[tuple[dict[object, object], dict[object, object]]] = []

    def set(self, table: dict[_K, _V], key: _K, value: _V | None) -> None:
        """Set *key* in a table of the memory, or remove it (None), so that `undo` can take it back."""
        before = table.get(key)
        if before == value:
            return
        self._undo.append((table, {key: before}))  # type: ignore[arg-type]
        if value is None:
            del table[key]
        else:
            table[key] = value

    def add(self, table: dict[_K, _V], values: Mapping[_K, _V]) -> None:
        """Add keys that are not in a table yet, all at once."""
        self._undo.append((table, dict.fromkeys(values)))  # type: ignore[arg-type]
        table.update(values)

    def remove(self, table: dict[_K, _V], keys: Iterable[_K]) -> None:
        """Remove those of *keys* that are in a table."""
        if table:
            self._undo.append((table, {key: table.pop(key) for key in keys if key in table}))  # type: ignore[arg-type]

    def undo(self) -> None:
        """Take back everything that was set, the last first."""
        for table, values in reversed(self._undo):
            for key, value in values.items():
                if value is None:
                    table.pop(key, None)
                else:
                    table[key] = value


class Chunks:
    """The book of chunks. Changed by the writer only; single look-ups are safe from any thread."""

    def __init__(self, transfer_bytes_max: int) -> None:
        self.needs: dict[Digest, tuple[int, int]] = {}  # how often, and the length as stored
        self.absent: dict[Digest, bool] = {}  # needed, but not there: found rotten, or gone
        self.garbage: dict[Digest, bool] = {}  # there, but not needed
        self._totals = {"stored": 0}  # the lengths' sum, in a table so that it is undone with them
        self._transfers: dict[StreamName, dict[Sequence, dict[Digest, int]]] = {}  # lengths as stored
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

    def need(self, change: Change, sizes: Mapping[Digest, int]) -> None:
        """Count one more need of each; with their lengths as stored."""
        needs, new, total = self.needs, {}, 0
        for digest, size in sizes.items():
            if digest in needs:
                count, known = needs[digest]
                change.set(needs, digest, (count + 1, known))
            else:
                new[digest] = (1, size)
                total += size
        if new:
            change.add(needs, new)
            change.remove(self.garbage, new)
            self._weigh(change, total)

    def drop(self, change: Change, digests: Iterable[Digest]) -> None:
        """Count one need less of each."""
        needs, absent, gone, total = self.needs, self.absent, {}, 0
        for digest in digests:
            count, size = needs[digest]
            if count > 1:
                change.set(needs, digest, (count - 1, size))
            else:
                gone[digest] = digest not in absent
                total += size
        if gone:
            self._weigh(change, -total)
            change.remove(needs, gone)
            change.remove(absent, gone)
            change.add(self.garbage, {digest: True for digest, is_there in gone.items() if is_there})

    def exchange(
        self, change: Change, sizes: Mapping[Digest, int], dropped: Iterable[Mapping[Digest, int]]
    ) -> None:
        """Count one more need of each of *sizes*, and one less of each in each of *dropped*. Most are the
        same: what a transfer has brought is what the checkpoint names, or what the one before it named."""
        for before in dropped:
            if sizes.keys() == before.keys():
                sizes = {}
            else:
                self.drop(change, [digest for digest in before if digest not in sizes])
                sizes = {digest: size for digest, size in sizes.items() if digest not in before}
        self.need(change, sizes)

    def _weigh(self, change: Change, size_bytes: int) -> None:
        change.set(self._totals, "stored", self._totals["stored"] + size_bytes)

    def bring(
        self, change: Change, stream: StreamName, sequence: Sequence, chunks: Ordered[tuple[Digest, Buffer]]
    ) -> None:
        """A transfer has brought the chunks: keep them for the transfer, write those that are not there."""
        transfer = self._transfers.setdefault(stream, {}).setdefault(sequence, {})
        lacking = (each for each in chunks if not self.is_stored(each[0]))
        change.writes.update((chunk_key(digest), stored) for digest, stored in lacking)
        new = {digest: len(stored) for digest, stored in chunks if digest not in transfer}
        self.need(change, new)
        change.add(transfer, new)
        self._count(change, (stream, sequence), sum(new.values()))
        if stream not in self._turns:
            change.set(self._turns, stream, next(self._next_turn))
        change.set(self._brought_at, (stream, sequence), self._refused_bytes)
        change.remove(self.absent, (digest for digest, _ in chunks))

    def settle(self, change: Change, stream: StreamName, sequence: Sequence) -> list[dict[Digest, int]]:
        """A checkpoint was accepted: the stream's transfers up to it end. What each of them holds is the
        caller's to drop."""
        going_on, ended = None, []
        transfers = self._transfers.get(stream, {})
        for claimed, transfer in list(transfers.items()):
            if claimed <= sequence:
                ended.append(transfer)
                change.set(transfers, claimed, None)
                self._count(change, (stream, claimed), -sum(transfer.values()))
            elif transfer:
                going_on = next(self._next_turn)
        change.set(self._turns, stream, going_on)
        return ended

    def abandon(self, change: Change, stream: StreamName, sequence: Sequence) -> None:
        """The stream's transfers up to it end, and what they hold is of no use."""
        for held in self.settle(change, stream, sequence):
            self.drop(change, held)

    def limit(self, change: Change) -> None:
        """Let the last transfers lose what they brought last until all but the first are within the bound."""
        excess = sum(self._transfer_bytes.values()) - self._transfer_bytes_max
        if excess <= 0:
            return
        first, *others = sorted(self._transfer_bytes, key=self._rank)
        excess -= self._transfer_bytes[first]
        while excess > 0:
            stream, sequence = others.pop()
            held = self._transfers[stream][sequence]
            for digest, size in reversed(list(held.items())):
                if excess <= 0:
                    break
                excess -= size
                change.set(held, digest, None)
                self._count(change, (stream, sequence), -size)
                self.drop(change, [digest])
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
        if swept := [digest for digest in digests if digest in self.garbage]:
            change.writes.update(dict.fromkeys(map(chunk_key, swept)))
            change.remove(self.garbage, swept)

    def tidy(self) -> None:
        """Forget the transfers that ended; after a change is durable, since it cannot be undone."""
        for stream, transfers in list(self._transfers.items()):
            for sequence in [sequence for sequence, transfer in transfers.items() if not transfer]:
                del transfers[sequence]
            if not transfers:
                del self._transfers[stream]

    def _count(self, change: Change, transfer: _Transfer, size: int) -> None:
        held = self._transfer_bytes.get(transfer, 0) + size
        change.set(self._transfer_bytes, transfer, held or None)
        if not held:
            change.set(self._brought_at, transfer, None)
