"""What is the same on every path of a search: packets and contents by number and digest; and its words."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from replicator.core import effects
from replicator.core.events import Event
from replicator.model import Chunk, Codec, Manifest, Part


class Violation(Exception):
    """A promise is broken; the text names the invariant."""


class Happened(NamedTuple):
    """Something that only the whole world can judge: a tenure, a commit, a word of a primary."""

    what: str
    epoch: int
    subject: Any


class Input(NamedTuple):
    """What can happen to a machine: its name, and what it is about."""

    verb: str
    subject: Any = None


Packet = tuple[Event, ...]  # what arrives together


class Registry:
    """Contents and packets by value: numbers and digests mean the same on every path of the search."""

    def __init__(self) -> None:
        self.parents: dict[bytes, bytes | None] = {}  # of contents
        self.contents: dict[bytes, bytes] = {}  # by manifest digest
        self.deletions: set[bytes] = set()
        self.packets: list[Packet] = []
        self._numbers: dict[Packet, int] = {}

    def number(self, packet: Packet) -> int:
        """The number of a packet."""
        known = self._numbers.get(packet)
        if known is None:
            known = self._numbers[packet] = len(self.packets)
            self.packets.append(packet)
        return known

    def create(self, parent: bytes | None, place: str, deletes: bool) -> bytes:
        """A content that builds on *parent*."""
        content = hashlib.blake2b((parent or b"") + f"{place}/{deletes}".encode(), digest_size=32).digest()
        self.parents[content] = parent
        if deletes:
            self.deletions.add(content)
        return content

    def seal(self, effect: effects.Publish, content: bytes) -> Manifest:
        """The manifest of a content, published at a position: one chunk, named by the content."""
        place = (effect.stream, effect.generation, effect.epoch, effect.sequence)
        chunks = (Chunk(content, 1, content, 1, Codec.NONE),)
        parts = () if effect.tombstone else (Part("", chunks),)
        digest = hashlib.blake2b(repr(place).encode() + content, digest_size=32).digest()
        self.contents[digest] = content
        return Manifest(*place, parts, b"", False, effect.tombstone, digest)

    def builds_on(self, content: bytes | None, ancestor: bytes) -> bool:
        """Whether *ancestor* is *content* itself or one that it was made from."""
        while content is not None and content != ancestor:
            content = self.parents[content]
        return content is not None
