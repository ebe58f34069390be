"""Where a node listens: at its own address, on ports that are free, where its peers can reach it."""

from __future__ import annotations

import socket as network
from collections.abc import Mapping

from replicator.adapters.names import resolve
from replicator.addresses import PORTS_PER_NODE, Address, format_address, is_loopback
from replicator.errors import TransportError
from replicator.model import NodeId
from replicator.settings import Settings


def own_address(node: NodeId, peers: Mapping[NodeId, Address]) -> str:
    """The numeric address of *node* itself.

    Raises TransportError if its name leads nowhere, or only back to this machine although a peer is on
    another: systems are set up with their own name at 127.0.1.1, and nobody would ever be heard there. A
    number is taken as it is, for a tunnel may end there.
    """
    host, _ = peers[node]
    try:
        address = resolve(host)
    except OSError as error:
        raise cannot_listen(node, peers[node], error.strerror) from error
    if is_loopback(address) and not is_loopback(host):
        far = [other for other, (where, _) in peers.items() if not _is_here(where)]
        if far:
            raise TransportError(
                f"{host} is {address} on this machine, where {', '.join(far)} cannot reach {node}: correct "
                f"/etc/hosts, or give {node} its number in the network in REPLICATOR_PEERS"
            )
    return address


def check_ports(settings: Settings) -> None:
    """Raise TransportError, as a bind would, unless all ports of this node are free; keeps none of them."""
    if not settings.peers:
        return
    _, port = settings.peers[settings.node]
    address = own_address(settings.node, settings.peers)
    for each in range(port, port + PORTS_PER_NODE):
        try:
            with network.socket(network.AF_INET6 if ":" in address else network.AF_INET) as probe:
                probe.setsockopt(network.SOL_SOCKET, network.SO_REUSEADDR, 1)  # as libzmq does
                probe.bind((address, each))
        except OSError as error:
            raise cannot_listen(settings.node, (address, each), error.strerror) from error


def cannot_listen(node: NodeId, address: Address, reason: str | None) -> TransportError:
    """The error that says so, and what to do."""
    return TransportError(
        f"cannot listen at {format_address(address)}: {reason}; end what uses the port, or correct "
        f"the address of {node} in REPLICATOR_PEERS"
    )


def _is_here(host: str) -> bool:
    try:
        return is_loopback(host) or is_loopback(resolve(host))
    except OSError:
        return False
