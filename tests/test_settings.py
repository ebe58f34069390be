"""Settings: every variable in one table, wrong ones refused with a line each, relations checked together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import hypothesis
import pytest
from hypothesis import given, strategies as st

from replicator.addresses import format_address, format_peers, is_loopback, parse_address, parse_peers
from replicator.core.config import Config
from replicator.errors import SettingsError
from replicator.model import NodeId
from replicator.profiles import PROFILES
from replicator.relations import RELATIONS
from replicator.settings import Settings, markdown, table, variable
from replicator.sizes import MIB
from replicator.worker.config import core_config

PEERS = "edge-1=127.0.0.1:7400,edge-2=127.0.0.1:7410,edge-3=[::1]:7400"
NAME_WORDS = "of 1 to 63 letters, digits, '_', '.' or '-', but no '.' or '-' first"
steady = hypothesis.settings(deadline=None, derandomize=True)
CLUSTER = {"REPLICATOR_NODE": "edge-2", "REPLICATOR_PEERS": PEERS}


def problems(environ: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(environ)
    return caught.value.problems


def test_nothing_set_is_a_standalone_node() -> None:
    """Without any variable there is a valid, standalone node with its store in the user's directory."""
    settings = Settings.from_env({"HOME": "/home/somebody", "UNRELATED": "1"})
    assert settings.standalone
    assert settings.node == "local"
    assert settings.address == ""
    assert settings.data_dir == Path("/home/somebody/.local/state/replicator")
    assert Settings.from_env({"XDG_STATE_HOME": "/state"}).data_dir == Path("/state/replicator")


def test_a_cluster_is_a_name_and_a_list() -> None:
    """Two variables are enough for a cluster on one machine."""
    settings = Settings.from_env(CLUSTER)
    assert settings.peers[NodeId("edge-3")] == ("::1", 7400)
    assert settings.address == "127.0.0.1:7410"
    assert not settings.standalone


def test_values_are_typed() -> None:
    """Numbers, sizes with a unit, choices and paths become what they are; an empty value counts as unset."""
    settings = Settings.from_env(
        {
            "REPLICATOR_LEASE_S": "0.2",
            "REPLICATOR_KEEP": "3",
            "REPLICATOR_CHUNK_BYTES": "128KiB",
            "REPLICATOR_WINDOW_BYTES_MAX": "1 GiB",
            "REPLICATOR_ACKS": "all",
            "REPLICATOR_DATA_DIR": "/data",
            "REPLICATOR_CLUSTER": "",
        }
    )
    assert (settings.lease_s, settings.keep, settings.chunk_bytes) == (0.2, 3, 131_072)
    assert (settings.window_bytes_max, settings.acks) == (2**30, "all")
    assert (settings.data_dir, settings.cluster) == (Path("/data"), "replicator")


def test_chunks_have_a_size_by_stream() -> None:
    """The first name or pattern that fits; all others have the general one. It survives every way back."""
    text = "orders=16KiB, sensor-*=1 MiB,sensor-7=64KiB,a=b=32KiB"
    settings = Settings.from_env({"REPLICATOR_STREAM_CHUNK_BYTES": text})
    sizes = [settings.chunk_bytes_of(name) for name in ("orders", "sensor-7", "a=b", "orders-2")]
    assert sizes == [2**14, 2**20, 2**15, 2**18]
    assert Settings.from_env(settings.to_env()) == settings == Settings.from_json(settings.to_json())


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("orders", "'orders' is not stream=size"),
        ("=16KiB", "'=16KiB' is not stream=size"),
        ("s=16KiB,s=1MiB", "'s' has two sizes"),
        ("s=many", "with sizes from 1024 to 16777216 bytes"),
        ("s=100", "with sizes from 1024 to 16777216 bytes"),
    ],
)
def test_wrong_sizes_by_stream_are_told(text: str, what: str) -> None:
    """In one line."""
    (line,) = problems({"REPLICATOR_STREAM_CHUNK_BYTES": text})
    assert what in line


def test_the_home_of_nobody_is_told() -> None:
    """A path that begins with a user who does not exist is a wrong value like any other."""
    (problem,) = problems({"REPLICATOR_DATA_DIR": "~nobody-of-this-name/x"})
    assert problem.startswith("REPLICATOR_DATA_DIR: '~nobody-of-this-name/x' is in the home directory of")


