"""Peers with names: looked up where nobody waits, again when they cannot be reached, in either family."""

from __future__ import annotations

import socket as network
import threading
from collections.abc import Callable
from errno import EINVAL
from pathlib import Path
from typing import Any

import pytest

from replicator.adapters import names
from replicator.adapters.listening import check_ports
from replicator.adapters.names import Names, resolve
from replicator.adapters.zeromq import RENEW_S, Transport
from replicator.errors import TransportError
from replicator.model import NodeId
from replicator.settings import Settings
from tests.adapters.test_zeromq import control_of, receive, send
from tests.adapters.test_zeromq_keys import all_keys
from tests.worker.nodes import make_settings, wait_until

N1, N2, N3 = nodes = [NodeId("n1"), NodeId("n2"), NodeId("n3")]
Answers = dict[str, Callable[[], str]]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """What is answered for names, by functions that may take their time; numbers are looked at as ever."""
    known: Answers = {}
    real = network.getaddrinfo

    def look_up(host: str, port: None, **options: Any) -> Any:
        if host not in known:
            return real(host, port, **options)
        if options.get("flags", 0) & network.AI_NUMERICHOST:
            raise network.gaierror(network.EAI_NONAME, "no number")
        return real(known[host](), port, **options)

    monkeypatch.setattr(network, "getaddrinfo", look_up)
    return known


def settings_with(changes: dict[NodeId, str], count: int = 3) -> list[Settings]:
    """The settings of a few nodes, some of which have another host."""
    peers = make_settings(count)[0].peers
    hosts = {node: (changes.get(node, host), port) for node, (host, port) in peers.items()}
    return [
        Settings(node=node, peers=hosts, secret_key_file=Path("x"), peer_keys_file=Path("x"))
        for node in peers
    ]


def test_a_name_without_an_answer_silences_nobody(
    tmp_path: Path, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node hears and is heard while it waits for the address of another peer, and then reaches that too."""
    answer = threading.Event()

    def wait() -> str:
        answer.wait()
        return "127.0.0.1"

    answers["slow.example"] = wait
    monkeypatch.setattr(names, "FIRST_ANSWERS_S", 0.0)
    keys = all_keys(tmp_path)
    named, _, _ = settings_with({N3: "slow.example"})
    peers = {node: ("127.0.0.1", port) for node, (_, port) in named.peers.items()}
    second, third = (Settings(node=node, peers=peers) for node in (N2, N3))
    with (
        control_of(named, keys[0]) as one,
        control_of(second, keys[1]) as two,
        control_of(third, keys[2]) as three,
    ):
        send(one, N2, b"hello")
        assert receive(two) == [(N1, b"hello")]
        assert not one.send(N3, b"hello")
        answer.set()
        wait_until(lambda: one._transport._names.address("slow.example"), "an answer")
        one.mend(0.0)
        send(one, N3, b"hello")
        assert receive(three) == [(N1, b"hello")]


def test_a_peer_may_get_another_address(tmp_path: Path, answers: Answers) -> None:
    """One that has not been reached for a while is looked up again, and reached where it is now."""
    addresses = iter(["127.0.0.1", "127.0.0.2"])
    answers["edge-2"] = lambda: next(addresses)
    keys = all_keys(tmp_path)
    first, second, _ = settings_with({N2: "edge-2"})
    with control_of(first, keys[0]) as one:
        second.peers[N2] = ("127.0.0.2", second.peers[N2][1])
        with control_of(second, keys[1]) as two:
            one.mend(0.0)
            assert one._transport._names.address("edge-2") == "127.0.0.1"
            one.mend(RENEW_S)
            wait_until(lambda: one._transport._names.address("edge-2") == "127.0.0.2", "an answer")
            one.mend(RENEW_S + 1)
            send(one, N2, b"hello")
            assert receive(two) == [(N1, b"hello")]


def test_names_may_be_of_ipv6_alone(tmp_path: Path, answers: Answers) -> None:
    """They are listened at and connected to like any others."""
    answers.update({"six.example": lambda: "::1"})
    try:
        network.create_server(("::1", 0), family=network.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    keys = all_keys(tmp_path)
    first, second, _ = settings_with(dict.fromkeys(nodes, "six.example"))
    check_ports(first)
    with control_of(first, keys[0]) as one, control_of(second, keys[1]) as two:
        send(one, N2, b"hello")
        assert receive(two) == [(N1, b"hello")]


def test_an_ipv4_address_is_taken_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever listens at a name and whoever connects to it choose the same, in whatever order they come."""
    found = [(network.AF_INET6, 1, 6, "", ("::2", 0, 0, 0)), (network.AF_INET, 1, 6, "", ("192.0.2.9", 0))]
    monkeypatch.setattr(network, "getaddrinfo", lambda *_, **__: found)
    assert resolve("both.example") == "192.0.2.9"


def test_numbers_are_not_looked_up(answers: Answers, caplog: pytest.LogCaptureFixture) -> None:
    """They take no thread; what cannot be looked up is said once in a while."""

    def fail() -> str:
        raise network.gaierror(network.EAI_AGAIN, "no server answers")

    answers["lost.example"] = fail
    known = Names(["127.0.0.1", "::1", "lost.example"])
    assert [known.address(host) for host in ("127.0.0.1", "::1", "lost.example")] == ["127.0.0.1", "::1", ""]
    assert list(known._threads) == ["lost.example"]
    known.look_up("lost.example")
    known._threads["lost.example"].join()
    assert caplog.messages == ["no address found host=lost.example reason='no server answers'"]


def test_a_name_that_cannot_be_is_refused(tmp_path: Path) -> None:
    """It is an error of the operating system's kind, as any other name that leads nowhere."""
    with pytest.raises(OSError, match="no such name") as caught:
        resolve("a..b")
    assert caught.value.errno == EINVAL
    with pytest.raises(TransportError, match=r"cannot listen at a\.\.b:\d+: no such name can be"):
        check_ports(settings_with({N1: "a..b"})[0])


def test_a_node_does_not_listen_where_nobody_else_can_reach_it(tmp_path: Path, answers: Answers) -> None:
    """A machine that has its own name at 127.0.1.1 is refused in a line that says what to do; not if all its
    peers are at home there too, and not if the user has given the number."""
    keys = all_keys(tmp_path)[0]
    answers.update(
        {"edge-1": lambda: "127.0.1.1", "edge-2": lambda: "127.0.1.1", "edge-3": lambda: "192.0.2.3"}
    )
    (first, *_) = settings_with({N1: "edge-1", N2: "edge-2", N3: "edge-3"})
    wrong = "edge-1 is 127.0.1.1 on this machine, where n3 cannot reach n1: correct /etc/hosts, or give n1"
    with pytest.raises(TransportError, match=wrong):
        check_ports(first)
    with pytest.raises(TransportError, match=wrong):
        Transport(first, keys)
    check_ports(settings_with({N1: "edge-1", N2: "edge-2"})[0])
    check_ports(settings_with({N1: "127.0.0.1", N3: "edge-3"})[0])
