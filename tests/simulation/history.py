"""What truly happened, as no replica can know it: the checkers judge by it.

Every payload names its parent, so a stream's checkpoints form a tree of contents. A *content* is the
digest of a payload's bytes (or of a deletion's place); a position may name one content only.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import msgspec

from replicator.model import (
    Digest,
    Epoch,
    Generation,
    Head,
    Incarnation,
    Manifest,
    MemberRecord,
    NodeId,
    Position,
    Sequence,
    StreamName,
)
from tests.simulation.checkers.base import Violation

Content = bytes
CHUNK_BYTES = 96  # the first chunk is the payload's own, those of the filler are shared


class Tenure(NamedTuple):
    """A tenure as it started; *restored* holds the content of each stream handed to the engine."""

    time: float
    node: NodeId
    process: bytes
    epoch: Epoch
    restored: dict[StreamName, Content]
    unavailable: frozenset[StreamName]


class Committed(NamedTuple):
    """A commit as the engine was told of it, reported or restored, or as the primary noted it for itself."""

    time: float
    node: NodeId
    epoch: Epoch  # the tenure's, or the primary's
    position: Position
    content: Content


class History:
    """Submissions, contents, acceptances, tenures and commits of one run."""

    def __init__(self) -> None:
        self.parents: dict[Content, Content | None] = {}
        self.payloads: dict[Content, bytes] = {}
        self.tombstones: set[Content] = set()
        self.places: dict[Content, tuple[Epoch, Sequence]] = {}  # as submitted
        self.contents: dict[Digest, Content] = {}  # by manifest digest
        self.positions: dict[tuple[StreamName, Position], Digest] = {}
        self.accepted: dict[tuple[StreamName, Epoch], dict[Incarnation, Sequence]] = {}
        self.accepted_contents: dict[tuple[StreamName, Epoch], dict[Sequence, Content]] = {}
        self.tenures: dict[Epoch, Tenure] = {}
        self.commits: dict[StreamName, list[Committed]] = {}
        self._newest_commits: dict[StreamName, Committed] = {}
        self.commit_count = 0
        self.records: set[MemberRecord] = set()  # all founded ones that were ever on a disk
        self.handles: dict[int, Content] = {}
        self.outcomes: dict[int, str] = {}

    def create(
        self,
        handle: int,
        stream: StreamName,
        epoch: Epoch,
        sequence: Sequence,
        parent: Content | None,
        filler: bytes,
        *,
        tombstone: bool = False,
    ) -> Content:
        """Make the payload of a submission (or the content of a deletion) and remember it."""
        fields = (stream, epoch, sequence, parent, handle, tombstone)
        payload = msgspec.msgpack.encode(fields).ljust(CHUNK_BYTES, b"\0") + filler
        content = hashlib.blake2b(payload, digest_size=16).digest()
        self.parents[content] = parent
        self.payloads[content] = payload
        self.places[content] = (epoch, sequence)
        self.handles[handle] = content
        if tombstone:
            self.tombstones.add(content)
        return content

    def content_of(self, head: Head | Manifest) -> Content:
        """The content that a head or manifest stands for."""
        return self.contents[Digest(head.digest)]

    def descends(self, later: Content, earlier: Content) -> bool:
        """Whether *earlier* is *later* or an ancestor of it."""
        floor = self.places[earlier]
        at: Content | None = later
        while at is not None and at != earlier:
            at = self.parents[at] if self.places[at] > floor else None
        return at is not None

    def root(self, content: Content) -> Content:
        """The first checkpoint of the chain that *content* belongs to."""
        parent = self.parents[content]
        while parent is not None:
            content, parent = parent, self.parents[parent]
        return content

    def keeps(self, later: Content, earlier: Content) -> bool:
        """Whether having *later* loses nothing of *earlier*: it descends from it, or *earlier* is a deletion
        and *later* was begun anew after it (the tombstone may be forgotten by then), or is a deletion too: an
        old disk may bring one back that all others have forgotten, and of nothing nothing is lost."""
        if self.descends(later, earlier):
            return True
        if earlier not in self.tombstones:
            return False
        return later in self.tombstones or self.places[self.root(later)] > self.places[earlier]

    def accept(self, epoch: Epoch, who: Incarnation, manifest: Manifest) -> None:
        """An acceptance is durable at the replica of that incarnation."""
        key, sequence = (StreamName(manifest.stream), epoch), Sequence(manifest.sequence)
        holders = self.accepted.setdefault(key, {})
        holders[who] = max(sequence, holders.get(who, Sequence(0)))
        content = self.content_of(manifest)
        known = self.accepted_contents.setdefault(key, {}).setdefault(sequence, content)
        if known != content:
            raise Violation("I4", f"{manifest.stream} {sequence} has two contents in epoch {epoch}")

    def holders(self, stream: StreamName, epoch: Epoch, sequence: int) -> set[Incarnation]:
        """Who has ever durably accepted that sequence or a later one of the stream in *epoch*."""
        accepted = self.accepted.get((stream, epoch), {})
        return {who for who, newest in accepted.items() if newest >= sequence}

    def newest_commit(self, stream: StreamName) -> Committed | None:
        """The commit of the stream that no other commit descends from."""
        return self._newest_commits.get(stream)

    def commit(self, stream: StreamName, commit: Committed) -> None:
        """An engine is told that this is committed or is restored to it, or its primary has noted it."""
        self.commits.setdefault(stream, []).append(commit)
        newest = self._newest_commits.setdefault(stream, commit)
        if (newest.epoch, newest.position.sequence) < (commit.epoch, commit.position.sequence):
            self._newest_commits[stream] = commit


def is_quorum(record: MemberRecord, who: set[Incarnation]) -> bool:
    """Whether *who* holds a majority of the members, during a change of the old ones too (R27)."""
    sides = [record.members, record.old] if record.old else [record.members]
    return all(2 * sum(Incarnation(one.incarnation) in who for one in side) > len(side) for side in sides)


def manifest_key(manifest: Manifest) -> tuple[StreamName, Generation, Position]:
    """What names a manifest to people."""
    return StreamName(manifest.stream), Generation(manifest.generation), manifest.position