def test_no_home_directory_is_told_unless_it_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where neither HOME nor the list of users names one, one line says what to set, and that is enough."""
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", Mock(side_effect=KeyError("uid not found")))
    line = "not set, and no home directory is known for the default; set it"
    assert problems({"REPLICATOR_KEEP": "-1"}) == [
        f"REPLICATOR_DATA_DIR: {line}",
        "REPLICATOR_KEEP: '-1' is not a whole number from 0 to 1000",
    ]
    with pytest.raises(SettingsError, match=f"^REPLICATOR_DATA_DIR: {line}$"):
        Settings()
    assert Settings.from_env(told := {"REPLICATOR_DATA_DIR": "/data"}).to_env() == told
    assert Settings.from_env({"XDG_STATE_HOME": "/state"}).data_dir == Path("/state/replicator")
    assert Settings.from_env({"HOME": "/home"}).data_dir == Path("/home/.local/state/replicator")
    assert markdown().count("REPLICATOR_DATA_DIR") == 1


def test_one_line_per_wrong_variable() -> None:
    """Each wrong variable has one line with its name, its value and what is allowed; all are told at once."""
    assert problems(
        {
            "REPLICATOR_LEASE_S": "soon",
            "REPLICATOR_HEARTBEAT_INTERVAL_S": "nan",
            "REPLICATOR_KEEP": "-1",
            "REPLICATOR_CHUNK_BYTES": "256 kB",
            "REPLICATOR_ISOLATION": "fork",
            "REPLICATOR_CLUSTER": "my cluster",
        }
    ) == [
        f"REPLICATOR_CLUSTER: 'my cluster' is not a name {NAME_WORDS}",
        "REPLICATOR_ISOLATION: 'fork' is not one of: process, thread",
        "REPLICATOR_HEARTBEAT_INTERVAL_S: 'nan' is not a number from 0.001 to 20 s",
        "REPLICATOR_LEASE_S: 'soon' is not a number from 0.005 to 60 s",
        "REPLICATOR_CHUNK_BYTES: '256 kB' is not a whole number from 1024 to 16777216 bytes, "
        "or as many KiB, MiB or GiB",
        "REPLICATOR_KEEP: '-1' is not a whole number from 0 to 1000",
    ]


def test_unknown_variables_are_errors() -> None:
    """A misspelt variable is never ignored; the nearest known one is offered. Scripts' own are let be."""
    assert problems({"REPLICATOR_LEESE_S": "1"}) == [
        "REPLICATOR_LEESE_S: no such setting; did you mean REPLICATOR_LEASE_S?"
    ]
    assert problems({"REPLICATOR_XYZZY": "1"}) == ["REPLICATOR_XYZZY: no such setting"]
    assert Settings.from_env({"REPLICATOR_VENV": "/venv", "REPLICATOR": "1"}).standalone


def test_the_lease_ends_before_the_shortest_election_timeout() -> None:
    """R26: lease plus one heartbeat interval is not longer than the shortest election timeout."""
    (line,) = problems({"REPLICATOR_LEASE_S": "0.35"})
    assert line == (
        "REPLICATOR_LEASE_S: 0.35 does not fit: lease_s + heartbeat_interval_s is at most "
        "election_timeout_min_s, or the lease delays takeovers; heartbeat_interval_s is 0.06, "
        "election_timeout_min_s is 0.4"
    )
    assert Settings.from_env({"REPLICATOR_LEASE_S": "0.34"}).lease_s == 0.34


@pytest.mark.parametrize(
    "values",
    [
        {"heartbeat_interval_s": "0.08", "lease_s": "0.2"},
        {"lease_s": "0.3", "lease_max_s": "0.2"},
        {"election_timeout_min_s": "0.4", "raft_append_interval_s": "0.14"},
        {"election_timeout_min_s": "0.9", "election_timeout_max_s": "0.9"},
        {"elector_tick_interval_s": "0.09"},
        {"claim_retry_min_s": "0.1", "claim_retry_max_s": "0.01"},
        {"chunk_bytes": "8MiB"},
        {"payload_bytes_max": "2GiB", "chunk_bytes": "16KiB"},
        {"payload_bytes_max": "1MiB", "backlog_bytes_max": "1000"},
        {"secret_key_file": "/keys/secret"},
        {"peer_keys_file": "/keys/peers"},
        {"stream_chunk_bytes": "s=2MiB", "transaction_bytes_max": "1MiB"},
        {"stream_chunk_bytes": "s=8KiB", "payload_bytes_max": "1GiB"},
    ],
)
def test_relations_are_checked(values: dict[str, str]) -> None:
    """Values that are fine alone but do not fit together are refused, in one line that names all of them."""
    (line,) = problems({variable(name): value for name, value in values.items()})
    assert "does not fit" in line
    assert all(name in line for name in values)


