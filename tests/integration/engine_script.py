"""An engine for the integration tests: embeds the library, and logs what it does and is told, line by line.

Each stream's state is a counter and the digest of the state before, so that all states of a stream form a
hash chain: whether something committed was lost can be read from the logs of all nodes alone. A line is
written with one call before anything else happens, so a SIGKILL loses none.

Usage: ``engine_script.py LOG [streams] [interval_s] [payload_bytes] [change_bytes] [follow]``; settings come
by ``REPLICATOR_*``. Sizes with commas between them are given to the streams in turn. With *follow* it also
takes what commits while it is a backup.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from replicator import (
    Checkpoint,
    CheckpointUnreadable,
    CommitUnknown,
    Replicator,
    ReplicatorError,
    Superseded,
    Tenure,
    Ticket,
)

DEFAULTS = ("1", "0.02", "1000", "1000", "")


class Log:
    """One JSON object per line."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, kind: str, **facts: Any) -> None:
        """Append a line with the present instant of CLOCK_BOOTTIME."""
        line = {"kind": kind, "at": _now(), **facts}
        os.write(self._fd, json.dumps(line).encode() + b"\n")


class State:
    """A stream's state: a count, its parent's digest, and a filler that changes a little each time."""

    def __init__(self, stream: str, payload_bytes: int, change_bytes: int) -> None:
        self.stream = stream
        self._change_bytes = change_bytes
        self.count = 0
        self.parent = ""
        self._filler = bytearray(random.Random(stream).randbytes(payload_bytes))
        self.digest = ""

    def load(self, checkpoint: Checkpoint) -> None:
        """Go on from a restored checkpoint; raises ValueError if it is not what `next_parts` gave."""
        parts = checkpoint.parts
        head = json.loads(parts["head"])
        self.count, self.parent = head["count"], head["parent"]
        self._filler = bytearray(parts["filler"])
        self.digest = _digest(parts)
        told = (head["stream"], head["filler"], checkpoint.meta.decode())
        if told != (self.stream, hashlib.sha256(self._filler).hexdigest(), self.digest):
            raise ValueError(f"the payload of {self.stream} is not what was submitted: {head}")

    def next_parts(self, position: tuple[int, int]) -> dict[str, bytes]:
        """The next state, as a mapping of parts, for that position."""
        self.count, self.parent = self.count + 1, self.digest
        if self._filler:
            at = random.randrange(max(1, len(self._filler) - self._change_bytes))
            size = min(self._change_bytes, len(self._filler) - at)
            self._filler[at : at + size] = random.randbytes(size)
        filler = bytes(self._filler)
        head = {
            "stream": self.stream,
            "position": position,
            "count": self.count,
            "parent": self.parent,
            "filler": hashlib.sha256(filler).hexdigest(),
        }
        parts = {"head": json.dumps(head).encode(), "filler": filler}
        self.digest = _digest(parts)
        return parts


def _digest(parts: dict[str, bytes]) -> str:
    return hashlib.sha256(parts["head"]).hexdigest()[:32]


class Engine:
    """Works whenever its node is primary."""

    def __init__(
        self, log: Log, streams: int, interval_s: float, sizes: list[int], change_bytes: int
    ) -> None:
        self._log = log
        self._sizes = {f"stream-{index}": sizes[index % len(sizes)] for index in range(streams)}
        self._interval_s = interval_s
        self._change_bytes = change_bytes

    def follow(self, replicator: Replicator) -> None:
        """Note what commits while another node is primary, until the replicator is closed."""
        for checkpoint in replicator.follow():
            state = State(checkpoint.stream, 0, 0)
            state.load(checkpoint)
            facts = {"stream": state.stream, "count": state.count, "digest": state.digest}
            self._log.write("followed", position=list(_pair(checkpoint.position)), **facts)

    def serve(self, replicator: Replicator) -> None:
        """Take one tenure after the other."""
        for tenure in replicator.tenures():
            try:
                states = self._restore(tenure)
                self._log.write("tenure", epoch=tenure.epoch, pid=os.getpid(), instants=tenure.instants)
                self._work(tenure, states)
            except CheckpointUnreadable as error:  # who has it may come back under another primary
                self._log.write("unreadable", epoch=tenure.epoch, error=str(error))
                tenure.resign()
            except ReplicatorError as error:
                self._log.write("error", epoch=tenure.epoch, error=f"{type(error).__name__}: {error}")
            tenure.wait_ended()
            self._log.write("ended", epoch=tenure.epoch, reason=tenure.ended_reason)

    def _restore(self, tenure: Tenure) -> list[State]:
        states = []
        for name, size in self._sizes.items():
            state = State(name, size, self._change_bytes)
            checkpoint = tenure.restored.get(name)
            if checkpoint is not None:
                state.load(checkpoint)
                self._log.write(
                    "restored",
                    epoch=tenure.epoch,
                    stream=name,
                    position=list(_pair(checkpoint.position)),
                    count=state.count,
                    digest=state.digest,
                )
            states.append(state)
        return states

    def _work(self, tenure: Tenure, states: list[State]) -> None:
        while tenure.wait_active():
            for state in states:
                position = _pair(tenure.next_position(state.stream))
                parts = state.next_parts(position)
                facts = {"stream": state.stream, "count": state.count, "digest": state.digest}
                active = [_now(), tenure.active, _now()]  # it was, or was not, at an instant between the two
                self._log.write("submitted", parent=state.parent, position=position, active=active, **facts)
                ticket = tenure.submit(state.stream, parts, meta=state.digest.encode())
                ticket.add_done_callback(partial(self._note, facts))
            time.sleep(self._interval_s)

    def _note(self, facts: dict[str, Any], ticket: Ticket) -> None:
        error = ticket.exception()
        if isinstance(error, CommitUnknown):
            self._log.write("unknown", error=str(error), **facts)
        elif error is not None:
            self._log.write("failed", error=repr(error), **facts)
        elif isinstance(outcome := ticket.result(), Superseded):
            self._log.write("superseded", **facts)
        else:
            position = list(_pair(outcome.position))
            stages, holders = getattr(outcome, "stages", {}), getattr(outcome, "holders", ())
            how = {"outcome": type(outcome).__name__, "stages": stages, "holders": holders}
            self._log.write("committed", position=position, **how, **facts)


def _pair(position: Any) -> tuple[int, int]:
    return position.epoch, position.sequence


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def end(signum: int, frame: object) -> NoReturn:
    raise SystemExit(0)


def main() -> None:
    """Run until SIGTERM."""
    path, *given = sys.argv[1:]
    streams, interval_s, payload_bytes, change_bytes, follow = [*given, *DEFAULTS[len(given) :]]
    log = Log(Path(path))
    sizes = [int(size) for size in payload_bytes.split(",")]
    engine = Engine(log, int(streams), float(interval_s), sizes, int(change_bytes))
    signal.signal(signal.SIGTERM, end)
    try:
        with Replicator.from_env() as replicator:
            log.write("started", pid=os.getpid())
            if follow:
                threading.Thread(target=engine.follow, args=(replicator,), daemon=True).start()
            engine.serve(replicator)
    except ReplicatorError as error:
        log.write("error", error=f"{type(error).__name__}: {error}")
        raise
    finally:
        log.write("closed")


if __name__ == "__main__":
    main()
