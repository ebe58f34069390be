"""What happened, as readable lines, and a hash of it: the same seed gives the same hash everywhere."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, MutableSequence
from typing import Any

import msgspec

from replicator.core.messages import Acked, CommitPoint, Echo
from replicator.model import Head, Manifest, Member, MemberRecord, Owner, Position, Promise

Entry = tuple[float, str, str, object]
_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class Trace:
    """Events handled, effects performed and faults injected, in order: all, or the last *kept* of them."""

    def __init__(self, kept: int | None = None) -> None:
        self.entries: MutableSequence[Entry] = [] if kept is None else deque(maxlen=kept)

    def add(self, time: float, who: str, verb: str, subject: object = "") -> None:
        """Note that at *time* (true seconds) *who* did *verb* with *subject*."""
        self.entries.append((time, who, verb, subject))

    def lines(self, last: int | None = None) -> list[str]:
        """The last so many entries (all: None), one line each."""
        entries = list(self.entries)[-last if last else 0 :]
        return [f"{time:10.6f} {who:6} {verb:7} {show(subject)}" for time, who, verb, subject in entries]

    @property
    def trace_hash(self) -> str:
        """A digest over all entries, independent of the hash seed of the interpreter."""
        digest = hashlib.blake2b(digest_size=16)
        for time, who, verb, subject in self.entries:
            digest.update(_encode((time, who, verb, type(subject).__name__, subject)))
        return digest.hexdigest()


def show(subject: object) -> str:
    """A short form: what is known by heart without its field names, digests cut to their first bytes."""
    shorter = _SHORTER.get(type(subject))
    if shorter is not None:
        return shorter(subject)
    if isinstance(subject, msgspec.Struct):
        fields = ((name, getattr(subject, name)) for name in subject.__struct_fields__)
        inside = ", ".join(f"{name}={show(value)}" for name, value in fields)
        return f"{type(subject).__name__}({inside})"
    if isinstance(subject, tuple | list):
        return "[" + ", ".join(map(show, subject)) + "]"
    if isinstance(subject, frozenset | set):
        return "{" + ", ".join(sorted(map(show, subject))) + "}"
    if isinstance(subject, dict):
        return "{" + ", ".join(f"{show(key)}: {show(value)}" for key, value in subject.items()) + "}"
    return str(subject)


def _bytes(subject: bytes) -> str:
    """Ids that are made to be read as text, others as the beginning of their digits."""
    text = subject.rstrip(b"\0")
    return text.decode() if text.isascii() and text.decode().isprintable() else subject[:3].hex()


def _members(record: MemberRecord) -> str:
    old = f" old {show(record.old)}" if record.old else ""
    return f"v{record.version} {show(record.members)}{old}"


def _manifest(manifest: Manifest) -> str:
    kind = "tombstone " if manifest.tombstone else ""
    return f"{kind}{manifest.stream}/{manifest.generation}@{show(manifest.position)}:{show(manifest.digest)}"


def _head(head: Head) -> str:
    kind = "tombstone " if head.tombstone else ""
    place = f"{kind}{head.stream}/{head.generation}@{show(head.position)}:{show(head.digest)}"
    return f"{place} in {head.accepted_epoch}" + ("" if head.readable else " unreadable")


_SHORTER: dict[type, Callable[[Any], str]] = {
    bytes: _bytes,
    float: "{:.4f}".format,
    Acked: lambda one: f"{one.stream}/{one.generation}#{one.sequence}:{show(one.digest)}",
    CommitPoint: lambda one: f"{one.stream}/{one.generation}@{show(one.position)}",
    Echo: lambda one: f"{show(one.process)} at {one.at:.4f}",
    Head: _head,
    Manifest: _manifest,
    Member: lambda one: (
        _bytes(one.incarnation) if b"#" in one.incarnation else f"{one.node}#{show(one.incarnation)}"
    ),
    MemberRecord: _members,
    Owner: lambda one: _bytes(one.process) if b"/" in one.process else f"{one.node}/{show(one.process)}",
    Position: lambda one: f"{one.epoch}.{one.sequence}",
    Promise: lambda one: f"{one.epoch} to {show(one.owner)}",
}
