"""An engine with a sink, for the zombie test: it looks, is held up for as long as a test likes, then writes.

Usage: ``sink_script.py DATABASE GATES``. A tenure's one write goes through when the file GATES/<epoch> is
there. What it does it prints, a line each.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from replicator import Replicator
from tests.examples.sqlite_sink import Refused, SqliteSink


def main(database: Path, gates: Path) -> None:
    """Write one row in each tenure."""
    with Replicator.from_env() as replicator:
        for tenure in replicator.tenures():
            sink = SqliteSink(database)
            sink.fence(tenure.epoch)
            tenure.wait_active()
            print(f"epoch {tenure.epoch}: about to write", flush=True)
            while not (gates / str(tenure.epoch)).exists():
                time.sleep(0.01)
            try:
                sink.write(tenure.epoch, [(tenure.epoch, 0.5)])
                print(f"epoch {tenure.epoch}: written", flush=True)
            except Refused as refusal:
                print(f"refused: {refusal}", flush=True)
            sink.close()
            tenure.wait_ended()
            print(f"epoch {tenure.epoch}: ended", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
