"""How much is sent and stored when a little of a large state has changed?

Three nodes on this machine. Each kind of state is checkpointed again and again, about a hundredth of it
changed in between. `sent_kb` are the chunks that the primary published for one checkpoint, `wire_kb` all that
it sent to each backup meanwhile, as the kernel counts it: also the manifest, which names every chunk of the
state, headers and heartbeats (with the worker as a thread only, whose connections are this process's).
`stored_kb` is by how much a backup's store grew. `chunks_kb` is what must change with fixed chunks of
REPLICATOR_CHUNK_BYTES: those that differ at their place, each compressed as the publisher does; `sent_over`
and `wire_over` are sent and wire over that. `lz4_over` is `chunks_kb` over what LZ4 makes of these chunks at
its default, which takes longer. `over_changed` is sent over the bytes that the engine itself would say it has
changed (none for the model, whose changes are all over it).
`delta_ms` is submit to committed of such a
checkpoint, `full_ms` that of the same state when all of it is new, taken in turns, and `share` the one over
the other.

Chunks have the size of the row, also where nothing is found again: larger ones would be others than those
that are counted. --chunk-kib takes each state with several sizes: smaller ones send less of what is
scattered, but name, hash and look up more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from statistics import median

from lz4 import block

from bench.kit.cluster import Cluster
from bench.kit.commits import Payload, commit_ms
from bench.kit.payloads import KIB, freshen
from bench.kit.plots import draw_bars
from bench.kit.report import Report, Row
from bench.kit.run import command_line, parser, run
from bench.kit.samples import Spread
from bench.kit.states import KINDS
from bench.kit.wire import wire_bytes
from replicator.codec.chunking import digest_of
from replicator.codec.compression import compress
from tests.arguments import one_or_more

NAME = "delta"
CHUNK_KIB = 256  # the default
PAYLOAD_BYTES_MAX = 2**28  # small chunks allow no larger one
KEEP = 64  # nothing is swept while it is measured, so what a store grows by is what it took in


def parts_of(payload: Payload) -> Mapping[str, bytes]:
    """The payload as parts, copied."""
    if isinstance(payload, Mapping):
        return payload
    return {"": bytes(payload)}


def changed_chunks_kb(
    old: Mapping[str, bytes], new: Mapping[str, bytes], chunk_bytes: int
) -> tuple[float, float]:
    """The fixed chunks of *new* that are not at their place in *old*: kilobytes as the publisher compresses
    them, and as LZ4 does by default."""
    ours = default = 0
    for name, part in new.items():
        before = old.get(name, b"")
        for start in range(0, len(part), chunk_bytes):
            chunk = part[start : start + chunk_bytes]
            if chunk != before[start : start + chunk_bytes]:
                ours += len(compress(memoryview(chunk), digest_of(chunk))[1])
                default += min(len(chunk), len(block.compress(chunk, store_size=False)))
    return ours / 1e3, default / 1e3


def anew(payload: Payload) -> Payload:
    """The same state with each chunk new."""
    fresh = {name: bytearray(part) for name, part in parts_of(payload).items()}
    for part in fresh.values():
        freshen(part)
    return {name: bytes(part) for name, part in fresh.items()} if isinstance(payload, Mapping) else fresh[""]


def usage(cluster: Cluster) -> dict[str, float]:
    """Kilobytes that the primary has published, that it has sent to each backup, and that the first backup
    stores, once all have everything."""
    primary, backup, *others = cluster.level()
    used = {"sent": primary["sent_bytes"], "stored": backup["stored_bytes"]}
    return {name: count / 1e3 for name, count in used.items()} | {
        "wire": wire_bytes() / 1e3 / (1 + len(others))
    }


def measure_kind(cluster: Cluster, kind: str, rounds: int) -> Row:
    """One kind of state."""
    settings = cluster.settings(cluster.names[0])
    state, chunk_bytes = KINDS[kind](), settings.chunk_bytes
    payload, _ = state.step()
    old = parts_of(payload)
    commit_ms(cluster.tenure, kind, payload)
    figures: dict[str, list[float]] = {
        name: [] for name in ("sent", "wire", "stored", "chunks", "default", "changed", "ms", "full")
    }
    for _ in range(rounds):
        before = usage(cluster)
        payload, changed = state.step()
        figures["ms"].append(commit_ms(cluster.tenure, kind, payload))
        for name, used in usage(cluster).items():
            figures[name].append(used - before[name])
        new = parts_of(payload)
        chunks, default = changed_chunks_kb(old, new, chunk_bytes)
        figures["chunks"].append(chunks)
        figures["default"].append(default)
        figures["changed"].append(changed / 1e3)
        figures["full"].append(commit_ms(cluster.tenure, f"{kind}, all new", anew(payload)))
        old = new
    middle = {name: median(values) for name, values in figures.items()}
    is_seen = settings.isolation == "thread"
    over = {name: round(middle[name] / max(0.001, middle["chunks"]), 3) for name in ("sent", "wire")}
    return {
        "state": kind,
        "chunk_kib": chunk_bytes // KIB,
        "state_mb": round(sum(map(len, old.values())) / 1e6, 1),
        "changed_kb": round(middle["changed"], 1) or None,
        "sent_kb": Spread.of(figures["sent"], 1),
        "wire_kb": Spread.of(figures["wire"], 1) if is_seen else None,
        "stored_kb": Spread.of(figures["stored"], 1),
        "chunks_kb": round(middle["chunks"], 1),
        "sent_over": over["sent"],
        "wire_over": over["wire"] if is_seen else None,
        "lz4_over": round(middle["chunks"] / max(0.001, middle["default"]), 3),
        "over_changed": round(middle["sent"] / middle["changed"], 2) if middle["changed"] else None,
        "delta_ms": Spread.of(figures["ms"]),
        "full_ms": Spread.of(figures["full"]),
        "share": round(middle["ms"] / middle["full"], 3),
    }


def measure(options: argparse.Namespace) -> Report:
    """All kinds of state, each in a cluster of its own."""
    report = Report(question="What is sent when little has changed?", command=command_line(NAME))
    report.notes.append(f"worker as a {options.isolation}; {options.rounds} checkpoints of each state")
    for kind, chunk_kib in product(options.kinds, options.chunk_kib):
        fixed = {"chunk_bytes": chunk_kib * KIB, "stream_chunk_bytes": {"*": chunk_kib * KIB}}
        changes = {"keep": KEEP, "payload_bytes_max": PAYLOAD_BYTES_MAX, **fixed}
        with Cluster(options.isolation, directory=options.dir, **changes) as cluster:
            report.note_settings(cluster.settings(cluster.names[0]))
            report.add(measure_kind(cluster, kind, options.rounds))
    for name in ("REPLICATOR_CHUNK_BYTES", "REPLICATOR_STREAM_CHUNK_BYTES"):  # a column
        report.settings.pop(name, None)
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
        name = str(row["state"]).replace(", ", "\n")
        groups[name if row["chunk_kib"] == CHUNK_KIB else f"{name}\n{row['chunk_kib']} KiB"] = bars
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
    add("--rounds", type=one_or_more, default=7, help="checkpoints of each state (default 7)")
    add("--chunk-kib", type=one_or_more, nargs="+", metavar="KIB", default=[CHUNK_KIB], help="default 256")
    add("--isolation", choices=("process", "thread"), default="thread")

    return run(options_of, measure, draw, quick={"kinds": list(KINDS)[:2], "rounds": 2})


if __name__ == "__main__":
    sys.exit(main())
