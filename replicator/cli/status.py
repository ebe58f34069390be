"""``replicator status``: the whole cluster as one running node sees it."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import Struct

from replicator.cli.admin import ask
from replicator.cli.common import AsJson, DataDir, find_data_dir, human_bytes, print_json, print_table
from replicator.errors import Unavailable
from replicator.model import Role

LEASE_S_MAX = 60  # more than any setting allows has only a node without peers
_WITHHELD = """no node that is up can read its newest checkpoint, or too few disks
have room for it; start what is down, make room, or give it up with `replicator abandon`"""
_NEW = """too many disks are new for the others to take them in: {}; put old ones back, or begin anew
with every data directory emptied, after `replicator export` of what is left"""
_COUNTING = (Role.PRIMARY, Role.BACKUP, Role.CANDIDATE)  # one that founds, joins or is faulty does not (R20)


class Place(Struct, frozen=True):
    """A position as status reports it."""

    epoch: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.sequence}"


class Stream(Struct, frozen=True):
    """One stream on one member; lags are None where they are not known."""

    stream: str
    head: Place | None = None
    commit: Place | None = None
    readable: bool = True
    lag_bytes: int | None = None
    lag_s: float | None = None


class Member(Struct, frozen=True):
    """One member; of an unreachable one only the name is known."""

    node: str
    reachable: bool
    role: str = ""
    epoch: int = 0
    lease_s: float = 0.0
    active: bool = False
    waiting_for: str = ""
    changing: bool = False
    durability: str = ""
    full: bool = False
    hangs: bool = False
    lacking: dict[str, int | None] = {}
    withheld: list[str] = []
    withheld_left_out: int = 0
    streams: list[Stream] = []
    streams_left_out: int = 0


class Report(Struct, frozen=True):
    """The answer of the node that was asked."""

    node: str
    cluster: str
    members: list[Member]


def status(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show how every member of the cluster is doing.

    Asks one running node for everybody's role, epoch, lease and progress.
    Positions are epoch.sequence: "head" is the newest checkpoint the member holds, "commit" the newest
    it knows to be held by a majority, "behind" what it still lacks, "unknown" where a member has more
    streams than it can tell of.

    \b
    replicator status
    replicator status --data-dir /var/lib/replicator --json
    """
    answer = ask(find_data_dir(data_dir), "status")
    if as_json:
        print_json(answer)
        return
    try:
        report = msgspec.convert(answer, Report)
    except msgspec.ValidationError as error:
        raise Unavailable(f"the answer is of another version ({error}); --json shows it as it is") from error
    print(f"cluster {report.cluster}, as seen by {report.node}\n")
    columns = ("node", "role", "epoch", "lease", "durability", "stream", "head", "commit", "behind")
    print_table(columns, (row for member in report.members for row in _rows(member)))
    for member in report.members:
        if unknown := [node for node, count in sorted(member.lacking.items()) if count is None]:
            print(f"\nunknown to {member.node} yet, what they lack: {', '.join(unknown)}")
        if member.withheld:
            others = f" and {member.withheld_left_out} more" if member.withheld_left_out else ""
            print(f"\n{member.node} is primary without {', '.join(member.withheld)}{others}:\n{_WITHHELD}")
    counting = sum(member.role in _COUNTING for member in report.members)
    if 2 * counting <= len(report.members):
        print(f"\nno majority: {counting} of {len(report.members)} members are up and count; nothing commits")
    new = [member.node for member in report.members if member.role == Role.JOINING]
    if 2 * len(new) >= len(report.members):
        print(f"\n{_NEW.format(', '.join(new))}")


def _rows(member: Member) -> Iterator[tuple[str, ...]]:
    if not member.reachable:
        yield (member.node, "unreachable", *[""] * 7)
        return
    lasts = f"{member.lease_s:.2f} s" if member.lease_s else ""
    lease = lasts if member.lease_s <= LEASE_S_MAX else "unlimited"
    first = (member.node, _role(member), str(member.epoch or ""), lease, member.durability)
    for stream in member.streams:
        head = f"{stream.head or ''}{'' if stream.readable else ', damaged'}"
        yield (*first, stream.stream, head, str(stream.commit or ""), _behind(stream))
        first = ("",) * 5
    if not member.streams:
        yield (*first, *[""] * 4)
    if member.streams_left_out:
        yield (*first, f"and {member.streams_left_out} more", "", "", "")


def _role(member: Member) -> str:
    """The role, and what keeps the member from doing all that belongs to it."""
    hindrances = (
        f"waiting for {member.waiting_for}" if member.waiting_for else "",
        "suspended" if member.role == Role.PRIMARY and not member.active else "",
        "members changing" if member.changing and member.role == Role.PRIMARY else "",
        "disk full" if member.full else "",
        "disk hangs" if member.hangs else "",
    )
    return ", ".join(filter(None, (member.role, *hindrances)))


def _behind(stream: Stream) -> str:
    if not stream.lag_bytes and stream.lag_s is None:
        return "unknown"
    size = human_bytes(stream.lag_bytes) if stream.lag_bytes else ""
    age = f"{stream.lag_s:.1f} s" if stream.lag_s else ""
    return ", ".join(filter(None, (size, age)))
