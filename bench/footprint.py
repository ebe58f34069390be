"""What embedding costs: import time and memory, and what a node uses when it is idle and when it is busy.

The import: a bare interpreter and one that imports the public names are started in turns; what is added by
the import, time measured around it inside the process, memory as its resident set. The worker's own libraries
are not among it: they load in the worker.

The node: three nodes on this machine, the worker as a child process. `memory_mib` is the anonymous memory of
each process (engine, its worker, a backup), `cpu` its share of one core: idle, and with 1 MB committed every
100 ms.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from bench.kit.cluster import Cluster
from bench.kit.commits import commit_ms
from bench.kit.payloads import MIB, freshen, realistic
from bench.kit.process import Usage
from bench.kit.report import Report
from bench.kit.run import command_line, parser, run
from bench.kit.samples import Spread
from tests.arguments import above_zero, one_or_more

NAME = "footprint"
PROBE = """
import sys, time
def resident():
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * 4096
before, wall, cpu = resident(), time.perf_counter(), time.process_time()
{statement}
print(time.perf_counter() - wall, time.process_time() - cpu, resident() - before)
"""
STATEMENTS = {
    "import replicator": "import replicator",
    "from replicator import Replicator": "from replicator import Replicator",
    "import zmq (for comparison)": "import zmq",
    "import asyncio (for comparison)": "import asyncio",
}
BUSY_INTERVAL_S = 0.1
SETTLE_S = 2.0


def probe(statement: str) -> tuple[float, float, float]:
    """Wall and processor milliseconds and MiB that *statement* adds in a fresh interpreter."""
    code = PROBE.format(statement=statement)
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    wall, cpu, memory = map(float, output.split())
    return wall * 1e3, cpu * 1e3, memory / 2**20


def measure_imports(report: Report, runs: int) -> None:
    """A line for each statement, taken in turns."""
    for statement in STATEMENTS.values():
        probe(statement)  # compiled files are written once
    samples: dict[str, list[tuple[float, float, float]]] = {name: [] for name in STATEMENTS}
    for _ in range(runs):
        for name, statement in STATEMENTS.items():
            samples[name].append(probe(statement))
    for name, values in samples.items():
        walls, cpus, memories = zip(*values, strict=True)
        report.add(
            {
                "import": name,
                "wall_ms": Spread.of(walls, 1),
                "cpu_ms": Spread.of(cpus, 1),
                "added_mib": Spread.of(memories, 1),
            }
        )


def measure_nodes(report: Report, options: argparse.Namespace) -> None:
    """A line for each process, idle and busy."""
    with Cluster("process", directory=options.dir) as cluster:
        worker, backup = (cluster.pids()[cluster.names[place]] for place in (0, 1))
        processes = {"engine": os.getpid(), "worker of the primary": worker, "backup": backup}
        payload = realistic(MIB)
        for state in ("idle", "busy"):
            time.sleep(SETTLE_S)
            with Usage(list(processes.values())) as usage:
                until = time.monotonic() + options.seconds
                while time.monotonic() < until:
                    began = time.monotonic()
                    if state == "busy":
                        freshen(payload)
                        commit_ms(cluster.tenure, "state", payload)
                    time.sleep(max(0.0, began + BUSY_INTERVAL_S - time.monotonic()))
            for name, pid in processes.items():
                share = round(usage.cpu_share[pid], 3)
                report.add(
                    {
                        "process": name,
                        "node": state,
                        "memory_mib": round(usage.peak_mib[pid], 1),
                        "cpu": share,
                    }
                )


def measure(options: argparse.Namespace) -> Report:
    """The import, then the nodes."""
    report = Report(question="What does embedding cost?", command=command_line(NAME))
    report.notes.append("the engine's process here holds the measurement as well")
    measure_imports(report, options.runs)
    measure_nodes(report, options)
    return report


def main() -> int:
    """Read the options and run."""
    options_of = parser(__doc__, NAME, has_plot=False)
    options_of.add_argument(
        "--runs", type=one_or_more, default=15, help="fresh interpreters per statement (default 15)"
    )
    options_of.add_argument("--seconds", type=above_zero, default=8.0, help="idle, and busy (default 8)")

    return run(options_of, measure, quick={"runs": 3, "seconds": 1.5})


if __name__ == "__main__":
    sys.exit(main())
