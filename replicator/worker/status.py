"""Status: what this node says of itself, and what it hears from the members when somebody asks.

One gathering runs at a time and later askers join it. A member that has not answered within
`GATHER_TIMEOUT_S` is reported as unreachable. Lag is what a member's head lacks of the newest head that
anybody reports of the stream: its bytes (whole, though chunks known already are not sent again), and for
how long that head has been there. Where a member's report leaves the stream out, nobody here knows its newest
head: the lag is unknown.

A report goes to a member by the control channel, and heartbeats queue behind it (R16). So it is compressed
and at most `REPORT_BYTES_MAX` long, which holds several hundred streams, the same ones of each member: the
first by name. It says how many it leaves out. However often somebody asks, a member is asked again only when
its last report has come or must be lost; until then that report answers later askers as well. It is made on
the control thread of whoever is asked, so of what is in memory: no manifest is read for it.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from heapq import nsmallest

from msgspec import Struct, json

from replicator.adapters.ports import DataPath, Elector, Store
from replicator.core.effects import ForgetTombstone, MarkCommitted
from replicator.core.events import Accepted
from replicator.core.messages import StatusReport, StatusRequest
from replicator.core.replica import Replica
from replicator.errors import UNREADABLE
from replicator.model import Digest, Head, NodeId, Position, StreamName
from replicator.settings import Settings
from replicator.worker.mesh import Mesh

GATHER_TIMEOUT_S = 0.5
REPORT_BYTES_MAX = 2**14
UNPACKED_BYTES_MAX = 2**21
STREAMS_MAX = 1024  # what is told of each holds up the control thread
WITHHELD_MAX = 16  # whose names are told
LOST_AFTER_S = 2.0  # an answer that has not come by then is not waited for: its connection is dead
ASKERS_MAX = 64

Reply = Callable[[bytes], None]


class Place(Struct, frozen=True):
    """A position."""

    epoch: int
    sequence: int


class StreamReport(Struct, kw_only=True):
    """A stream on one member. What is not known is None; *age_s* is for how long the head has been there."""

    stream: str
    head: Place | None = None
    commit: Place | None = None
    deleted: bool = False
    readable: bool = True
    bytes: int = 0
    age_s: float | None = None
    lag_bytes: int | None = 0
    lag_s: float | None = 0.0

    @property
    def order(self) -> tuple[int, int]:
        return (self.head.epoch, self.head.sequence) if self.head is not None else (0, 0)


class MemberReport(Struct, kw_only=True):
    """A member's own word. *lacking* says, at a primary, how many streams each backup lacks, if it
    knows; *withheld* names the first of those that its tenure is without, for nobody can read them, and
    *withheld_left_out* says how many more there are."""

    node: str
    reachable: bool = True
    role: str
    epoch: int
    owner: str | None
    lease_s: float
    active: bool
    waiting_for: str
    changing: bool
    full: bool
    lacking: dict[str, int | None]
    leader: str | None
    durability: str
    streams: list[StreamReport]
    streams_left_out: int
    usage: dict[str, int]
    hangs: bool = False  # the disk
    withheld: list[str] = []
    withheld_left_out: int = 0


class Unreachable(Struct):
    """A member that has not answered."""

    node: str
    reachable: bool = False


class ClusterReport(Struct):
    """What `replicator.status()` gives."""

    node: str
    cluster: str
    members: list[MemberReport | Unreachable]


class Census:
    """Asks everybody, and answers those who ask. Used on the control thread only."""

    def __init__(
        self,
        settings: Settings,
        core: Replica,
        elector: Elector,
        store: Store,
        data: DataPath,
        mesh: Mesh,
    ) -> None:
        self._settings = settings
        self._core = core
        self._elector = elector
        self._store = store
        self._data = data
        self._mesh = mesh
        self._peers = tuple(sorted(settings.peers.keys() - {settings.node}))
        self._nonce = 0
        self._askers: list[Reply] = []
        self._heard: dict[NodeId, MemberReport] = {}
        self._asked: dict[NodeId, tuple[int, float]] = {}  # nonce and time of what is not answered yet
        self._arrived: dict[StreamName, tuple[float, Digest]] = {}  # when which head was accepted
        self._committed: dict[StreamName, Position] = {}
        self.deadline = math.inf

    def accepted(self, event: Accepted, now: float) -> None:
        """A stream has a new head here: note when it came."""
        self._arrived[StreamName(event.manifest.stream)] = (now, Digest(event.manifest.digest))

    def committed(self, effect: MarkCommitted) -> None:
        """A stream's commit point has moved."""
        self._committed[effect.stream] = effect.position

    def forgotten(self, effect: ForgetTombstone) -> None:
        """A deleted stream leaves nothing behind."""
        self._arrived.pop(StreamName(effect.stream), None)
        self._committed.pop(StreamName(effect.stream), None)

    # ── asking and answering ──

    def ask(self, reply: Reply, now: float) -> None:
        """Have *reply* called with the members' status, as JSON, within `GATHER_TIMEOUT_S`."""
        if len(self._askers) >= ASKERS_MAX:
            reply(json.encode({"error": "too many ask for the status"}))
            return
        self._askers.append(reply)
        if len(self._askers) == 1:
            self._nonce += 1
            self._heard.clear()
            self.deadline = now + GATHER_TIMEOUT_S
            for peer in self._peers:
                _, since = self._asked.get(peer, (0, -math.inf))
                if now - since >= LOST_AFTER_S and self._mesh.send(peer, StatusRequest(self._nonce)):
                    self._asked[peer] = (self._nonce, now)
        self._finish_if_all(now)

    def on_request(self, node: NodeId, request: StatusRequest, now: float) -> None:
        """Tell a member how this one is."""
        self._mesh.send(node, StatusReport(request.nonce, _pack(self._own(now))))

    def on_report(self, node: NodeId, message: StatusReport, now: float) -> None:
        """A member's answer; ignored if it was given up, if nobody waits, or if it makes no sense."""
        asked = self._asked.get(node)
        if asked is None or asked[0] != message.nonce:
            return
        del self._asked[node]
        if not self._askers:
            return
        report = _unpack(message.report)
        if report is None:
            return
        report.node, report.reachable = node, True
        self._heard[node] = report
        self._finish_if_all(now)

    def tick(self, now: float) -> None:
        """Answer with what has come when the time is over."""
        if now >= self.deadline:
            self._finish(now)

    def _finish_if_all(self, now: float) -> None:
        if len(self._heard) == len(self._peers):
            self._finish(now)

    def _finish(self, now: float) -> None:
        settings, heard = self._settings, self._heard
        self.deadline = math.inf
        reports = [self._own(now), *(heard[peer] for peer in self._peers if peer in heard)]
        _add_lag(reports)
        members: list[MemberReport | Unreachable] = [*reports]
        members += [Unreachable(peer) for peer in self._peers if peer not in heard]
        members.sort(key=lambda member: member.node)
        answer = json.encode(ClusterReport(settings.node, settings.cluster, members))
        askers, self._askers = self._askers, []
        for reply in askers:
            reply(answer)

    # ── this node's own ──

    def _own(self, now: float) -> MemberReport:
        known = self._core.status()
        heads, committed = known["heads"], known["committed"]
        shown = nsmallest(STREAMS_MAX, heads)
        return MemberReport(
            node=self._settings.node,
            role=known["role"],
            epoch=known["epoch"],
            owner=known["owner"],
            lease_s=known["lease_s"],
            active=known["active"],
            waiting_for=known["waiting_for"],
            changing=known["changing"],
            full=known["full"],
            lacking={str(node): count for node, count in known["lacking"].items()},
            leader=self._elector.leader,
            durability=self._settings.durability,
            streams=[self._stream(stream, heads[stream], committed.get(stream), now) for stream in shown],
            streams_left_out=len(heads) - len(shown),
            usage={**self._store.usage(), **self._data.usage(), "messages_refused": self._mesh.refused},
            hangs=known["hangs"],
            withheld=[*known["withheld"][:WITHHELD_MAX]],
            withheld_left_out=max(0, len(known["withheld"]) - WITHHELD_MAX),
        )

    def _stream(
        self, stream: StreamName, head: Head, committed: tuple[int, int] | None, now: float
    ) -> StreamReport:
        since, digest = self._arrived.get(stream, (None, None))
        if digest != head.digest:  # it is older than this process
            since = None
        position = self._committed.get(stream)
        if committed == (head.generation, head.sequence):
            position = head.position
        return StreamReport(
            stream=stream,
            head=Place(head.epoch, head.sequence),
            commit=Place(position.epoch, position.sequence) if position is not None else None,
            deleted=head.tombstone,
            readable=head.readable,
            bytes=self._store.head_bytes(stream),
            age_s=round(now - since, 3) if since is not None else None,
        )


