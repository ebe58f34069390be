"""Keys: files that are refused, and connections that are: a peer is who its key says (R28, T16)."""

from __future__ import annotations

import contextlib
import stat
import time
from pathlib import Path

import pytest
import zmq
from msgspec.structs import replace

from replicator.adapters.curve import (
    FILE_BYTES_MAX,
    KEY_CHARACTERS,
    PEER_KEYS_NAME,
    Gate,
    Keys,
    generate_keys,
    load_keys,
)
from replicator.adapters.loglimit import LOG_INTERVAL_S
from replicator.adapters.zeromq import RENEW_S, Control, Transport
from replicator.codec.frames import ENVELOPE_BYTES_MAX
from replicator.errors import TransportError
from replicator.model import NodeId
from tests.adapters.test_zeromq import control_of, receive, send
from tests.worker.nodes import make_settings, wait_until

N1, N2, N3 = nodes = [NodeId("n1"), NodeId("n2"), NodeId("n3")]
NOTHING_CAME_S = 0.3  # a refused handshake is tried every 50 ms or more


def all_keys(directory: Path, names: list[NodeId] = nodes) -> list[Keys]:
    """Fresh keys of the nodes, read from their files."""
    generate_keys(names, directory)
    loaded = [
        load_keys(directory / f"{name}.secret", directory / PEER_KEYS_NAME, name, names) for name in names
    ]
    return [keys for keys in loaded if keys]


def test_generated_keys_load(tmp_path: Path) -> None:
    """Each node gets a file that only its user can read; all get the list of public keys."""
    keys = all_keys(tmp_path / "keys")
    assert [keys[0].allowed[name] for name in nodes] == [one.public for one in keys]
    assert len({one.secret for one in keys}) == 3
    assert stat.S_IMODE((tmp_path / "keys" / "n1.secret").stat().st_mode) == 0o600
    assert keys[0].secret not in repr(keys[0])
    assert load_keys(None, None, N1) is None


def test_keys_in_use_are_never_overwritten(tmp_path: Path) -> None:
    """Generating twice into one directory fails and leaves the first keys as they are."""
    generate_keys([N1], tmp_path)
    before = (tmp_path / "n1.secret").read_text()
    with pytest.raises(TransportError, match="is there already"):
        generate_keys([N1], tmp_path)
    assert (tmp_path / "n1.secret").read_text() == before


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: (d / "n1.secret").chmod(0o644), "can be read by others; do: chmod 600"),
        (lambda d: (d / "n1.secret").unlink(), "cannot read .*n1.secret: No such file"),
        (lambda d: (d / "n1.secret").write_bytes(b"\xff\xfe"), "not a key file"),
        (lambda d: (d / "n1.secret").write_text("node=n1\npublic=x\nsecret=y\n"), "no pair of keys"),
        (lambda d: (d / "n1.secret").write_text((d / "n2.secret").read_text()), "is the key of 'n2'"),
        (
            lambda d: (d / "n1.secret").write_text((d / "n2.secret").read_text().replace("=n2", "=n1")),
            "another public key for 'n1'",
        ),
        (lambda d: drop_line(d / PEER_KEYS_NAME, "n1="), "another public key for 'n1'"),
        (lambda d: drop_line(d / PEER_KEYS_NAME, "n3="), "no public key for n3"),
        (lambda d: add_line(d / PEER_KEYS_NAME, "n4=short"), "no public key for 'n4'"),
        (lambda d: add_line(d / PEER_KEYS_NAME, f"n4={'#' * KEY_CHARACTERS}"), "no public key for 'n4'"),
        (lambda d: double_key(d / PEER_KEYS_NAME), "one public key for two nodes"),
        (lambda d: add_line(d / PEER_KEYS_NAME, "#" * FILE_BYTES_MAX), "peers.keys: not a key file"),
    ],
    ids=[
        "readable",
        "absent",
        "binary",
        "no keys",
        "other node's",
        "other pair",
        "own missing",
        "peer missing",
        "no key",
        "damaged key",
        "key twice",
        "endless",
    ],
)
def test_wrong_key_files_are_refused_in_one_line(tmp_path: Path, spoil: object, message: str) -> None:
    """The error names the file and what is wrong with it."""
    generate_keys(nodes, tmp_path)
    assert callable(spoil)
    spoil(tmp_path)
    with pytest.raises(TransportError, match=message) as caught:
        load_keys(tmp_path / "n1.secret", tmp_path / PEER_KEYS_NAME, N1, nodes)
    assert "\n" not in str(caught.value)


def drop_line(path: Path, start: str) -> None:
    """Remove the line that begins so."""
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(start)))


def add_line(path: Path, line: str) -> None:
    """Append a line."""
    path.write_text(f"{path.read_text()}{line}\n")


def double_key(path: Path) -> None:
    """Give n3 the key of n2."""
    lines = dict(line.split("=", 1) for line in path.read_text().splitlines())
    path.write_text("".join(f"{name}={lines['n2' if name == 'n3' else name]}\n" for name in lines))


def test_half_a_pair_of_files_is_refused(tmp_path: Path) -> None:
    """One setting without the other is a mistake, never a silent lack of keys."""
    with pytest.raises(TransportError, match="go together"):
        load_keys(tmp_path / "n1.secret", None, N1)


def test_peers_are_who_their_keys_say(tmp_path: Path) -> None:
    """With keys every message comes with the node whose key has been verified."""
    keys = all_keys(tmp_path)
    first, second, third = make_settings(3)
    with (
        control_of(first, keys[0]) as one,
        control_of(second, keys[1]) as two,
        control_of(third, keys[2]) as three,
    ):
        send(two, N1, bytes(ENVELOPE_BYTES_MAX))
        assert receive(one) == [(N2, bytes(ENVELOPE_BYTES_MAX))]
        send(two, N1, b"I am n3")
        send(three, N1, b"I am n2")
        assert sorted(receive(one, 2)) == [(N2, b"I am n3"), (N3, b"I am n2")]


