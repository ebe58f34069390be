"""Every ``REPLICATOR_*`` variable, in one typed table: type, range, unit, meaning, default.

The class `Settings` is the table. Parsing, checking, ``replicator config`` and the README's table all
come from it, so a setting is added in one place. An attribute's name is its variable's name in lower
case, without the prefix. Whatever `Settings` object exists is valid: each value is within its range, and
the relations between values hold (R26: the lease ends before the shortest election timeout does).

The engine's process imports this module, so it needs nothing but msgspec.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal, cast, get_args, get_origin

import msgspec
from msgspec import Meta, Struct, field
from msgspec.structs import FieldInfo

from replicator.addresses import Address, format_address, format_peers, parse_peers, peer_problems
from replicator.errors import SettingsError
from replicator.model import NodeId
from replicator.profiles import PROFILES
from replicator.relations import RELATIONS
from replicator.sizes import GIB, KIB, MIB, format_stream_sizes, parse_size, parse_stream_sizes

PREFIX = "REPLICATOR_"
SCRIPT_NAMES = frozenset({"REPLICATOR_VENV"})  # read by scripts/setup; no setting of the library

_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}\Z"
_NAME_WORDS = "of 1 to 63 letters, digits, '_', '.' or '-', but no '.' or '-' first"
_Node = Annotated[NodeId, Meta(pattern=_NAME)]
_ChunkBytes = Annotated[int, Meta(ge=KIB, le=16 * MIB)]


def _seconds(low: float, high: float, meaning: str) -> Meta:
    return Meta(ge=low, le=high, description=meaning, extra={"unit": "s"})


def _bytes(low: int, high: int, meaning: str) -> Meta:
    return Meta(ge=low, le=high, description=meaning, extra={"unit": "bytes"})


def _count(low: float, high: float, meaning: str) -> Meta:
    return Meta(ge=low, le=high, description=meaning)


def _name(meaning: str) -> Meta:
    return Meta(pattern=_NAME, description=meaning)


def _text(meaning: str) -> Meta:
    return Meta(description=meaning)


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """Where the store lives unless ``REPLICATOR_DATA_DIR`` says otherwise; in ~ if no home is known."""
    state = environ.get("XDG_STATE_HOME")
    home = Path(environ.get("HOME") or os.path.expanduser("~"))  # which, unlike Path's, never raises
    return (Path(state) if state else home / ".local" / "state") / "replicator"


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of one node. Raises `SettingsError` if they are wrong, one line per wrong one.

    What is not given is at its default; only `from_env` looks the timers of *profile* up (`profiles`).
    """

    # fmt: off
    node: Annotated[NodeId, _name(
        "this node's name; one of the peers")] = NodeId("local")
    peers: Annotated[dict[_Node, Address], _text(
        "all nodes, this one too: name=host:port,…; each uses port (control), +1 (repair), +2 (publish)"
    )] = field(default_factory=dict)
    data_dir: Annotated[Path, _text(
        "the node's store, for one process at a time; by default in the user's state directory"
    )] = field(default_factory=lambda: default_data_dir(os.environ))
    cluster: Annotated[str, _name(
        "the cluster's name; nodes of another cluster are refused")] = "replicator"
    isolation: Annotated[Literal["process", "thread"], _text(
        "where the worker runs: a child process, out of the engine's GIL, or a thread")] = "process"
    acks: Annotated[Literal["quorum", "local", "all"], _text(
        "when a ticket ends: held by a majority; by this node alone (weaker); by all that are up")] = "quorum"
    durability: Annotated[Literal["disk", "memory"], _text(
        "disk: synced before acknowledged; memory: not safe from a majority's power loss")] = "disk"
    secret_key_file: Annotated[Path | None, _text(
        "this node's CURVE secret key; without keys only loopback addresses are allowed")] = None
    peer_keys_file: Annotated[Path | None, _text(
        "the public keys of all nodes, a line node=key each; nobody else is let in")] = None

    profile: Annotated[Literal["default", "fast", "wan"], _text(
        "a set of timers; a timer that is set itself overrides it")] = "default"
    heartbeat_interval_s: Annotated[float, _seconds(0.001, 20,
        "between the primary's heartbeats")] = 0.06
    lease_s: Annotated[float, _seconds(0.005, 60,
        "how long a heartbeat's answer lends the right to be primary")] = 0.3
    lease_max_s: Annotated[float, _seconds(0.005, 60,
        "the longest lease anybody may ask for; what a restarted lender waits")] = 1.0
    clock_rate_bound: Annotated[float, _count(0, 0.2,
        "how far the rates of two nodes' clocks may be apart, as a fraction")] = 0.01
    hello_interval_s: Annotated[float, _seconds(0.005, 60,
        "between greetings while founding or joining")] = 0.5
    claim_timeout_s: Annotated[float, _seconds(0.005, 60,
        "how long a claim waits for its majority; twice as long after each that was too short")] = 0.5
    claim_retry_min_s: Annotated[float, _seconds(0.001, 60,
        "shortest pause after a lost claim")] = 0.05
    claim_retry_max_s: Annotated[float, _seconds(0.001, 60,
        "longest pause after a lost claim")] = 0.3
    fetch_retry_s: Annotated[float, _seconds(0.001, 60,
        "pause before a failed fetch is tried again")] = 0.2
    behind_interval_s: Annotated[float, _seconds(0.001, 60,
        "how often a lagging backup is told what it lacks")] = 0.2
    bump_after_s: Annotated[float, _seconds(0.005, 600,
        "members stuck at a higher promise for so long: the primary claims above them")] = 1.0
    lapse_max_s: Annotated[float, _seconds(0.005, 3600,
        "a tenure without the lease, or whose disk hangs, for longer ends for good")] = 5.0
    hand_over_after_s: Annotated[float, _seconds(0.005, 600,
        "another is elected, or no lease is lent, for so long: another takes over")] = 2.0

    election_timeout_min_s: Annotated[float, _seconds(0.01, 120,
        "shortest silence after which a node stands for election")] = 0.4
    election_timeout_max_s: Annotated[float, _seconds(0.01, 120,
        "longest such silence; each node draws its own")] = 0.6
    raft_append_interval_s: Annotated[float, _seconds(0.001, 10,
        "between the elector's own heartbeats")] = 0.08
    leader_fallback_s: Annotated[float, _seconds(0.005, 120,
        "an elected leader that hears no majority for so long steps down")] = 0.4
    elector_tick_interval_s: Annotated[float, _seconds(0.001, 1,
        "how often the elector runs")] = 0.02

    chunk_bytes: Annotated[int, _bytes(KIB, 16 * MIB,
        "the size of a chunk, sent and stored as one; up to 1 MiB where nothing is found again")] = 256 * KIB
    stream_chunk_bytes: Annotated[dict[str, _ChunkBytes], Meta(extra={"unit": "bytes"}, description=
        "a fixed size for some streams: name=size,… where name may be a pattern, the first that fits counts"
    )] = field(default_factory=dict)
    window_bytes_max: Annotated[int, _bytes(MIB, 4 * GIB,
        "published, not yet taken by the fastest majority; all streams wait behind it")] = 32 * MIB
    payload_bytes_max: Annotated[int, _bytes(1, 16 * GIB,
        "the largest checkpoint; a larger one is refused")] = GIB
    backlog_bytes_max: Annotated[int, _bytes(1, 64 * GIB,
        "all checkpoints that wait in the engine; past it submit() refuses")] = 2 * GIB
    keep: Annotated[int, _count(0, 1000,
        "older committed checkpoints kept for each stream")] = 1
    writer_queue_bytes_max: Annotated[int, _bytes(MIB, 4 * GIB,
        "chunks that wait for the disk")] = 32 * MIB
    transaction_bytes_max: Annotated[int, _bytes(KIB, 64 * MIB,
        "chunks in one disk transaction; past 1 MiB only what the disk writes in 20 ms")] = 4 * MIB
    fetch_credit: Annotated[int, _count(1, 64,
        "MiB asked for at a time, from each node")] = 4
    fetch_bytes_per_s: Annotated[int, _bytes(0, 64 * GIB,
        "while others commit, a node that lags fetches no more in a second; 0: as much as it can")] = 64 * MIB
    publish_queue_messages: Annotated[int, _count(1, 65_536,
        "messages that wait for one subscriber; more are dropped and fetched later")] = 64
    disk_reserve_bytes: Annotated[int, _bytes(0, 64 * GIB,
        "room on the disk that checkpoints leave for promises")] = 16 * MIB
    map_bytes_initial: Annotated[int, _bytes(MIB, 1024 * GIB,
        "the store's first map; it grows by itself")] = 64 * MIB
    scrub_interval_s: Annotated[float, _seconds(0, 31_536_000,
        "how often every stored chunk is verified; 0: never")] = 3600.0

    close_timeout_s: Annotated[float, _seconds(0, 600,
        "how long close(), or the end of `with`, waits for the last commit and the handover")] = 5.0
    worker_restarts_max: Annotated[int, _count(0, 1000,
        "a worker that died more often in a row is given up")] = 5
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], _text(
        "of the worker and the commands")] = "INFO"
    # fmt: on

    def __post_init__(self) -> None:
        problems = _wrong_values(self)
        _raise(problems | _misfits(msgspec.structs.asdict(self), set(problems)), [])

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read all variables of *environ* (the process's own by default); an empty one counts as unset.

        Raises `SettingsError` with one line per wrong variable; nothing has been started then.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {"data_dir": default_data_dir(environ)}
        problems: dict[str, str] = {}
        for name, info in _FIELDS.items():
            if text := environ.get(variable(name), "").strip():
                try:
                    values[name] = _parse(info, text)
                except ValueError as error:
                    problems[name] = str(error)
        if "peers" in values and not {"node"} & (values.keys() | problems.keys()):
            problems["node"] = f"not set; it must be one of the peers: {', '.join(values['peers'])}"
        if "profile" not in problems:
            values = dict(PROFILES[values.get("profile", "default")]) | values
        drafted = {name: _default(info) for name, info in _FIELDS.items()} | values
        _raise(problems | _misfits(drafted, set(problems)), _unknown(environ))
        return cls(**values)

    @classmethod
    def from_json(cls, data: bytes) -> Settings:
        """The settings that `to_json` wrote; how an engine hands its own to its worker."""
        return msgspec.json.decode(data, type=cls, dec_hook=lambda kind, value: kind(value))

    def to_json(self) -> bytes:
        """All settings, for `from_json`."""
        return msgspec.json.encode(self, enc_hook=str)

    def to_env(self) -> dict[str, str]:
        """The variables that give these settings again; those at their default are left out."""
        return {row.name: row.value for row in table(self) if row.value != row.default}

    def located(self) -> Settings:
        """With absolute paths: they lead to the same places from wherever they are followed."""
        given = msgspec.structs.asdict(self).items()
        paths = {name: value.absolute() for name, value in given if isinstance(value, Path)}
        return msgspec.structs.replace(self, **paths)

    def chunk_bytes_of(self, stream: str) -> int:
        """The size of the stream's chunks."""
        return self.own_chunk_bytes_of(stream) or self.chunk_bytes

    def own_chunk_bytes_of(self, stream: str) -> int | None:
        """The size that is set for the stream, if one is."""
        fitting = (size for pattern, size in self.stream_chunk_bytes.items() if fnmatchcase(stream, pattern))
        return next(fitting, None)

    @property
    def standalone(self) -> bool:
        """Whether there is nobody to replicate to."""
        return not self.peers

    @property
    def address(self) -> str:
        """This node's own ``host:port``; '' when standalone."""
        return format_address(self.peers[self.node]) if self.peers else ""


class Row(Struct, frozen=True):
    """One setting as people read it: all texts. *default* is the profile's; with peers *node* has none."""

    name: str
    value: str
    default: str
    unit: str
    allowed: str
    meaning: str


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def table(settings: Settings | None = None) -> list[Row]:
    """All settings in their order; without *settings*, at their defaults."""
    profile, peers = ("default", {}) if settings is None else (settings.profile, settings.peers)
    return [
        Row(
            name=variable(name),
            value=_format(_default(info) if settings is None else getattr(settings, name)),
            default="" if peers and info.name == "node" else _format(_default(info, profile)),
            unit=_unit(info),
            allowed=_allowed(info),
            meaning=_meta(info).description or "",
        )
        for name, info in _FIELDS.items()
    ]


def markdown() -> str:
    """The README's tables of settings and of profiles; they name no directory of this machine."""
    lines = ["| variable | default | unit | meaning |", "|---|---|---|---|"]
    for row in table():
        default = f"`{row.default}`" if row.default and row.name != variable("data_dir") else ""
        lines.append(f"| `{row.name}` | {default} | {row.unit} | {row.meaning} |")
    lines += ["", "| `REPLICATOR_PROFILE` | " + " | ".join(f"`{name}`" for name in PROFILES) + " |"]
    lines.append("|---" * (len(PROFILES) + 1) + "|")
    for name, info in _FIELDS.items():
        if any(name in timers for timers in PROFILES.values()):
            values = " | ".join(f"{_format(_default(info, profile))} s" for profile in PROFILES)
            lines.append(f"| `{variable(name)}` | {values} |")
    return "\n".join(lines)


def _format(value: Any) -> str:
    if isinstance(value, dict):
        is_sizes = any(isinstance(each, int) for each in value.values())
        return format_stream_sizes(value) if is_sizes else format_peers(value)
    return "" if value is None else repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


_FIELDS: dict[str, FieldInfo] = {info.name: info for info in msgspec.structs.fields(Settings)}


def _meta(info: FieldInfo) -> Meta:
    return cast(Meta, get_args(info.type)[1])


def _unit(info: FieldInfo) -> str:
    return str((_meta(info).extra or {}).get("unit", ""))


def _default(info: FieldInfo, profile: str = "default") -> Any:
    if info.name in PROFILES[profile]:
        return PROFILES[profile][info.name]
    return info.default_factory() if callable(info.default_factory) else info.default


def _allowed(info: FieldInfo) -> str:
    kind, meta = get_args(info.type)[0], _meta(info)
    if get_origin(kind) is Literal:
        return "one of: " + ", ".join(get_args(kind))
    if meta.pattern:
        return f"a name {_NAME_WORDS}"
    if meta.ge is not None and meta.le is not None:
        noun = "a number" if kind is float else "a whole number"
        units = ", or as many KiB, MiB or GiB" if _unit(info) == "bytes" else ""
        return f"{noun} from {meta.ge:.15g} to {meta.le:.15g} {_unit(info)}".rstrip() + units
    if info.name == "stream_chunk_bytes":
        return f"stream=size,… with sizes from {KIB} to {16 * MIB} bytes"
    return f"name=host:port,… with names {_NAME_WORDS}" if info.name == "peers" else "a path"


def _parse(info: FieldInfo, text: str) -> Any:
    """The value of a variable's text; raises ValueError that says what is wrong and what is allowed."""
    kind = get_args(info.type)[0]
    if Path in (kind, *get_args(kind)):
        try:
            return Path(text).expanduser()
        except RuntimeError:
            raise ValueError(f"{text!r} is in the home directory of nobody known here") from None
    given: object = parse_size(text) if _unit(info) == "bytes" else text
    if info.name == "peers":
        given = parse_peers(text)
    if info.name == "stream_chunk_bytes":
        given = parse_stream_sizes(text)
    try:
        return msgspec.convert(given, info.type, strict=False)
    except (msgspec.ValidationError, UnicodeEncodeError):
        raise ValueError(f"{text!r} is not {_allowed(info)}") from None


def _unknown(environ: Mapping[str, str]) -> list[str]:
    given = {name.removeprefix(PREFIX) for name in environ.keys() - SCRIPT_NAMES if name.startswith(PREFIX)}
    known = {name.upper() for name in _FIELDS}
    if given <= known:
        return []
    from difflib import get_close_matches  # needed only when something is wrong

    near = {name: get_close_matches(name, known, n=1) for name in sorted(given - known)}
    return [
        f"{PREFIX}{name}: no such setting" + "".join(f"; did you mean {PREFIX}{each}?" for each in matches)
        for name, matches in near.items()
    ]


def _wrong_values(settings: Settings) -> dict[str, str]:
    """By name, what is wrong with single values; texts were checked before, given objects are here."""
    problems: dict[str, str] = {}
    for name, info in _FIELDS.items():
        value = getattr(settings, name)
        try:
            right = isinstance(value, Path) or msgspec.convert(value, info.type) == value
        except (msgspec.ValidationError, UnicodeEncodeError):
            right = False
        if not right:
            words = _allowed(info)
            problems[name] = f"{value!r} is not {'a pathlib.Path' if words == 'a path' else words}"
    return problems


def _misfits(values: Mapping[str, Any], wrong: set[str]) -> dict[str, str]:
    """By name, what is wrong with texts and between values; what concerns a *wrong* one is left out."""
    shown = {name: _format(value) for name, value in values.items() if name not in wrong}
    problems = {n: f"{s!r} is not UTF-8" for n, s in shown.items() if s.encode(errors="ignore").decode() != s}
    draft = SimpleNamespace(**values)
    for relation in RELATIONS:
        first, *others = relation.names
        if wrong.isdisjoint(relation.names) and first not in problems and not relation.holds(draft):
            rest = ", ".join(f"{name} is {shown[name] or 'not set'}" for name in others)
            problems[first] = f"{shown[first] or 'not set'} does not fit: {relation.text}; {rest}"
    if "data_dir" not in wrong and values["data_dir"] == default_data_dir({"HOME": "~"}):
        problems["data_dir"] = "not set, and no home directory is known for the default; set it"
    peers, node = values["peers"], values["node"]
    if peers and "peers" not in wrong | problems.keys():
        if texts := list(peer_problems(peers, has_keys=values["secret_key_file"] is not None)):
            problems["peers"] = "; ".join(texts)
        if node not in peers and "node" not in wrong:
            problems["node"] = f"{node!r} is not one of the peers: {', '.join(peers)}"
    return problems


def _raise(problems: Mapping[str, str], unknown: list[str]) -> None:
    if problems or unknown:
        ordered = [f"{variable(name)}: {problems[name]}" for name in _FIELDS if name in problems]
        raise SettingsError(unknown + ordered)
