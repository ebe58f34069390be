"""How many commits and how many bytes per second, when many streams checkpoint at once?

Three nodes on this machine, synced on two. Each of the streams always has one checkpoint under way: as soon
as it has committed, the stream submits the next, all of whose chunks are new. `mb_per_s` counts bytes of
payload as the engine gave them, in slices of the time, so that its quartiles show how steady it is. `cpu` is
how many cores the three nodes used together, of the two that this process shares with them.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from queue import SimpleQueue

from bench.kit.cluster import TIMEOUT_S, Cluster
from bench.kit.payloads import MAKERS, SIZES, freshen
from bench.kit.plots import draw_lines
from bench.kit.process import Usage
from bench.kit.report import Report, Row
from bench.kit.run import command_line, parser, run
from bench.kit.samples import Spread
from replicator import Committed, Ticket
from tests.arguments import above_zero, one_or_more

NAME = "throughput"
STREAMS = (1, 8, 64)
MEMORY_BYTES_MAX = 2**29  # of all payloads together
SLICES = 10
WARM_UP_SHARE = 0.2


class Stream:
    """A stream that submits again when told so."""

    def __init__(self, cluster: Cluster, name: str, payload: bytearray, done: SimpleQueue[Stream]) -> None:
        self._cluster, self._name, self._payload, self._done = cluster, name, payload, done
        self._ticket: Ticket | None = None

    def submit(self) -> None:
        """Submit the next; it comes to the queue when it has ended."""
        if self._ticket is not None:
            if not isinstance(self._ticket.result(), Committed):
                raise TimeoutError(f"{self._ticket} has not committed")
            self._ticket.released.wait(TIMEOUT_S)
        freshen(self._payload)
        self._ticket = self._cluster.tenure.submit(self._name, self._payload)
        self._ticket.add_done_callback(lambda _: self._done.put(self))


def measure_one(cluster: Cluster, size: str, count: int, options: argparse.Namespace) -> Row:
    """One size over *count* streams."""
    payload, done = MAKERS[options.payload](SIZES[size]), SimpleQueue[Stream]()
    streams = [Stream(cluster, f"{size}-{n}-{count}", bytearray(payload), done) for n in range(count)]
    ends: list[float] = []
    with Usage(list(set(cluster.pids().values()))) as usage:
        began = time.perf_counter()
        for stream in streams:
            stream.submit()
        while time.perf_counter() < began + options.seconds:
            stream = done.get(timeout=TIMEOUT_S)
            ends.append(time.perf_counter() - began)
            stream.submit()
        for _ in streams:
            done.get(timeout=TIMEOUT_S)
    warm_up_s = options.seconds * WARM_UP_SHARE
    span_s = (options.seconds - warm_up_s) / SLICES
    ends = [end for end in ends if warm_up_s < end <= options.seconds]  # the last came after the time
    slices = [0] * SLICES
    for end in ends:
        slices[min(SLICES - 1, int((end - warm_up_s) / span_s))] += 1
    return {
        "size": size,
        "bytes": SIZES[size],
        "streams": count,
        "commits": len(ends),
        "commits_per_s": Spread.of([each / span_s for each in slices]),
        "mb_per_s": Spread.of([each * SIZES[size] / 1e6 / span_s for each in slices]),
        "mb_per_s_mean": round(len(ends) * SIZES[size] / 1e6 / span_s / SLICES, 1),
        "cpu": round(sum(usage.cpu_share.values()), 2),
    }


def measure(options: argparse.Namespace) -> Report:
    """All sizes and numbers of streams."""
    report = Report(question="How much commits per second over many streams?", command=command_line(NAME))
    report.notes.append(
        f"payload: {options.payload}; worker as a {options.isolation}; synced on two of three"
    )
    for size in options.sizes:
        for count in options.streams:
            if SIZES[size] * count > MEMORY_BYTES_MAX:
                continue
            with Cluster(options.isolation, directory=options.dir) as cluster:
                report.note_settings(cluster.settings(cluster.names[0]))
                report.add(measure_one(cluster, size, count, options))
    return report


def draw(report: Report, path: Path) -> None:
    """Throughput over size, a line for each number of streams."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in report.rows:
        size, rate = row["bytes"], row["mb_per_s_mean"]
        assert isinstance(size, int)
        assert isinstance(rate, float)
        lines.setdefault(f"{row['streams']} streams", []).append((size, rate))
    draw_lines(path, "Committed by two of three nodes, synced", "payload, bytes", "MB/s of payload", lines)


def main() -> int:
    """Read the options and run."""
    options_of = parser(__doc__, NAME)
    add = options_of.add_argument
    add("--sizes", nargs="+", choices=SIZES, metavar="SIZE", default=list(SIZES)[:5])
    add("--streams", nargs="+", type=one_or_more, default=STREAMS, help="how many at once (default 1 8 64)")
    add("--payload", choices=MAKERS, default="realistic")
    add("--isolation", choices=("process", "thread"), default="process")
    add("--seconds", type=above_zero, default=4.0, help="for each line (default 4)")

    return run(options_of, measure, draw, quick={"sizes": list(SIZES)[:3], "streams": (8,), "seconds": 1.0})


if __name__ == "__main__":
    sys.exit(main())
