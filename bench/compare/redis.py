"""Redis or Valkey: one primary, two replicas; SET, then WAIT (and WAITAOF where the version has it).

With appendfsync always the primary has synced before it answers. WAIT 1 says that one replica has received
the write, not that it has synced it: only WAITAOF (Redis 7.2, Valkey 8) waits for that. Debian 12 has Redis
7.0 only, and no Valkey, so there Redis promises less than its class. Rewrites of the log are off, which makes
it faster.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from bench.compare.system import Absent, Durability, System, free_ports, program, wait_until

WAIT_MS = 60_000


class Redis(System):
    """Nothing is written to a disk; WAIT 1."""

    name = "Redis, SET + WAIT 1"
    durability: ClassVar[Durability] = "not synced, on a majority"
    remark = "in memory only, no file"
    options: ClassVar[tuple[str, ...]] = ("--appendonly", "no")
    has_aof: ClassVar[bool] = False

    def start(self, base: Path) -> None:
        try:
            self._library: Any = import_module("redis")
        except ModuleNotFoundError:
            raise Absent("the client is not installed: pip install 'replicator[bench]'") from None
        server, ports = program("valkey-server", "redis-server"), free_ports(3)
        for port in ports:
            directory = base / str(port)
            directory.mkdir()
            command = [
                server,
                "--port",
                str(port),
                "--bind",
                "127.0.0.1",
                "--dir",
                str(directory),
                "--save",
                "",
            ]
            command += ["--client-output-buffer-limit", "replica 0 0 0", "--repl-diskless-sync-delay", "0"]
            command += ["--auto-aof-rewrite-percentage", "0", "--repl-backlog-size", "256mb", *self.options]
            command += [] if port == ports[0] else ["--replicaof", "127.0.0.1", str(ports[0])]
            self.spawn(command, base / f"{port}.log")
        self._port = ports[0]
        error = self._library.exceptions.RedisError
        self._client = self._connect()
        wait_until("the server", self._client.ping, (error, OSError))
        info = self._client.info("server")
        version = info.get("valkey_version", info["redis_version"])
        name = "Valkey" if "valkey_version" in info else "Redis"
        self.remark = f"{name} {version}, {self.remark}"
        self._waits_for_aof = self.has_aof and tuple(map(int, info["redis_version"].split(".")[:2])) >= (7, 2)
        if self._waits_for_aof:
            self.remark = f"{name} {version}, WAITAOF 1 1"
        elif name == "Redis":
            self.remark += "; no valkey-server is installed, and none is a package of Debian 12"
        wait_until(
            "both replicas", lambda: self._client.execute_command("WAIT", 2, 100) == 2, (error, OSError)
        )

    def put(self, stream: int, payload: bytearray) -> None:
        self._put(self._client, stream, payload)

    def putter(self) -> Callable[[int, bytearray], None]:
        client = self._connect()
        return lambda stream, payload: self._put(client, stream, payload)

    def _put(self, client: Any, stream: int, payload: bytearray) -> None:
        with client.pipeline(transaction=False) as pipe:
            pipe.execute_command("SET", f"state-{stream}", memoryview(payload))
            pipe.execute_command("WAIT", 1, WAIT_MS)
            if self._waits_for_aof:
                pipe.execute_command("WAITAOF", 1, 1, WAIT_MS)
            answers = pipe.execute()
        if not answers[0] or answers[1] < 1:
            raise TimeoutError(f"Redis did not replicate: {answers}")

    def _connect(self) -> Any:
        client = self._library.Redis(host="127.0.0.1", port=self._port, socket_timeout=WAIT_MS / 1000)
        self.stack.callback(client.close)
        return client


class RedisAof(Redis):
    """appendfsync always on all three."""

    name = "Redis, AOF always + WAIT 1"
    durability: ClassVar[Durability] = "synced on a majority"
    remark = "synced on the primary alone, received by another"
    options: ClassVar[tuple[str, ...]] = ("--appendonly", "yes", "--appendfsync", "always")
    has_aof: ClassVar[bool] = True