def test_each_relation_holds_between_known_settings_at_their_defaults() -> None:
    """The defaults fit together, a small writer's queue too; no relation names what is not a setting."""
    for settings in (Settings(), Settings(writer_queue_bytes_max=MIB)):
        assert all(relation.holds(settings) for relation in RELATIONS)
    assert {name for relation in RELATIONS for name in relation.names} <= set(Settings.__struct_fields__)


def test_a_relation_with_a_wrong_value_is_left_out() -> None:
    """A setting that cannot be read is not blamed a second time for not fitting to others."""
    assert len(problems({"REPLICATOR_ELECTION_TIMEOUT_MIN_S": "x", "REPLICATOR_LEASE_S": "0.9"})) == 1


@pytest.mark.parametrize(
    ("node", "peers", "text"),
    [
        ("", PEERS, "REPLICATOR_NODE: not set; it must be one of the peers: edge-1, edge-2, edge-3"),
        ("edge-4", PEERS, "REPLICATOR_NODE: 'edge-4' is not one of the peers: edge-1, edge-2, edge-3"),
        ("a", "a=127.0.0.1:7400", "1 node(s) named; 2 to 15 make a cluster, none means no replication"),
        ("a", "a=127.0.0.1:7400,b=127.0.0.1:7402", "a and b share a port; each uses 3, from its own on"),
        ("a", "a=127.0.0.1:7400,a=127.0.0.1:7410", "'a' is named twice"),
        ("a", "a=127.0.0.1:7400,b", "'b' is not name=host:port"),
        ("a", "a=127.0.0.1:7400,b=::1:7400", "an IPv6 host stands in brackets"),
        ("a", "a=127.0.0.1:7400,b=0.0.0.0:7410", "names no host that others can reach"),
        ("a", "a=127.0.0.1:7400,b=127.0.0.1:65535", "is not from 1 to 65533"),
        ("a", "a=127.0.0.1:7400,b=127.0.0.1:http", "is not host:port"),
        ("a", "a=127.0.0.1:7400,b c=127.0.0.1:7410", f" is not name=host:port,… with names {NAME_WORDS}"),
        ("local", " ,,", "REPLICATOR_PEERS: ',,' names no node"),
        ("a", "a=127.0.0.1:7400,b=10.0.0.2:7400", "10.0.0.2:7400 is not on this machine, so keys are needed"),
    ],
)
def test_wrong_peers_are_refused(node: str, peers: str, text: str) -> None:
    """A peer list with which no cluster could work ends the start, with one line that says why."""
    (line,) = problems({"REPLICATOR_NODE": node, "REPLICATOR_PEERS": peers})
    assert text in line


def test_keys_open_the_network() -> None:
    """With both key files, nodes may be on other machines."""
    settings = Settings.from_env(
        {
            "REPLICATOR_NODE": "a",
            "REPLICATOR_PEERS": "a=10.0.0.1:7400,b=[fd00::2]:7400,c=edge-3.lan:7400",
            "REPLICATOR_SECRET_KEY_FILE": "/keys/a.secret",
            "REPLICATOR_PEER_KEYS_FILE": "/keys/peers.keys",
        }
    )
    assert settings.peers[NodeId("b")] == ("fd00::2", 7400)


def test_values_given_directly_are_checked_too() -> None:
    """Whatever Settings object exists is valid, also one that was not read from the environment."""
    with pytest.raises(SettingsError, match=r"^REPLICATOR_LEASE_S: 100 is not a number from 0\.005 to 60 s$"):
        Settings(lease_s=100)
    with pytest.raises(SettingsError, match="does not fit"):
        Settings(claim_retry_min_s=1)
    with pytest.raises(SettingsError, match=r"^REPLICATOR_ACKS: '\\udcff' is not one of: quorum"):
        Settings(acks=cast(Any, "\udcff"))
    with pytest.raises(SettingsError, match=r"^REPLICATOR_DATA_DIR: '/data' is not a pathlib\.Path$"):
        Settings(data_dir=cast(Any, "/data"))
    with pytest.raises(SettingsError, match="REPLICATOR_PEERS"):
        Settings(peers={NodeId("a b"): ("127.0.0.1", 7400), NodeId("local"): ("127.0.0.1", 7410)})


