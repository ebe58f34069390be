"""NATS JetStream: a stream with three replicas on files, published to at the stream's leader.

A publication is acknowledged when a majority has written it; this version does not sync each message.
Payloads above 1 MiB go as messages of 1 MiB, all under way at once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from bench.compare.system import STREAMS, Absent, Durability, System, free_ports, pieces, program, wait_until

TIMEOUT_S = 60
CONFIG = """
server_name: n{n}
listen: 127.0.0.1:{port}
max_payload: 2097152
jetstream {{ store_dir: "{store}", max_file_store: 34359738368 }}
cluster {{ name: bench, listen: 127.0.0.1:{route}, routes: [{routes}] }}
"""


class Nats(System):
    """R3, file storage."""

    name = "NATS JetStream"
    durability: ClassVar[Durability] = "not synced, on a majority"
    remark = "R3 on files, 1 MiB messages above 1 MiB"

    def start(self, base: Path) -> None:
        try:
            self._library: Any = import_module("nats")
            self._api: Any = import_module("nats.js.api")
        except ModuleNotFoundError:
            raise Absent("the client is not installed: pip install 'replicator[bench]'") from None
        server, ports = program("nats-server"), free_ports(6)
        clients, routes = ports[:3], ports[3:]
        links = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
        for n, (port, route) in enumerate(zip(clients, routes, strict=True)):
            path = base / f"n{n}.conf"
            path.write_text(CONFIG.format(n=n, port=port, route=route, routes=links, store=base / f"n{n}"))
            self.spawn([server, "-c", str(path)], base / f"n{n}.log")
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        thread.start()
        self.stack.callback(self._loop.close)
        self.stack.callback(thread.join)
        self.stack.callback(lambda: self._loop.call_soon_threadsafe(self._loop.stop))
        wait_until("the stream", lambda: self._make_stream(clients), (Exception,))

    def put(self, stream: int, payload: bytearray) -> None:
        self._wait(self._publish(stream, payload))

    async def _publish(self, stream: int, payload: bytearray) -> None:
        parts = [bytes(piece) for piece in pieces(payload)]
        await asyncio.gather(
            *(self._stream.publish(f"state.{stream}.{n}", part, TIMEOUT_S) for n, part in enumerate(parts))
        )

    def _make_stream(self, ports: list[int]) -> bool:
        """Make the stream, and connect to the server that leads it."""
        client = self._wait(self._connect(ports[0]))
        config = self._api.StreamConfig(
            name="state", subjects=["state.>"], num_replicas=3, max_msgs_per_subject=2,
            storage=self._api.StorageType.FILE,
        )  # fmt: skip
        try:
            made = self._wait(client.jetstream().add_stream(config))
            leader = int(made.cluster.leader.removeprefix("n"))
            self.remark = f"{client._server_info['version']}, {type(self).remark}"
        finally:
            self._wait(client.close())
        chosen = self._wait(self._connect(ports[leader]))
        self.stack.callback(lambda: self._wait(chosen.close()))
        self._stream = chosen.jetstream(timeout=TIMEOUT_S, publish_async_max_pending=4 * STREAMS * 1024)
        return True

    async def _connect(self, port: int) -> Any:
        async def quiet(error: Exception) -> None:
            """What goes wrong comes back by the call that asked."""

        return await self._library.connect(
            f"nats://127.0.0.1:{port}", error_cb=quiet, allow_reconnect=False, connect_timeout=2
        )

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(TIMEOUT_S)
