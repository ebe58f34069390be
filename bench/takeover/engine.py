"""The engine whose takeovers are measured; it logs each moment as it comes, line by line.

Stream ``chain`` is submitted again and again, each state with the digest of the one before; the *idle*
streams are submitted once. The filler stays the same, so that a checkpoint costs its head alone, until
SIGUSR1: then all of it is new. A line ``active`` is a span in which every look at the lease word said so.

Usage: ``python -m bench.takeover.engine LOG IDLE FILLER_BYTES INTERVAL_S [follow] [burn]``; *burn* keeps the
interpreter busy beside it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from replicator import CommitUnknown, Replicator, ReplicatorError, Tenure, Ticket
from replicator.stderr import LOG_FORMAT

CHAIN = "chain"
LOOK_S = 0.002


def now() -> float:
    """The instant that log lines carry."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Engine:
    """Works whenever its node is primary."""

    def __init__(self, log: Path, idle: int, filler_bytes: int, interval_s: float) -> None:
        self._fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._idle = idle
        self._filler = hashlib.shake_128(b"filler").digest(filler_bytes)  # the same on every node
        self._interval_s = interval_s
        self._digest = ""

    def write(self, kind: str, at: float | None = None, **facts: Any) -> None:
        """Append a line."""
        line = {"kind": kind, "at": now() if at is None else at, **facts}
        os.write(self._fd, json.dumps(line).encode() + b"\n")

    def freshen(self) -> None:
        """Have all of the filler new."""
        self._filler = os.urandom(len(self._filler))

    def serve(self, replicator: Replicator) -> None:
        """Take one tenure after the other."""
        for tenure in replicator.tenures():
            handed_at = now()
            self._digest = ""
            if (last := tenure.restored.get(CHAIN)) is not None:
                self._digest = _digest(last.parts["head"])
                self._filler = last.parts["filler"]
                self.write("restored", handed_at, epoch=tenure.epoch, stream=CHAIN, digest=self._digest)
            restored = len(tenure.restored)
            self.write("tenure", handed_at, epoch=tenure.epoch, instants=tenure.instants, restored=restored)
            try:
                self._work(tenure, restored)
            except ReplicatorError as error:
                self.write("error", error=f"{type(error).__name__}: {error}")
            tenure.wait_ended()
            self.write("ended", epoch=tenure.epoch, reason=tenure.ended_reason)

    def _work(self, tenure: Tenure, restored: int) -> None:
        self._submit(tenure)
        if restored <= self._idle:
            for number in range(self._idle):
                tenure.submit(f"idle-{number}", b"idle state %d" % number)
        next_at, since, until = now() + self._interval_s, 0.0, 0.0
        while tenure.ended_reason is None:
            before, active = now(), tenure.active
            if active:
                since, until = since or now(), before
            if since and (not active or before >= next_at):
                if since < until:
                    self.write("active", until, epoch=tenure.epoch, since=since)
                since = until if active else 0.0
            if before >= next_at:
                next_at = max(next_at + self._interval_s, before)
                self._submit(tenure)
            time.sleep(LOOK_S)
        if 0.0 < since < until:  # the last one counts most: another tenure may begin in it
            self.write("active", until, epoch=tenure.epoch, since=since)

    def _submit(self, tenure: Tenure) -> None:
        parent, position = self._digest, tenure.next_position(CHAIN)
        head = json.dumps({"at": [position.epoch, position.sequence], "parent": parent}).encode()
        self._digest = digest = _digest(head)
        self.write("submitted", digest=digest, parent=parent)
        ticket = tenure.submit(CHAIN, {"head": head, "filler": self._filler})

        def note(ticket: Ticket) -> None:
            if isinstance(ticket.exception(), CommitUnknown) or type(ticket.result()).__name__ != "Committed":
                return
            pair = [ticket.result().position.epoch, ticket.result().position.sequence]
            self.write("committed", stream=CHAIN, digest=digest, position=pair)

        ticket.add_done_callback(note)


def burn() -> None:
    """Keep the interpreter's lock busy."""
    while True:
        sum(range(1000))


def _digest(head: bytes) -> str:
    return hashlib.sha256(head).hexdigest()[:32]


def main() -> None:
    """Run until SIGTERM."""
    log, idle, filler_bytes, interval_s, *extras = sys.argv[1:]
    logging.basicConfig(level="INFO", format=LOG_FORMAT)
    engine = Engine(Path(log), int(idle), int(filler_bytes), float(interval_s))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGUSR1, lambda *_: engine.freshen())

    def stand_by(replicator: Replicator) -> None:
        for _ in replicator.follow():
            pass

    with Replicator.from_env() as replicator:
        engine.write("started")
        if "burn" in extras:
            threading.Thread(target=burn, daemon=True).start()
        if "follow" in extras:
            threading.Thread(target=stand_by, args=(replicator,), daemon=True).start()
        engine.serve(replicator)


if __name__ == "__main__":
    main()
