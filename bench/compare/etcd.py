"""etcd: three nodes, Put by gRPC at the leader; payloads above 1 MiB as keys of 1 MiB, all under way at once.

Its wire format is simple enough to write here: a Put request is two length-prefixed fields.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from bench.compare.system import Absent, Durability, System, free_ports, pieces, program, wait_until

KEY, VALUE = b"\x0a", b"\x12"  # fields 1 and 2, length-delimited
TIMEOUT_S = 60


class Etcd(System):
    """Each put is in the log of a majority, synced, when it returns."""

    name = "etcd"
    durability: ClassVar[Durability] = "synced on a majority"
    remark = "1 MiB keys above 1 MiB"

    def start(self, base: Path) -> None:
        try:
            grpc: Any = import_module("grpc")
        except ModuleNotFoundError:
            raise Absent("the client is not installed: pip install 'replicator[bench]'") from None
        server, ports = program("etcd"), free_ports(6)
        clients, peers = ports[:3], ports[3:]
        cluster = ",".join(f"n{n}=http://127.0.0.1:{port}" for n, port in enumerate(peers))
        for n, (client, peer) in enumerate(zip(clients, peers, strict=True)):
            command = [server, "--name", f"n{n}", "--data-dir", str(base / f"n{n}"), "--logger", "zap"]
            for option, port in (("client", client), ("peer", peer)):
                command += [f"--listen-{option}-urls", f"http://127.0.0.1:{port}"]
            command += ["--advertise-client-urls", f"http://127.0.0.1:{client}"]
            command += ["--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"]
            command += ["--initial-cluster", cluster, "--quota-backend-bytes", str(8 * 2**30)]
            self.spawn(command, base / f"n{n}.log")
        errors = (OSError, urllib.error.URLError, KeyError)
        leader = wait_until("a leader", lambda: next((p for p in clients if _leads(p)), None), errors)
        self.remark = f"{_ask(leader, '/version')['etcdserver']}, {self.remark}"
        channel = grpc.insecure_channel(f"127.0.0.1:{leader}", [("grpc.max_send_message_length", -1)])
        self.stack.callback(channel.close)
        self._put_rpc = channel.unary_unary("/etcdserverpb.KV/Put")

    def put(self, stream: int, payload: bytearray) -> None:
        calls = [
            self._put_rpc.future(_request(b"state-%d-%d" % (stream, n), piece), TIMEOUT_S)
            for n, piece in enumerate(pieces(payload))
        ]
        for call in calls:
            call.result()


def _request(key: bytes, value: memoryview) -> bytes:
    return b"".join((KEY, _varint(len(key)), key, VALUE, _varint(len(value)), value))


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _leads(port: int) -> bool:
    status = _ask(port, "/v3/maintenance/status", b"{}")
    return bool(status["leader"] == status["header"]["member_id"])


def _ask(port: int, path: str, body: bytes | None = None) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", body, timeout=2) as answer:
        found: dict[str, Any] = json.load(answer)
    return found
