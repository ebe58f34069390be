"""Does a healthy primary stay primary, whatever the machine is busy with?

Three nodes with engines on this machine, and beside them a busy loop for each core, one thread that keeps
each engine's interpreter busy (GIL load), a file that is written and synced without end (a busy disk), and
a checkpoint of 16 MiB of new bytes every second (or --head-mib, --fresh-every). A follower is stopped for a
while and continued, and killed and started again, once a minute: a returning node must not disturb anybody.
Every tenure after the first is a false takeover; spans in which the tenure was suspended are counted. Nothing
may be lost, and no two tenures active at once; else the exit status is 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.kit.report import Report, progress
from bench.kit.run import command_line, parser, run
from bench.takeover.history import History
from tests.arguments import above_zero, none_or_more, one_or_more
from tests.integration.cluster import Cluster, now, wait_until

NAME = "steadiness"
INTERVAL_S = 0.1
RETURN_EVERY_S = 20.0
STOPPED_S = 2.0


def burn() -> None:
    """Keep a core busy."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is for whoever measures
    while True:
        random.random()


def scribble(path: str) -> None:
    """Keep the disk busy."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    block = os.urandom(2**20)
    file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    while True:
        for place in range(64):
            os.pwrite(file, block, place * len(block))
        os.fsync(file)


def measure(options: argparse.Namespace) -> Report:
    """One long run."""
    report = Report(question=(__doc__ or "").partition("\n")[0], command=command_line(NAME))
    with ExitStack() as stack:
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="replicator-steady-", dir=options.dir))
        )
        cluster = stack.enter_context(
            Cluster(directory / "nodes", 3, profile=options.profile, isolation=options.isolation)
        )
        words = ["0", str(options.head_mib << 20), str(INTERVAL_S), "burn"]
        program = (sys.executable, "-m", "bench.takeover.engine")
        for node in cluster.nodes.values():
            node.start(*program, str(node.log), *words)
        history = History(cluster)
        first = wait_until(lambda: history.tenure_since(0.0), 30, "a first tenure")
        _load(stack, directory, options.burners)
        followers = [node for name, node in cluster.nodes.items() if name != first["node"]]
        primary, began_at, count = cluster[first["node"]], now(), 0
        returns_at = began_at + RETURN_EVERY_S
        while now() < began_at + options.minutes * 60 and len(history.tenures) == 1:
            os.kill(primary.pid, signal.SIGUSR1)
            time.sleep(options.fresh_every)
            history.poll()
            if now() >= returns_at:
                returns_at, count = now() + RETURN_EVERY_S, count + 1
                node = followers[count % 2]
                if count % 3:
                    node.stop()
                    time.sleep(STOPPED_S)
                    node.cont()
                else:
                    node.kill()
                    node.start(*program, str(node.log), *words)
                progress(
                    f"{(now() - began_at) / 60:.1f} min, {len(history.commits)} commits, {count} returns"
                )
        spent_min = (now() - began_at) / 60
        suspended = primary.output().count("is suspended")
        lost, overlaps = history.lost(), history.overlaps()
    report.add(
        {
            "profile": options.profile, "head_mib": options.head_mib, "minutes": round(spent_min, 1),
            "commits": len(history.commits), "returns": count,
            "false_takeovers": len(history.tenures) - 1, "suspended": suspended,
            "lost": len(lost), "two_active": len(overlaps),
        }
    )  # fmt: skip
    report.broken = broken(lost, overlaps)
    return report


def broken(lost: Sequence[str], overlaps: Sequence[str]) -> list[str]:
    """A line for each promise that was not kept, with the first that shows it."""
    found = {"committed checkpoints were lost": lost, "times two tenures were active": overlaps}
    return [f"{len(each)} {what}, first {each[0]}" for what, each in found.items() if each]


def _load(stack: ExitStack, directory: Path, burners: int) -> None:
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=burn, daemon=True) for _ in range(burners)]
    jobs.append(context.Process(target=scribble, args=(str(directory / "scribble"),), daemon=True))
    for job in jobs:
        job.start()
        stack.callback(job.join)
        stack.callback(job.kill)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    made = parser(__doc__, NAME, has_plot=False)
    made.add_argument("--minutes", type=above_zero, default=30.0, help="how long (default 30)")
    made.add_argument("--profile", choices=("default", "fast", "wan"), default="default")
    made.add_argument("--isolation", choices=("process", "thread"), default="process")
    made.add_argument(
        "--head-mib", type=one_or_more, default=16, metavar="MIB", help="a checkpoint (default 16)"
    )
    made.add_argument("--fresh-every", type=above_zero, default=1.0, metavar="S", help="all new (default 1)")
    made.add_argument(
        "--burners",
        type=none_or_more,
        default=os.cpu_count() or 1,
        help="busy processes beside the nodes (default: one for each core)",
    )
    return run(made, measure, None, arguments, quick={"minutes": 0.2})


if __name__ == "__main__":
    sys.exit(main())