def _add_lag(members: list[MemberReport]) -> None:
    """Say of each member what it lacks of each stream's newest head, streams it knows nothing of included.

    None of a stream that a member has left out: that one may have a newer head of it than all that are told.
    """
    newest: dict[str, StreamReport] = {}
    for member in members:
        for stream in member.streams:
            if stream.stream not in newest or stream.order > newest[stream.stream].order:
                newest[stream.stream] = stream
    cut = [max((s.stream for s in m.streams), default="") for m in members if m.streams_left_out]
    for member in members:
        known = {stream.stream for stream in member.streams}
        if not member.streams_left_out:
            member.streams += [StreamReport(stream=name) for name in newest if name not in known]
        for stream in member.streams:
            first = newest[stream.stream]
            if any(stream.stream > last for last in cut):
                stream.lag_bytes = stream.lag_s = None
            elif stream.order < first.order:
                stream.lag_bytes, stream.lag_s = first.bytes, first.age_s
            else:
                stream.lag_bytes, stream.lag_s = 0, 0.0


def _pack(report: MemberReport) -> bytes:
    """The report within its bound; as many of the last streams go as it takes."""
    while len(packed := zlib.compress(json.encode(report), zlib.Z_BEST_SPEED)) > REPORT_BYTES_MAX:
        kept = len(report.streams) * REPORT_BYTES_MAX // len(packed)
        report.streams_left_out += len(report.streams) - kept
        del report.streams[kept:]
    return packed


def _unpack(packed: bytes) -> MemberReport | None:
    """The report, if it is one."""
    try:
        unpacked = zlib.decompressobj().decompress(packed, UNPACKED_BYTES_MAX)
        return json.decode(unpacked, type=MemberReport)
    except (zlib.error, *UNREADABLE):
        return None
