"""What embedding costs an engine's process before it does anything: import time and memory.

    python -m bench.footprint [--runs 15] [--json]

A bare interpreter and one that imports the public names are started in turns; medians and spread of what
the import adds. Time is measured inside the process around the import; memory is its resident set, after
less before. The worker's own libraries are not among it: they load in the worker.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys

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


def probe(statement: str) -> tuple[float, float, float]:
    """Wall and processor milliseconds and MiB that *statement* adds in a fresh interpreter."""
    code = PROBE.format(statement=statement)
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    wall, cpu, memory = map(float, output.split())
    return wall * 1e3, cpu * 1e3, memory / 2**20


def main() -> int:
    """Measure, and print a table or one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m bench.footprint", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15, help="fresh interpreters per statement")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    for statement in STATEMENTS.values():
        probe(statement)  # compiled files are written once
    samples: dict[str, list[tuple[float, float, float]]] = {name: [] for name in STATEMENTS}
    for _ in range(options.runs):
        for name, statement in STATEMENTS.items():
            samples[name].append(probe(statement))
    report: dict[str, object] = {"machine": platform.platform(), "python": platform.python_version()}
    for name, values in samples.items():
        walls, cpus, memories = zip(*values, strict=True)
        report[name] = {
            "wall_ms": round(statistics.median(walls), 1),
            "wall_ms_max": round(max(walls), 1),
            "cpu_ms": round(statistics.median(cpus), 1),
            "added_mib": round(statistics.median(memories), 1),
        }
    if options.json:
        print(json.dumps(report))
        return 0
    print(f"{report['machine']}, Python {report['python']}, {options.runs} runs each, medians")
    for name in STATEMENTS:
        row = report[name]
        assert isinstance(row, dict)
        print(
            f"{name:36} {row['wall_ms']:6.1f} ms (max {row['wall_ms_max']:.1f}, cpu {row['cpu_ms']:.1f})"
            f" {row['added_mib']:6.1f} MiB"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