@pytest.mark.parametrize("environ", [{}, CLUSTER, {"REPLICATOR_SCRUB_INTERVAL_S": "0.1"}])
def test_json_and_environment_bring_settings_back(environ: dict[str, str]) -> None:
    """An engine hands its settings to its worker, as JSON or as variables, without any change."""
    settings = Settings.from_env(environ)
    assert Settings.from_json(settings.to_json()) == settings
    assert Settings.from_env(settings.to_env()) == settings
    assert set(settings.to_env()) == set(environ)


def test_a_node_of_a_cluster_names_itself() -> None:
    """Also by the name that a node without peers has by default: without it the variables are refused."""
    environ = {**CLUSTER, "REPLICATOR_NODE": "local"}
    environ["REPLICATOR_PEERS"] = environ["REPLICATOR_PEERS"].replace("edge-2=", "local=")
    assert Settings.from_env(environ).to_env() == environ
    assert "REPLICATOR_NODE" not in Settings().to_env()


@pytest.mark.parametrize("name", ["DATA_DIR", "SECRET_KEY_FILE", "PEERS", "STREAM_CHUNK_BYTES"])
def test_what_is_not_utf8_is_told(name: str) -> None:
    """In one line: the worker could not be told of it, nor any peer."""
    value = {"PEERS": "edge-1=\udcff:7400,edge-2=localhost:7410", "STREAM_CHUNK_BYTES": "\udcff=16KiB"}
    environ = {"REPLICATOR_NODE": "edge-1", f"REPLICATOR_{name}": value.get(name, "/data/\udcff")}
    (line,) = (line for line in problems(environ) if "UTF-8" in line)
    assert line.startswith(f"REPLICATOR_{name}: '")
    assert line.encode()  # escaped, so that it can be printed
    with pytest.raises(SettingsError, match="UTF-8"):
        Settings(data_dir=Path("/data/\udcff"))


@pytest.mark.parametrize("name", ["NODE", "CLUSTER", "ACKS", "KEEP", "LEASE_S", "CHUNK_BYTES", "PEERS"])
def test_what_is_not_utf8_is_no_value(name: str) -> None:
    """Where only some values are right it is another wrong one, told as all of them are."""
    text = {"PEERS": "\udcff=localhost:7400,local=localhost:7410"}.get(name, "\udcff")
    (line,) = problems({f"REPLICATOR_{name}": text})
    assert line.startswith(f"REPLICATOR_{name}: {text!r} is not ")


@pytest.mark.parametrize("name", [".a", "-a", "a" * 64, "a b"])
def test_a_name_that_is_none_is_told_what_names_are(name: str) -> None:
    """The whole rule, what may not come first included."""
    assert problems({"REPLICATOR_NODE": name}) == [f"REPLICATOR_NODE: {name!r} is not a name {NAME_WORDS}"]


@pytest.mark.parametrize(
    ("name", "before", "unit", "what"),
    [
        ("CHUNK_BYTES", "", "", "is not a whole number from 1024 to 16777216 bytes"),
        ("CHUNK_BYTES", "", "KiB", "is not a whole number from 1024 to 16777216 bytes"),
        ("STREAM_CHUNK_BYTES", "s=", "MiB", "is not stream=size,… with sizes from 1024 to 16777216 bytes"),
        ("PEERS", "local=localhost:", "", "is not from 1 to 65533"),
    ],
)
def test_a_number_of_very_many_digits_is_a_wrong_one(name: str, before: str, unit: str, what: str) -> None:
    """Told as all of them are: Python has words of its own for what it makes no number of."""
    (line,) = problems({f"REPLICATOR_{name}": f"{before}{'9' * 5000}{unit}"})
    assert f"9{unit}' {what}" in line


def test_the_core_gets_its_numbers_from_the_settings() -> None:
    """Each of the core's numbers that has a setting is taken from it, and the defaults are the same."""
    config = core_config(Settings.from_env({**CLUSTER, "REPLICATOR_LEASE_S": "0.25"}), public_key="key")
    assert config.peers == {"edge-1", "edge-3"}
    assert (config.node, config.address, config.public_key) == ("edge-2", "127.0.0.1:7410", "key")
    assert (config.lease_s, config.window_frames_max, config.has_engine) == (0.25, 32, True)
    assert core_config(Settings()) == Config(node=NodeId("local"))
    assert not core_config(Settings(), has_engine=False).has_engine


