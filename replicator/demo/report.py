"""What the run has shown, concluded from the records alone.

A commit is lost if a later tenure was restored from an older position. A position's epoch counts before
its sequence: a stream's sequences go on from what was restored.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from msgspec import Struct

from replicator.demo.records import Entry, Prediction
from replicator.model import Position


class Moment(Struct, frozen=True):
    """One line of the timeline."""

    at_s: float  # since the rows began to flow
    node: str
    what: str


class Stages(Struct, frozen=True):
    """What a takeover's time went to, in milliseconds."""

    detect: float  # from the kill until another node was named to lead
    claim: float  # until a majority had promised it the epoch
    fetch: float  # until it held the newest checkpoint
    restore: float  # until a majority had adopted it, the engine had loaded it, and a row was processed


class Takeover(Struct, frozen=True):
    """One kill of a primary, and the next primary's first row."""

    killed: str
    successor: str
    epoch: int
    kill_to_serving_ms: float
    stages: Stages
    rows_replayed: int


class Report(Struct, frozen=True):
    """The whole demo in numbers; `replicator demo --json` prints exactly this."""

    nodes: int
    rows: int
    takeovers: tuple[Takeover, ...]
    committed: int
    superseded: int
    lost_committed: int
    identical: bool
    metric: float
    metric_uninterrupted: float
    raw_bytes: int  # submitted, by what the processes last counted
    sent_bytes: int  # published (once, whatever the number of backups) or served to those who lacked it
    stored_bytes: int  # on all disks together, at the end
    duration_s: float
    timeline: tuple[Moment, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing was lost and the result is, bit for bit, the uninterrupted run's."""
        return self.lost_committed == 0 and self.identical


def takeover(
    killed: str, successor: str, killed_at: float, reached: int, entries: Iterable[Entry]
) -> Takeover:
    """Describe the takeover by *entries*, the successor's, of a primary killed at row *reached*.

    Instants that the tenure does not name count into the stage after them.
    """
    restored = next(entry for entry in entries if entry.kind == "restored" and entry.at > killed_at)
    serving = next(entry for entry in entries if entry.kind == "serving" and entry.epoch == restored.epoch)
    ends = [killed_at]
    for name in ("granted", "claimed", "fetched"):
        ends.append(max(ends[-1], restored.numbers.get(name, ends[-1])))
    ends.append(serving.at)
    detect, claim, fetch, restore = (round((end - start) * 1000, 1) for start, end in pairwise(ends))
    return Takeover(
        killed=killed,
        successor=successor,
        epoch=restored.epoch,
        kill_to_serving_ms=round((serving.at - killed_at) * 1000, 1),
        stages=Stages(detect, claim, fetch, restore),
        rows_replayed=max(0, reached - restored.offset),
    )


def count_lost(entries: Iterable[Entry]) -> int:
    """How many reported commits are newer than what a later tenure was restored from.

    *entries* are those of all lives of all nodes, in any order.
    """
    known = list(entries)
    restores = [
        (entry.epoch, entry.position or Position(0, 0)) for entry in known if entry.kind == "restored"
    ]
    commits = {entry.position for entry in known if entry.kind == "committed" and entry.position}
    return sum(
        any(epoch > commit.epoch and position < commit for epoch, position in restores) for commit in commits
    )


def assemble(predictions: Iterable[Prediction]) -> dict[int, str]:
    """For each row the prediction of the highest epoch, to the bit."""
    last: dict[int, tuple[int, str]] = {}
    for offset, epoch, probability in predictions:
        if offset not in last or last[offset][0] <= epoch:
            last[offset] = (epoch, probability.hex())
    return {offset: bits for offset, (_, bits) in last.items()}
