"""Where nodes are reached: ``host:port`` texts, the ports a node uses, and whether a peer list makes sense.

A node listens on three ports: its own (control), the next (repair) and the one after (publish). Without
keys nobody is authenticated, so only addresses of this very machine are allowed then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

from replicator.model import MEMBERS_MAX, NodeId

PORTS_PER_NODE = 3
PORT_MAX = 65_536 - PORTS_PER_NODE
PORT_DIGITS_MAX = 5

Address = tuple[str, int]
Peers = dict[NodeId, Address]


def format_address(address: Address) -> str:
    """``host:port``, with an IPv6 host in brackets; ``tcp://`` before it makes a ZeroMQ endpoint."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(text: str) -> Address:
    """The host (without brackets) and port of ``host:port``; raises ValueError that says what is wrong."""
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()):
        raise ValueError(f"{text!r} is not host:port")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r} is not host:port; an IPv6 host stands in brackets: [::1]:7400")
    if host in ("", "*", "0.0.0.0", "::") or any(char.isspace() or char in "/[]@" for char in host):
        raise ValueError(f"{text!r} names no host that others can reach")
    if len(port) > PORT_DIGITS_MAX or not 1 <= int(port) <= PORT_MAX:
        raise ValueError(f"the port of {text!r} is not from 1 to {PORT_MAX}")
    return host, int(port)


def parse_peers(text: str) -> Peers:
    """The nodes of ``name=host:port,…``; raises ValueError that says what is wrong."""
    peers: Peers = {}
    for entry in filter(None, (entry.strip() for entry in text.split(","))):
        node, equals, address = (piece.strip() for piece in entry.partition("="))
        if not equals:
            raise ValueError(f"{entry!r} is not name=host:port")
        if node in peers:
            raise ValueError(f"{node!r} is named twice")
        peers[NodeId(node)] = parse_address(address)
    if not peers:
        raise ValueError(f"{text!r} names no node")
    return peers


def format_peers(peers: Mapping[NodeId, Address]) -> str:
    """What `parse_peers` reads."""
    return ",".join(f"{node}={format_address(address)}" for node, address in peers.items())


def is_loopback(host: str) -> bool:
    """Whether *host* is surely this machine: 127.0.0.0/8, ::1 or localhost."""
    from ipaddress import ip_address  # only clusters pay for its import

    try:
        return host.lower() == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def peer_problems(peers: Peers, has_keys: bool) -> Iterator[str]:
    """What is wrong with a peer list as a whole, a line each."""
    if len(peers) == 1 or len(peers) > MEMBERS_MAX:
        yield f"{len(peers)} node(s) named; 2 to {MEMBERS_MAX} make a cluster, none means no replication"
    used: dict[str, list[tuple[int, NodeId]]] = {}
    for node, (host, port) in peers.items():
        used.setdefault(host.lower(), []).append((port, node))
    for ports in used.values():
        for (low, first), (high, second) in pairwise(sorted(ports)):
            if high - low < PORTS_PER_NODE:
                yield f"{first} and {second} share a port; each uses {PORTS_PER_NODE}, from its own on"
    far = [format_address(address) for address in peers.values() if not is_loopback(address[0])]
    if far and not has_keys:
        yield (
            f"{far[0]} is not on this machine, so keys are needed: REPLICATOR_SECRET_KEY_FILE and "
            "REPLICATOR_PEER_KEYS_FILE, made by `replicator keygen`"
        )
