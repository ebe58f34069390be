"""How much is sent and stored when a little of a large state has changed?

Three nodes on this machine. Each kind of state is checkpointed again and again, about a hundredth of it
changed in between. `sent_kb` is what the primary published for one checkpoint, and `stored_kb` by how much a
backup's store grew. `chunks_kb` is what must change with fixed chunks of REPLICATOR_CHUNK_BYTES: those that
differ at their place, each compressed with LZ4; `over_chunks` is sent over that, below 1 where boundaries
follow the content. `over_changed` is sent over the bytes that the engine itself would say it has changed
(none for the model, whose changes are all over it). `delta_ms` is submit to committed of such a checkpoint,
`full_ms` that of the same state when all of it is new, taken in turns, and `share` the one over the other.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from lz4.block import compress

from bench.kit.cluster import Cluster
from bench.kit.commits import Payload, commit_ms
from bench.kit.payloads import freshen
from bench.kit.plots import draw_bars
from bench.kit.report import Report, Row
from bench.kit.run import command_line, parser, run
from bench.kit.samples import Spread
from bench.kit.states import KINDS

NAME = "delta"
KEEP = 64  # nothing is swept while it is measured, so what a store grows by is what it took in


def parts_of(payload: Payload) -> Mapping[str, bytes]:
    """The payload as parts, copied."""
    if isinstance(payload, Mapping):
        return payload
    return {"": bytes(payload)}


def changed_chunks_bytes(old: Mapping[str, bytes], new: Mapping[str, bytes], chunk_bytes: int) -> int:
    """The compressed bytes of the fixed chunks of *new* that are not at their place in *old*."""
    total = 0
    for name, part in new.items():
        before = old.get(name, b"")
        for start in range(0, len(part), chunk_bytes):
            chunk = part[start : start + chunk_bytes]
            if chunk != before[start : start + chunk_bytes]:
                total += min(len(chunk), len(compress(chunk, store_size=False)))
    return total


def anew(payload: Payload) -> Payload:
    """The same state with each chunk new."""
    fresh = {name: bytearray(part) for name, part in parts_of(payload).items()}
    for part in fresh.values():
        freshen(part)
    return {name: bytes(part) for name, part in fresh.items()} if isinstance(payload, Mapping) else fresh[""]


def usage(cluster: Cluster) -> tuple[int, int]:
    """What the primary has published and what the first backup stores, once all have everything."""
    primary, backup, *_ = cluster.level()
    return primary["sent_bytes"], backup["stored_bytes"]


def measure_kind(cluster: Cluster, kind: str, rounds: int) -> Row:
    """One kind of state."""
    state, chunk_bytes = KINDS[kind](), cluster.settings(cluster.names[0]).chunk_bytes
    payload, _ = state.step()
    old = parts_of(payload)
    commit_ms(cluster.tenure, kind, payload)
    figures: dict[str, list[float]] = {
        name: [] for name in ("sent", "stored", "chunks", "changed", "ms", "full")
    }
    for _ in range(rounds):
        sent, stored = usage(cluster)
        payload, changed = state.step()
        figures["ms"].append(commit_ms(cluster.tenure, kind, payload))
        sent_then, stored_then = usage(cluster)
        new = parts_of(payload)
        figures["sent"].append((sent_then - sent) / 1e3)
        figures["stored"].append((stored_then - stored) / 1e3)
        figures["chunks"].append(changed_chunks_bytes(old, new, chunk_bytes) / 1e3)
        figures["changed"].append(changed / 1e3)
        figures["full"].append(commit_ms(cluster.tenure, f"{kind}, all new", anew(payload)))
        old = new
    middle = {name: median(values) for name, values in figures.items()}
    return {
        "state": kind,
        "state_mb": round(sum(map(len, old.values())) / 1e6, 1),
        "changed_kb": round(middle["changed"], 1) or None,
        "sent_kb": Spread.of(figures["sent"], 1),
        "stored_kb": Spread.of(figures["stored"], 1),
        "chunks_kb": round(middle["chunks"], 1),
        "over_chunks": round(middle["sent"] / max(0.001, middle["chunks"]), 3),
        "over_changed": round(middle["sent"] / middle["changed"], 2) if middle["changed"] else None,
        "delta_ms": Spread.of(figures["ms"]),
        "full_ms": Spread.of(figures["full"]),
        "share": round(middle["ms"] / middle["full"], 3),
    }


def measure(options: argparse.Namespace) -> Report:
    """All kinds of state, each in a cluster of its own."""
    report = Report(question="What is sent when little has changed?", command=command_line(NAME))
    report.notes.append(f"worker as a {options.isolation}; {options.rounds} checkpoints of each state")
    for kind in options.kinds:
        with Cluster(options.isolation, directory=options.dir, keep=KEEP) as cluster:
            report.note_settings(cluster.settings(cluster.names[0]))
            report.add(measure_kind(cluster, kind, options.rounds))
    return report


def draw(report: Report, path: Path) -> None:
    """Bytes by kind of state: whole, changed, of the changed chunks, sent."""
    groups: dict[str, dict[str, float]] = {}
    for row in report.rows:
        sent, state, chunks, changed = (
            row[name] for name in ("sent_kb", "state_mb", "chunks_kb", "changed_kb")
        )
        assert isinstance(sent, Spread)
        assert isinstance(state, float)
        assert isinstance(chunks, float)
        bars = {"state": state * 1000, "changed chunks, LZ4": chunks, "sent": sent.p50}
        if isinstance(changed, float):
            bars["changed"] = changed
        groups[str(row["state"]).replace(", ", "\n")] = bars
    draw_bars(path, "Bytes for one checkpoint", "kB", groups)


def main() -> int:
    """Read the options and run."""
    options_of = parser(__doc__, NAME)
    add = options_of.add_argument
    add(
        "--kinds",
        nargs="+",
        choices=KINDS,
        metavar="KIND",
        default=list(KINDS),
        help="; ".join(KINDS).replace("%", "%%"),
    )
    add("--rounds", type=int, default=7, help="checkpoints of each state (default 7)")
    add("--isolation", choices=("process", "thread"), default="thread")

    def prepared(options: argparse.Namespace) -> Report:
        if options.quick:
            options.rounds, options.kinds = 2, options.kinds[:2]
        return measure(options)

    return run(options_of, prepared, draw)


if __name__ == "__main__":
    sys.exit(main())