def test_a_peer_without_a_key_is_named(tmp_path: Path) -> None:
    """A list of keys that lacks a peer is refused when the transport starts, not when it connects."""
    keys = all_keys(tmp_path, [N1, N2])
    with pytest.raises(TransportError, match="no public key for n3"):
        Transport(make_settings(3)[0], keys[0])


def nothing_comes(control: Control) -> bool:
    """Whether nothing arrives for a while."""
    deadline = time.monotonic() + NOTHING_CAME_S
    while time.monotonic() < deadline:
        if list(control.receive()):
            return False
        time.sleep(0.01)
    return True


def test_unlisted_keys_are_refused(tmp_path: Path) -> None:
    """A node with a key of its own that nobody has listed is not let in, and is counted."""
    keys = all_keys(tmp_path)
    first, second, _ = make_settings(3)
    stranger = all_keys(tmp_path / "other", [N2])[0]
    forged = replace(stranger, allowed={**keys[0].allowed, N2: stranger.public})
    transport = Transport(first, keys[0])
    one, gate = Control(transport), transport._gate
    assert gate is not None
    with control_of(second, forged) as two:
        wait_until(lambda: two.send(N1, b"let me in") or gate.refused, "a refusal")
        assert nothing_comes(one)
        assert gate.refused
    one.close()
    transport.close()


def test_a_server_with_another_key_gets_nothing(tmp_path: Path) -> None:
    """Whoever listens at a peer's address without the peer's key is never sent anything."""
    keys = all_keys(tmp_path)
    first, second, _ = make_settings(3)
    impostor = all_keys(tmp_path / "other", [N2])[0]
    trusting = replace(impostor, allowed={**keys[0].allowed, N2: impostor.public})
    with control_of(first, keys[0]) as one, control_of(second, trusting) as two:
        assert nothing_comes(two)
        assert not one.send(N2, b"secret")


@pytest.mark.parametrize("listed", [False, True], ids=["no key", "wrong server key"])
def test_clients_without_the_right_handshake_get_nothing(tmp_path: Path, listed: bool) -> None:
    """A client without CURVE, or with one that does not know the server's key, is not heard."""
    keys = all_keys(tmp_path)
    first = make_settings(3)[0]
    with zmq.Context() as context, context.socket(zmq.DEALER) as client:
        client.linger = 0
        if listed:
            client.curve_publickey = keys[1].public.encode()
            client.curve_secretkey = keys[1].secret.encode()
            client.curve_serverkey = keys[2].public.encode()
        with control_of(first, keys[0]) as one:
            client.connect(f"tcp://127.0.0.1:{first.peers[N1][1]}")
            with contextlib.suppress(zmq.Again):  # refused already: libzmq has given this address up for good
                client.send(b"let me in", zmq.DONTWAIT)
            assert nothing_comes(one)


def test_a_key_may_be_listed_later(tmp_path: Path) -> None:
    """While keys are changed one node after the other, a node's new one may be refused: it is tried again
    later, not at once, and gets in when the list is right."""
    keys, (_, renewed) = all_keys(tmp_path / "old", [N1, N2]), all_keys(tmp_path / "new", [N1, N2])
    first, second = make_settings(2)
    public = {N1: keys[0].public, N2: renewed.public}
    with control_of(second, replace(renewed, allowed=public)) as two:
        gate_keeper = Transport(first, keys[0])
        one, gate = Control(gate_keeper), gate_keeper._gate
        assert gate is not None
        wait_until(lambda: gate.refused, "a refusal")
        two.mend(0.0)
        two.mend(RENEW_S / 2)
        assert nothing_comes(one)
        assert gate.refused == 1
        one.close()
        gate_keeper.close()
        with control_of(first, replace(keys[0], allowed=public)) as one:
            two.mend(RENEW_S)
            send(two, N1, b"at last")
            assert receive(one) == [(N2, b"at last")]


def test_the_gate_fails_closed(tmp_path: Path) -> None:
    """When the gate has ended nobody new is admitted; who is connected stays so."""
    keys = all_keys(tmp_path)
    first, second, third = make_settings(3)
    transport = Transport(first, keys[0])
    one = Control(transport)
    gate = transport._gate
    assert isinstance(gate, Gate)
    with control_of(second, keys[1]) as two:
        send(two, N1, b"before")
        assert receive(one) == [(N2, b"before")]
        assert gate._thread.is_alive()
        gate.close()
        assert not gate._thread.is_alive()
        transport._gate = None
        with control_of(third, keys[2]) as three:
            assert nothing_comes(one)
            assert not three.send(N1, b"too late")
        send(two, N1, b"after")
        assert receive(one) == [(N2, b"after")]
    one.close()
    transport.close()


def test_refused_keys_are_logged_once_in_a_while(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is counted, but a stranger that tries again and again does not fill the log (R28)."""
    now = time.monotonic()
    monkeypatch.setattr("replicator.adapters.curve.time.monotonic", lambda: now)
    with zmq.Context() as context:
        gate = Gate(context, "domain", {})
        question = [b"1.0", b"1", b"domain", b"10.0.0.1", b"", b"CURVE", bytes(32)]
        assert {gate._answer(question)[2] for _ in range(3)} == {b"400"}
        assert (gate.refused, caplog.text.count("connection refused")) == (3, 1)
        now += LOG_INTERVAL_S
        gate._answer(question)
        gate.close()
    assert caplog.text.count("connection refused") == 2
    assert "count=4" in caplog.text
