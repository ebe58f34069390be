"""A primary whose disk hangs, without any error, in the middle of a large checkpoint (R21)."""

from __future__ import annotations

import queue
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from msgspec.structs import replace

from replicator import Committed, Replicator, Tenure
from replicator.adapters.store_payload import Payload
from tests.worker.nodes import make_settings
from tests.worker.payloads import noise

MIB = 2**20
DEADLINE_S = 30.0


def test_leadership_goes_to_a_disk_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The publisher waits for the disk, so nobody else has what waits for it, and no word of it ever comes:
    the store's own does. What was committed is restored, and the old node closes when its disk goes on."""
    hung: set[Path] = set()
    goes_on = threading.Event()
    write = Payload.write

    def held_up(self: Payload, *args: object) -> object:
        if self._path.parent in hung:
            goes_on.wait(DEADLINE_S)
        return write(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Payload, "write", held_up)
    begun: queue.SimpleQueue[tuple[str, Tenure]] = queue.SimpleQueue()

    def serve(name: str, replicator: Replicator) -> None:
        for tenure in replicator.tenures():
            begun.put((name, tenure))
            tenure.wait_ended()

    with ExitStack() as stack:
        threads = []
        for settings in make_settings(3, isolation="thread", lapse_max_s=1.0, writer_queue_bytes_max=4 * MIB):
            settings = replace(settings, data_dir=tmp_path / settings.node)
            replicator = stack.enter_context(Replicator(settings))
            threads.append(threading.Thread(target=serve, args=(settings.node, replicator)))
            threads[-1].start()
        stack.callback(goes_on.set)
        first, tenure = begun.get(timeout=DEADLINE_S)
        assert isinstance(tenure.submit("s", b"committed").result(DEADLINE_S), Committed)
        hung.add(tmp_path / first)
        tenure.submit("large", noise(16 * MIB))
        second, its_tenure = begun.get(timeout=DEADLINE_S)
        assert second != first
        assert not tenure.active
        assert its_tenure.restored["s"].payload == b"committed"
        assert isinstance(its_tenure.submit("s", b"after it").result(DEADLINE_S), Committed)
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
