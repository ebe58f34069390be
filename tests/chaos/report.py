"""What a run tells: in words, and added to what earlier runs have told."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

SUMS = ("seconds", "able_s", "stalled_s")
MOST = ("longest_stall_s",)


def words(report: dict[str, Any]) -> str:
    """The report for people."""
    faults, lines = report["faults"], report["lines"]
    told = [
        f"{sum(faults.values())} faults in {report['seconds']:.0f} s on {report['nodes']} nodes"
        f" (seed {report['seed']}): "
        + ", ".join(f"{kind} {count}" for kind, count in sorted(faults.items(), key=lambda item: -item[1])),
        f"{lines.get('submitted', 0)} checkpoints submitted, {lines.get('committed', 0)} commits reported, "
        f"{lines.get('tenure', 0)} tenures, {lines.get('restored', 0)} checkpoints restored, "
        f"{lines.get('followed', 0)} given to standbys",
        f"a majority was healthy and connected for {report['able_s']:.0f} s, of these "
        f"{100 * report['stalled_share']:.1f} % without progress, the longest {report['longest_stall_s']} s",
    ]
    told += [
        f"  {each['seconds']:7.1f} s in {each['count']:3d}, longest {each['longest_s']:5.2f} s: {cause}"
        for cause, each in report["stalls"].items()
    ]
    told.append(f"whole again after {report['whole_again_s']}; memory {report['memory_peak_mib']} MiB")
    told += [f"PROBLEM {text}" for text in report["problems"]]
    told += [f"VIOLATION {text}" for text in report["violations"]]
    told.append(f"{len(report['violations'])} violations, {len(report['problems'])} problems")
    return "\n".join(told)


def sums(path: Path) -> dict[str, Any]:
    """The file's sums, none if there is nothing; raises ValueError if it has something else."""
    total = json.loads(path.read_text() or "{}") if path.exists() else {}
    known = {"runs", "faults", "lines", *SUMS, *MOST}
    if not isinstance(total, dict) or (total and not known <= total.keys()):
        raise ValueError("no sums of runs")
    return total


def add_up(path: Path, report: dict[str, Any]) -> dict[str, Any]:
    """Add the report to the file's sums, and return them."""
    total = sums(path)
    total["runs"] = total.get("runs", 0) + 1
    for name in SUMS:
        total[name] = round(total.get(name, 0.0) + report[name], 1)
    for name in MOST:
        total[name] = max(total.get(name, 0.0), report[name])
    for name in ("faults", "lines"):
        total[name] = dict(Counter(total.get(name, {})) + Counter(report[name]))
    for name in ("problems", "violations"):
        total[name] = total.get(name, 0) + len(report[name])
    stalls = total.setdefault("stalls", {})
    for cause, each in report["stalls"].items():
        before = stalls.get(cause, {"count": 0, "seconds": 0.0, "longest_s": 0.0})
        stalls[cause] = {
            "count": before["count"] + each["count"],
            "seconds": round(before["seconds"] + each["seconds"], 2),
            "longest_s": max(before["longest_s"], each["longest_s"]),
        }
    total["faults_total"] = sum(total["faults"].values())
    total["stalled_share"] = round(total["stalled_s"] / total["able_s"], 4) if total["able_s"] else 0.0
    path.write_text(json.dumps(total, indent=1) + "\n")
    return total
