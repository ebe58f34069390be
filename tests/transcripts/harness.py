"""Transcripts: scenario files of a command and the full log that it leads to, compared word by word.

They are test, tutorial and proof at once. A block is a line of command, a line of dashes, and the log; an
empty line ends it. Lines that begin with # are prose. `pytest tests/transcripts --record` writes the logs
anew; read the difference before it is committed. After etcd-io/raft's datadriven tests.

Nothing happens by itself here: what a core asks for waits until a command lets it happen.

    founded a b c      three members with stores in which the cluster is founded
    new a b c          three members with empty stores
    grant a, revoke a  what the elector says
    deliver [a->b|*] [Kind]   control messages that wait, in order; drop: lose them instead
    sync [a ...]       let the disks finish what is queued
    publish [a ...]    let the publishers broadcast what is queued; lose: only into the own store
    fetch [a ...]      let the fetches that are under way run
    primary a          the elector names a, and all that follows happens, a heartbeat included
    settle             all of these, again and again, until nothing is left; no time passes
    advance 0.5        let time pass; timers that come due are handled
    live 0.5           let time pass in small steps, each followed by `settle`
    submit a s 1, delete a s 2, resign a [b], engine a gone|there    what the engine asks
    handover a [b], abandon a s     what an operator asks
    quiet ...          any command, without its log
    pause a, resume a  the control thread stands still; what comes for it waits
    crash a, start a, wipe a, put_back a (the disk from before), rot a s, cut a b, mend a b, status a
    full a, brimful a, room a, hang a, go_on a      what becomes of its disk
    stuck a            its store says that the disk hangs
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from replicator.codec.frames import decode_envelope
from replicator.core.config import Config
from replicator.core.effects import Changed, Notice, RememberCounters, Send
from replicator.core.events import AbandonAsked, Durable, Received, StoreHangs, Tick
from replicator.core.replica import Replica
from replicator.model import Incarnation, Member, MemberRecord, NodeId, Process, Sequence, StreamName
from tests.simulation.clock import Clock
from tests.simulation.data import report_rot
from tests.simulation.disk import Disk
from tests.simulation.image import Image
from tests.simulation.network import Weather
from tests.simulation.node import Node
from tests.simulation.trace import show
from tests.simulation.world import DiskType, Plan, World

PLAN = Plan(
    node_count=0, stream_count=0, engine_chance=1.0, fault_s=0.0, fault_mean_s=1.0,
    submit_mean_s=1e9, delete_chance=0.0, heartbeat_interval_s=0.06, lease_s=0.3,
)  # fmt: skip
ROUNDS_MAX = 200
LIVE_STEP_S = 0.05


class Waiting:
    """Something that a core or an adapter has asked for, and that a command lets happen."""

    def __init__(self, due: float, function: Callable[..., None], args: tuple[object, ...]) -> None:
        self.due = due
        self.args = args
        self.function = function
        while self.function.__name__ == "_if_alive":
            self.function = self.args[1]  # type: ignore[assignment]
            self.args = self.args[2]  # type: ignore[assignment]
        self.name = self.function.__name__
        self._outer = (function, args)

    @property
    def owner(self) -> str:
        """The node that it belongs to."""
        subject = getattr(self.function, "__self__", None)
        node = subject if isinstance(subject, Node) else getattr(subject, "_node", None)
        return node.name if isinstance(node, Node) else str(getattr(subject, "node", ""))

    def happen(self) -> None:
        function, args = self._outer
        function(*args)


class Bench(World):
    """A world in which nothing happens unless a command says so."""

    def __init__(self) -> None:
        self.waiting: list[Waiting] = []
        self._stores: dict[NodeId, int] = {}
        self._starts: dict[NodeId, int] = {}
        self._shelf: dict[NodeId, Image] = {}  # disks that empty ones have taken the place of
        super().__init__(0, PLAN, Replica)
        self.network.weather = Weather(delay_min_s=0.0, delay_mean_s=0.0)
        self.lines: list[str] = []
        self._shown = 0

    def schedule(self, delay: float, function: Callable[..., None], *args: object) -> None:
        self.waiting.append(Waiting(self.now + max(0.0, delay), function, args))

    def _make_nodes(self, disk_type: DiskType) -> None:
        """Nodes are made by commands."""

    def new_process(self, node: NodeId) -> Process:
        """Ids that tell in a log whose process it is: a/1, after a restart a/2."""
        self._starts[node] = self._starts.get(node, 0) + 1
        return Process(f"{node}/{self._starts[node]}".encode().ljust(16, b"\0"))

    def new_store(self, node: NodeId) -> Incarnation:
        """Ids that tell whose store it is: a#1, after a wipe a#2."""
        self._stores[node] = self._stores.get(node, 0) + 1
        return Incarnation(f"{node}#{self._stores[node]}".encode().ljust(16, b"\0"))

    # ── commands ──

    def run(self, command: str) -> list[str]:
        """Run a command; return the log lines of what it led to."""
        quiet = command.startswith("quiet ")
        name, *args = command.removeprefix("quiet ").split()
        self._run(name, args)
        entries = self.trace.entries[self._shown :]
        self._shown = len(self.trace.entries)
        lines = self.lines + [
            line for _, who, verb, subject in entries for line in _lines(who, verb, subject)
        ]
        self.lines = []
        return ["..."] if quiet else lines or ["nothing"]

    def _run(self, name: str, args: list[str]) -> None:
        simple: dict[str, Callable[[Node], None]] = {
            "grant": Node.grant,
            "revoke": Node.revoke,
            "crash": Node.crash,
            "start": self._start,
            "pause": lambda node: node.pause(disk_too=False),
            "resume": Node.resume,
            "full": lambda node: node.disk.set_full(True),
            "brimful": lambda node: node.disk.set_full(True, brimful=True),
            "room": lambda node: node.disk.set_full(False),
            "hang": lambda node: node.disk.set_stopped(True),
            "go_on": lambda node: node.disk.set_stopped(False),
            "stuck": lambda node: node.deliver(StoreHangs(True)),
            "status": self._status,
            "wipe": self._wipe,
            "put_back": lambda node: node.disk.replace(self._shelf.pop(node.name)),
        }
        if name in simple:
            for each in args:
                simple[name](self.nodes[NodeId(each)])
        else:
            getattr(self, f"_do_{name}")(*args)

    def _do_new(self, *names: str) -> None:
        everybody = frozenset(NodeId(name) for name in names)
        for name in sorted(everybody):
            config = Config(node=name, peers=everybody - {name})
            disk = Disk(name, self.new_store(name), self.random, self.schedule)
            disk.wrote = self._wrote
            self.nodes[name] = Node(self, name, config, Clock(1.0, 100.0), disk)

    def _do_founded(self, *names: str) -> None:
        self._do_new(*names)
        members = (Member(n, node.disk.image.incarnation) for n, node in self.nodes.items())
        record = MemberRecord(1, tuple(sorted(members)))
        for node in self.nodes.values():
            node.disk.image.record, node.disk.image.founded = record, True
            self._start(node)

    def _wipe(self, node: Node) -> None:
        self._shelf[node.name] = node.disk.image
        node.disk.replace(Image(self.new_store(node.name)))

    def _start(self, node: Node) -> None:
        node.start()
        self._let(lambda one: one.name == "_engine_ready")

    def _do_resign(self, name: str, successor: str = "") -> None:
        self.nodes[NodeId(name)].engine.resign(NodeId(successor) if successor else None)

    def _do_handover(self, name: str, successor: str = "") -> None:
        self.nodes[NodeId(name)].engine.resign(NodeId(successor) if successor else None, if_able=True)

    def _do_engine(self, name: str, what: str) -> None:
        self.nodes[NodeId(name)].engine.set_there(what == "there")

    def _do_submit(self, name: str, stream: str, sequence: str) -> None:
        self._submit(name, stream, sequence, deletes=False)

    def _do_delete(self, name: str, stream: str, sequence: str) -> None:
        self._submit(name, stream, sequence, deletes=True)

    def _submit(self, name: str, stream: str, sequence: str, *, deletes: bool) -> None:
        engine = self.nodes[NodeId(name)].engine
        engine.submit(StreamName(stream), Sequence(int(sequence)), b"", deletes=deletes)

    def _do_abandon(self, name: str, stream: str) -> None:
        self.nodes[NodeId(name)].deliver(AbandonAsked(StreamName(stream)))

    def _do_rot(self, name: str, stream: str) -> None:
        node = self.nodes[NodeId(name)]
        node.disk.damage(StreamName(stream))
        for digest in sorted(node.disk.image.damaged):
            report_rot(node, digest)

    def _do_cut(self, left: str, right: str) -> None:
        self.network.cut([(NodeId(left), NodeId(right)), (NodeId(right), NodeId(left))])

    def _do_mend(self, left: str, right: str) -> None:
        self.network.mend([(NodeId(left), NodeId(right)), (NodeId(right), NodeId(left))])

    def _do_deliver(self, link: str = "*", kind: str = "") -> None:
        self._let(lambda one: self._is_message(one, link, kind))

    def _do_drop(self, link: str = "*", kind: str = "") -> None:
        chosen = [one for one in self.waiting if self._is_message(one, link, kind)]
        self.waiting = [one for one in self.waiting if one not in chosen]
        self.lines.append(f"{len(chosen)} dropped")

    def _do_sync(self, *names: str) -> None:
        while self._let(lambda one: one.name == "_synced" and _among(one.owner, names)):
            pass

    def _do_publish(self, *names: str) -> None:
        self._let(lambda one: one.name == "_publish" and _among(one.owner, names))
        self._let(lambda one: one.name == "_arrive" and len(one.args) == 3 and isinstance(one.args[0], Node))

    def _do_lose(self, *names: str) -> None:
        self._let(lambda one: one.name == "_publish" and _among(one.owner, names))
        self.waiting = [
            one for one in self.waiting if not (one.name == "_arrive" and isinstance(one.args[0], Node))
        ]

    def _do_fetch(self, *names: str) -> None:
        self._let(lambda one: one.name in ("_gather", "_fail") and _among(one.owner, names))

    def _do_settle(self) -> None:
        for _ in range(ROUNDS_MAX):
            names = ("_arrive", "_synced", "_publish", "_gather", "_fail", "report_rot", "_hand_in")
            if not self._let(lambda one: one.name in names):  # noqa: B023
                return
        self.lines.append("never settles")

    def _do_primary(self, name: str) -> None:
        self.nodes[NodeId(name)].grant()
        for _ in range(2):
            self._do_settle()
            self._do_advance("0.07")
        self._do_settle()

    def _do_live(self, seconds: str) -> None:
        for _ in range(round(float(seconds) / LIVE_STEP_S)):
            self._do_advance(str(LIVE_STEP_S))
            self._do_settle()

    def _do_advance(self, seconds: str) -> None:
        end = self.now + float(seconds)
        while True:
            ticks = [one for one in self.waiting if one.name == "_tick" and one.due <= end]
            if not ticks:
                break
            first = min(ticks, key=lambda one: one.due)
            self.now = max(self.now, first.due)
            self.waiting.remove(first)
            first.happen()
        self.now = end

    def _status(self, node: Node) -> None:
        assert node.replica is not None
        status = json.dumps(node.replica.status(), default=str, sort_keys=True)
        self.lines.append(f"{node.name} {status}")

    # ── what waits ──

    def _let(self, chosen: Callable[[Waiting], bool]) -> bool:
        """Let what is chosen of what waits now happen, in order."""
        now = [one for one in self.waiting if chosen(one)]
        self.waiting = [one for one in self.waiting if one not in now]
        for one in now:
            one.happen()
        return bool(now)

    def _is_message(self, one: Waiting, link: str, kind: str) -> bool:
        if one.name != "_arrive" or not isinstance(one.args[2], bytes):
            return False
        source, to, frame = one.args
        assert isinstance(frame, bytes)
        wanted = [("*", "*")] if link == "*" else [tuple(link.split("->"))]
        matches = any(a in ("*", source) and b in ("*", to) for a, b in wanted)
        return matches and (not kind or kind == self.kind_of(frame))

    @staticmethod
    def kind_of(frame: bytes) -> str:
        """The kind of message in a frame."""
        return type(decode_envelope(frame).message).__name__