@pytest.mark.parametrize(
    ("sizes", "frames"),
    [({}, 32), ({"chunk_bytes": 3 * MIB}, 10), ({"stream_chunk_bytes": {"s": 16 * MIB}}, 2)],
)
def test_the_window_is_bytes_whatever_the_size_of_chunks(sizes: dict[str, Any], frames: int) -> None:
    """A publication holds 1 MiB of chunks, or a chunk that is larger: so many of them fit (R16)."""
    settings = Settings(window_bytes_max=32 * MIB, transaction_bytes_max=16 * MIB, **sizes)
    assert core_config(settings).window_frames_max == frames
    if sizes:
        with pytest.raises(SettingsError, match="window_bytes_max is at least chunk_bytes"):
            Settings(window_bytes_max=2 * MIB, transaction_bytes_max=16 * MIB, **sizes)


def test_the_table_tells_everything() -> None:
    """Every setting is in the table, with what it means; what has a unit in its name has it in the table."""
    rows = table(Settings(keep=7))
    assert [row.name for row in rows] == [variable(name) for name in Settings.__struct_fields__]
    assert all(row.meaning and row.allowed for row in rows)
    assert all(row.unit == "s" for row in rows if row.name.endswith("_S") and "_PER_" not in row.name)
    assert all(row.unit == "bytes" for row in rows if "_BYTES" in row.name)
    (keep,) = (row for row in rows if row.name == "REPLICATOR_KEEP")
    assert (keep.value, keep.default) == ("7", "1")
    assert markdown().partition("\n\n")[0].count("\n") == len(rows) + 1


@steady
@given(st.integers(1, 65_533), st.sampled_from(["10.0.0.1", "::1", "fe80::1", "edge-1.lan", "localhost"]))
def test_addresses_survive_being_written(port: int, host: str) -> None:
    """What is written of an address is read again as the same address."""
    assert parse_address(format_address((host, port))) == (host, port)


@steady
@given(st.text(max_size=40))
def test_any_text_is_a_peer_list_or_a_clear_error(text: str) -> None:
    """Whatever stands in the variable, it is a list that survives being written, or one ValueError."""
    try:
        peers = parse_peers(text)
    except ValueError:
        return
    assert parse_peers(format_peers(peers)) == peers


def test_only_this_machine_is_loopback() -> None:
    """Without keys only addresses that surely are this machine are allowed: names could be anybody."""
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("10.0.0.1", "127.0.0.1.example.org", "edge-1", "0.0.0.0", "::ffff:1")))


def test_reading_settings_loads_no_heavy_library() -> None:
    """The engine's process pays for msgspec alone: settings load neither sockets, store nor terminal."""
    code = "import sys, replicator.settings; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"zmq", "lmdb", "pysyncobj", "uvloop", "typer", "rich", "asyncio"} & set(loaded.split())


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_is_a_set_of_timers_that_fit(profile: str) -> None:
    """Each profile keeps all relations (R26 among them), and names nothing but spans of time."""
    settings = Settings.from_env({"REPLICATOR_PROFILE": profile})
    assert {name: getattr(settings, name) for name in PROFILES[profile]} == PROFILES[profile]
    assert all(name.endswith("_s") for name in PROFILES[profile])
    assert settings.lease_s + settings.heartbeat_interval_s <= settings.election_timeout_min_s
    assert Settings.from_env(settings.to_env()) == settings
    assert settings.to_env().keys() <= {"REPLICATOR_PROFILE"}


def test_a_timer_that_is_set_overrides_the_profile() -> None:
    """Also when it is set to what the default profile has; the others stay the profile's."""
    environ = {"REPLICATOR_PROFILE": "wan", "REPLICATOR_HELLO_INTERVAL_S": "0.5"}
    settings = Settings.from_env(environ)
    assert (settings.hello_interval_s, settings.lease_s) == (0.5, 2.5)
    assert settings.to_env() == environ
    assert Settings.from_env(settings.to_env()) == settings


def test_a_profile_that_there_is_not() -> None:
    """One line, with those that there are, and no complaint about timers."""
    assert problems({"REPLICATOR_PROFILE": "quick"}) == [
        "REPLICATOR_PROFILE: 'quick' is not one of: default, fast, wan"
    ]
