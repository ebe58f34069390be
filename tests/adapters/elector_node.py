"""One elector as a process of its own, over real sockets: what the processes' test starts, stops and kills.

Arguments: the directory of the ipc sockets, the node's name, all names, and the timers as JSON. Prints a line
of JSON at every change of `leading` and at every change of the leader that it names. Ends with its stdin.
"""

from __future__ import annotations

import json
import math
import sys
import time

import zmq

from replicator.adapters.elector import PySyncObjElector
from replicator.model import NodeId


def report(**facts: object) -> None:
    print(json.dumps({"at": time.clock_gettime(time.CLOCK_BOOTTIME), **facts}), flush=True)


def run(directory: str, name: str, names: str, timers: str) -> None:
    """Be the node until stdin ends."""
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.bind(f"ipc://{directory}/{name}")
    dealers: dict[NodeId, zmq.Socket[bytes]] = {}
    for peer in names.split(","):
        if peer != name:
            dealers[NodeId(peer)] = dealer = context.socket(zmq.DEALER)
            dealer.routing_id = name.encode()
            dealer.connect(f"ipc://{directory}/{peer}")

    def send(to: NodeId, payload: bytes) -> bool:
        try:
            dealers[to].send(payload, zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    elector = PySyncObjElector(
        NodeId(name),
        frozenset(dealers),
        send=send,
        on_grant=lambda: report(leading=True),
        on_revoke=lambda: report(leading=False),
        **json.loads(timers),
    )
    poller = zmq.Poller()
    poller.register(router, zmq.POLLIN)
    poller.register(sys.stdin.fileno(), zmq.POLLIN)
    tick_at, leader = 0.0, None
    while True:
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        ready = dict(poller.poll(math.ceil(max(0.0, tick_at - now) * 1000)))
        if sys.stdin.fileno() in ready:
            break
        while router.poll(0):
            sender, payload = router.recv_multipart()
            elector.receive(NodeId(sender.decode()), payload)
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        if now >= tick_at:
            elector.tick(now)
            tick_at = now + elector.tick_interval_s
        if elector.leader != leader:
            leader = elector.leader
            report(leader=leader)
    elector.close()
    context.destroy(linger=0)


if __name__ == "__main__":
    run(*sys.argv[1:])
