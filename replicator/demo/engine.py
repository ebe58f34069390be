"""One engine process of the demo: it embeds the library as any engine would, through its public names.

While it is primary it takes rows from the tap, learns, writes its predictions out and submits a
checkpoint several times a second. While it is not, it waits in `tenures()`; if it is to be warm it loads
whatever commits meanwhile, so that it can go on at once. What it is told of its
checkpoints goes to the journal before anything else happens with it.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from replicator import Committed, Replicator, Tenure, Ticket
from replicator.demo.learner import Learner, Row, read_rows
from replicator.demo.records import Entry, Journal, Kind, Prediction, Predictions, now
from replicator.demo.tap import Tap
from replicator.demo.tie import end_with_director
from replicator.errors import ReplicatorError, TenureEnded
from replicator.model import Position

STREAM = "shuttle"
BLOCK_ROWS = 100  # learned between two looks at the lease: about 10 ms
IDLE_S = 0.002
STATUS_INTERVAL_S = 0.25
LAST_COMMIT_TIMEOUT_S = 10


class Engine:
    """Learns the rows of the tap, in one tenure after the other."""

    def __init__(self, rows: tuple[Row, ...], interval_s: float, tap: Tap, directory: Path) -> None:
        self._rows = rows
        self._interval_s = interval_s
        self._tap = tap
        self._directory = directory
        self._journal = Journal(directory)
        self._predictions = Predictions(directory)
        self._warm: tuple[Position, Learner] | None = None  # loaded while another node is primary

    def keep_warm(self, replicator: Replicator) -> None:
        """Load what commits while this node is a backup, until the replicator is closed."""
        for checkpoint in replicator.follow():
            self._warm = (checkpoint.position, Learner.restore(checkpoint.parts, checkpoint.meta))

    def serve(self, replicator: Replicator) -> None:
        """Work whenever this node is primary; returns when the replicator is closed."""
        threading.Thread(target=self._note_status, args=(replicator,), daemon=True).start()
        self._note(Entry("waiting", now()))
        for tenure in replicator.tenures():
            with contextlib.suppress(TenureEnded):  # what is under way is the next tenure's to restore
                self._work(tenure, self._restore(tenure))
            tenure.wait_ended()
            self._note(Entry("ended", now(), tenure.epoch, text=tenure.ended_reason or ""))

    def _restore(self, tenure: Tenure) -> Learner:
        """The learner of the last committed checkpoint, or a new one."""
        restored = tenure.restored.get(STREAM)
        warm, self._warm = self._warm, None
        if restored is not None and warm is not None and warm[0] == restored.position:
            learner = warm[1]
        else:
            learner = Learner.restore(restored.parts, restored.meta) if restored else Learner()
        position = restored.position if restored else None
        self._note(
            Entry("restored", now(), tenure.epoch, position, learner.offset, numbers=dict(tenure.instants))
        )
        return learner

    def _work(self, tenure: Tenure, learner: Learner) -> None:
        """Learn and submit until the rows or the tenure end; raises `TenureEnded`."""
        started_at, due = learner.offset, now()
        while learner.offset < len(self._rows):
            block = self._rows[learner.offset : min(self._tap.arrived, learner.offset + BLOCK_ROWS)]
            predictions: list[Prediction] = []
            for row in block:
                predictions.append((learner.offset, tenure.epoch, learner.learn(row)))
            if not tenure.active and not tenure.wait_active():
                return  # deposed: these rows are the next primary's to predict
            if not block:
                time.sleep(IDLE_S)
                continue
            self._predictions.append(predictions)
            if predictions[0][0] == started_at:
                self._note(Entry("serving", now(), tenure.epoch, offset=learner.offset))
            if now() >= due:
                due = now() + self._interval_s
                self._submit(tenure, learner)
        self._finish(tenure, learner)

    def _submit(self, tenure: Tenure, learner: Learner) -> Ticket:
        """Hand the learner's state over; what becomes of it is noted."""
        offset = learner.offset
        ticket = tenure.submit(STREAM, learner.dump(), learner.meta())
        ticket.add_done_callback(lambda done: self._note(_outcome(done, offset)))
        return ticket

    def _finish(self, tenure: Tenure, learner: Learner) -> None:
        """Have the last state committed, then leave the result; raises `CommitUnknown`."""
        self._submit(tenure, learner).result(LAST_COMMIT_TIMEOUT_S)
        learner.result().write(self._directory)
        self._note(Entry("finished", now(), tenure.epoch, offset=learner.offset))

    def _note(self, entry: Entry) -> None:
        self._journal.append(entry)

    def _note_status(self, replicator: Replicator) -> None:
        """Note now and then what this node holds and has sent."""
        while True:
            try:
                self._note(_own_status(replicator.status()))
            except ReplicatorError as error:
                logging.getLogger(__name__).debug("no status: %s", error)
            time.sleep(STATUS_INTERVAL_S)


def _outcome(ticket: Any, offset: int) -> Entry:
    """What became of the checkpoint at row *offset*."""
    position = ticket.position
    if ticket.exception() is not None:
        return Entry("unknown", now(), position.epoch, position, offset)
    outcome = ticket.result()
    kind: Kind = "committed" if isinstance(outcome, Committed) else "superseded"
    return Entry(kind, now(), outcome.position.epoch, outcome.position, offset)


def _own_status(status: dict[str, Any]) -> Entry:
    """The part of a status that is about this node."""
    member = next(member for member in status["members"] if member["node"] == status["node"])
    head = next((each["head"] for each in member["streams"] if each["stream"] == STREAM), None)
    position = Position(head["epoch"], head["sequence"]) if head else None
    names = ("raw_bytes", "sent_bytes", "served_bytes", "stored_bytes")
    numbers = {name: float(member["usage"][name]) for name in names}
    return Entry("status", now(), member["epoch"], position, text=member["role"], numbers=numbers)


def main(rows: str, interval_s: str, warm: str, tap: str, directory: str) -> None:
    """Run one engine; settings come from the environment."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    end_with_director()
    engine = Engine(read_rows(int(rows)), float(interval_s), Tap(Path(tap)), Path(directory))
    with Replicator.from_env() as replicator:
        if warm == "warm":
            threading.Thread(target=engine.keep_warm, args=(replicator,), daemon=True).start()
        engine.serve(replicator)


if __name__ == "__main__":
    main(*sys.argv[1:])
