"""What comes back: a checkpoint as the engine reads it, and everything that a tenure restores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from replicator.errors import CheckpointUnreadable
from replicator.link.messages import Restored as RestoredMessage, StandbyOffered
from replicator.model import Buffer, Position, StreamName


class Checkpoint(Struct, frozen=True):
    """A committed checkpoint, byte for byte what was submitted. A plain payload is one part named ''.

    Of a restored one *is_followed* says that `follow` has given it before, and was asked for the next one:
    a standby that has loaded it then need not load it again.
    """

    stream: StreamName
    position: Position
    meta: bytes
    parts: dict[str, bytes]
    is_mapping: bool
    is_followed: bool = False

    @property
    def payload(self) -> bytes | dict[str, bytes]:
        """As it was submitted: bytes, or a mapping of part name to bytes."""
        return self.parts if self.is_mapping else self.parts[""]

    def __repr__(self) -> str:
        size_bytes = sum(map(len, self.parts.values()))
        epoch, sequence = self.position.epoch, self.position.sequence
        return f"<Checkpoint {self.stream} ({epoch}, {sequence}) {size_bytes} bytes>"


class Arrival(Struct, frozen=True, gc=False):
    """A checkpoint as it came over the link, its parts still as they came."""

    message: RestoredMessage | StandbyOffered
    parts: Sequence[Buffer]

    def checkpoint(self) -> Checkpoint:
        """The checkpoint, with bytes of its own."""
        message = self.message
        parts = {name: bytes(part) for name, part in zip(message.part_names, self.parts, strict=True)}
        stream = StreamName(message.stream)
        return Checkpoint(stream, message.position, message.meta, parts, message.is_mapping)


class Restored(Mapping[str, Checkpoint]):
    """Stream to restored checkpoint: what this tenure starts from. Deleted streams are not in it.

    A stream whose checkpoint nobody can read now is in it too, and raises `CheckpointUnreadable` when asked
    for, so that no engine starts it from nothing unawares; `unavailable` names them.
    """

    def __init__(self) -> None:
        self._found: dict[str, Checkpoint | Arrival | str] = {}

    def add(self, stream: str, found: Checkpoint | Arrival | str) -> None:
        """Take in a checkpoint that came, or the reason why it cannot be read."""
        self._found[stream] = found

    def __getitem__(self, stream: str) -> Checkpoint:
        found = self._found[stream]
        if isinstance(found, str):
            raise CheckpointUnreadable(f"{stream!r} cannot be restored now: {found}")
        if isinstance(found, Arrival):
            found = self._found[stream] = found.checkpoint()
        return found

    def take(self, stream: str) -> Checkpoint | None:
        """The stream's checkpoint (None: there is none), whose memory is the caller's alone from now on."""
        if stream not in self._found:
            return None
        checkpoint = self[stream]
        del self._found[stream]
        return checkpoint

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    @property
    def unavailable(self) -> frozenset[str]:
        """The streams that raise when asked for."""
        return frozenset(stream for stream, found in self._found.items() if isinstance(found, str))

    def __repr__(self) -> str:
        return f"<Restored {len(self)} streams, {len(self.unavailable)} unavailable>"