def _among(name: str, names: tuple[str, ...]) -> bool:
    return not names or name in names


def _lines(who: str, verb: str, subject: object) -> list[str]:
    """An entry of the trace in the words of transcripts; counters are left out."""
    match subject:
        case RememberCounters():
            return []
        case Tick():
            return [f"{who} tick"]
        case Send(to, message):
            return [f"{who} -> {to}  {show(message)}"]
        case Received(node, _, _, _, _, message):
            return [f"{who} <- {node}  {show(message)}"]
        case Durable():
            heads = f", {show(subject.heads)}" if subject.heads else ""
            return [f"{who} starts on {show(subject.incarnation)}, promised {show(subject.promise)}{heads}"]
        case Changed(old, new, reason):
            return [f"{who} {old} -> {new}: {reason}"]
        case Notice(text):
            return [f"{who} notes: {text}"]
    mark = {"handle": "<", "do": ">"}.get(verb, verb)
    return [f"{who} {mark} {show(subject)}".rstrip()]


def play(path: Path) -> str:
    """Run a scenario file; return it with the logs as they are now."""
    bench = Bench()
    out: list[str] = []
    lines = iter(path.read_text().splitlines())
    for line in lines:
        if not line.strip() or line.startswith("#"):
            out.append(line)
            continue
        out += [line, "----", *bench.run(line)]
        for skipped in lines:
            if not skipped.strip():
                break
        out.append("")
    return "\n".join(out).rstrip("\n") + "\n"
