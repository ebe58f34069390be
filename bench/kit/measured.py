"""What the committed results say, as the README's tables: one of takeovers, one of all else.

    python -m bench.kit.measured          print them
    python -m bench.kit.measured --write  put them into the README, between their markers

They are made from `bench/results/*.json` alone, so a figure in the README is one that was measured; a test
holds the two together.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.kit.report import Cell, Report, Row, number, write_whole
from bench.kit.samples import Spread

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "bench" / "results"
README = ROOT / "README.md"
MARKERS = ("<!-- {} -->\n", "\n<!-- end of {} -->")  # around a table, which they name
FAULTS = {
    "engine": "SIGKILL of the engine, its worker says farewell",
    "worker": "SIGKILL of the worker",
    "node": "SIGKILL of engine and worker",
    "stop": "SIGSTOP of both",
    "cut": "network cut",
    "handover": "planned handover",
    "fetch": "SIGKILL of both, the winner lacks the newest checkpoint",
}
STAGES = ("detect", "elect", "claim", "fetch", "restore")

Line = tuple[str, str]  # what, figure


def middle(cell: Cell) -> str:
    """A figure without its spread."""
    if isinstance(cell, Spread):
        return number(cell.p50)
    return number(cell) if isinstance(cell, int | float) else "-"


def series(rows: Sequence[Row], column: str) -> str:
    """One column of several rows."""
    return " / ".join(middle(row[column]) for row in rows)


def commit_latency(report: Report) -> Iterator[Line]:
    """Latency and the floor by size, one line for each variant."""
    names = {
        "thread": "worker as a thread",
        "process": "worker as a process",
        "curve": "worker as a thread, links encrypted",
        "memory": "worker as a thread, `REPLICATOR_DURABILITY=memory`",
    }
    for variant, name in names.items():
        rows = [row for row in report.rows if row["variant"] == variant]
        if rows:
            sizes = " / ".join(str(row["size"]) for row in rows)
            figure = f"median {series(rows, 'commit_ms')} ms; {series(rows, 'ratio')} times the floor"
            if "over_zeromq" in rows[0]:
                figure += f", {series(rows, 'over_zeromq')} times the same over bare ZeroMQ"
            yield f"submit to committed by two of three nodes, {name}: {sizes}", figure


def compare(report: Report) -> Iterator[Line]:
    """Our latency and throughput over each rival's."""
    for kind in dict.fromkeys(str(row["class"]) for row in report.rows):
        group = [row for row in report.rows if row["class"] == kind]
        for system in dict.fromkeys(str(row["system"]) for row in group):
            rows = [row for row in group if row["system"] == system]
            if system.startswith("replicator") or "thread_over" not in rows[0]:
                continue
            sizes = " / ".join(str(row["size"]) for row in rows)
            figure = f"latency {series(rows, 'thread_over')} of theirs"
            timed = [row for row in rows if row["thread_times"] is not None]
            figure += f"; throughput {series(timed, 'thread_times')} times" if timed else ""
            yield f"against {system}, {kind}, worker as a thread: {sizes}", figure


def throughput(report: Report) -> Iterator[Line]:
    """The best rate for each size."""
    sizes = list(dict.fromkeys(str(row["size"]) for row in report.rows))
    best = [max((r for r in report.rows if r["size"] == size), key=_rate) for size in sizes]
    yield f"committed with many streams at once: {' / '.join(sizes)}", f"{series(best, 'mb_per_s_mean')} MB/s"


def _rate(row: Row) -> float:
    rate = row["mb_per_s_mean"]
    assert isinstance(rate, int | float)
    return rate


def delta(report: Report) -> Iterator[Line]:
    """Each kind of state: sent, over the chunks that differ, and the share of a full commit's time."""
    for row in report.rows:
        figure = (
            f"{middle(row['sent_kb'])} kB of chunks sent of {middle(row['state_mb'])} MB, on the wire "
            f"{middle(row['wire_over'])} of the fixed chunks that differ; {middle(row['share'])} of a full "
            "commit's time"
        )
        yield f"a checkpoint of a changed {row['state']}, chunks of {middle(row['chunk_kib'])} KiB", figure


def streams(report: Report) -> Iterator[Line]:
    """The largest number of streams."""
    row = report.rows[-1]
    figure = (
        f"node {middle(row['primary_mib'])} MiB, commit {middle(row['commit_ms'])} ms, "
        f"restart {middle(row['restart_s'])} s, takeover after the grant {middle(row['takeover_s'])} s"
    )
    yield f"{row['streams']:,} streams of 1 KB", figure


def catch_up(report: Report) -> Iterator[Line]:
    """The joiner's rate and what the others felt."""
    during = next(row for row in report.rows if row.get("phase") == "during")
    joined = report.rows[-1]
    figure = (
        f"{middle(joined['mb_per_s'])} MB/s; the others' commits take {middle(during['rises'])} times as long"
    )
    yield f"a late joiner of {middle(joined['lacked_mb'])} MB under load", figure


def ingestion(report: Report) -> Iterator[Line]:
    """Events per second and the tail, on over off, of what was measured with the most pairs."""
    pairs_max = max((count for row in report.rows if isinstance(count := row["pairs"], int)), default=0)
    for row in report.rows:
        if row["replication"] != "off" and row["pairs"] == pairs_max:
            figure = (
                f"{middle(row['events_ratio'])} of the events per second, p99.9 "
                f"{middle(row['p99_9_ratio'])} times, p99.99 {middle(row['p99_99_ratio'])} times; submit() "
                f"{middle(row['submit_us'])} µs, `active` {middle(row['active_ns'])} ns"
            )
            loop = "at full speed" if row["loop"] == "full" else "at a fixed rate"
            yield f"engine loop {loop}, {row['case']}, worker as a {row['replication']}", figure


def linearity(report: Report) -> Iterator[Line]:
    """Time for each megabyte, and the memory that the largest takes."""
    *rows, fit = report.rows
    sizes = " / ".join(middle(row["changed_mib"]) for row in rows)
    yield (
        f"submit to committed, worker as a process, MiB changed: {sizes}",
        f"median {series(rows, 'ms_per_mb')} ms for each MB; exponent {middle(fit['exponent'])}",
    )
    own = {name: middle(rows[-1][name]) for name in rows[-1]}
    yield (
        f"memory for it, {own['changed_mib']} MiB changed",
        f"worker {own['worker_mib']} MiB, {own['worker_more_mib']} more than payload and idle; "
        f"backup {own['backup_mib']} MiB, {own['backup_more_mib']} more than idle",
    )


def submit(report: Report) -> Iterator[Line]:
    """What one call takes by size, with nothing under way and with one."""
    modes = {"idle": "nothing is under way", "busy": "one of the stream is with the worker"}
    for mode, name in modes.items():
        rows = [row for row in report.rows if row["mode"] == mode]
        sizes = " / ".join(str(row["payload"]) for row in rows)
        figure = f"median {series(rows, 'submit_us')} µs, p99 {series(rows, 'p99_us')} µs"
        yield f"`submit()` on the engine's thread while {name}: {sizes}", figure


def footprint(report: Report) -> Iterator[Line]:
    """The import, and the processes."""
    for row in report.rows:
        if row.get("import") == "from replicator import Replicator":
            yield "the import", f"{middle(row['wall_ms'])} ms, {middle(row['added_mib'])} MiB"
    for state in ("idle", "busy"):
        rows = [row for row in report.rows if row.get("node") == state]
        names = " / ".join(str(row["process"]) for row in rows)
        yield f"{state} node: {names}", f"{series(rows, 'memory_mib')} MiB; {series(rows, 'cpu')} of a core"


WRITERS: dict[str, Callable[[Report], Iterator[Line]]] = {
    "commit_latency": commit_latency,
    "compare": compare,
    "throughput": throughput,
    "linearity": linearity,
    "delta": delta,
    "streams": streams,
    "catch_up": catch_up,
    "submit": submit,
    "ingestion": ingestion,
    "footprint": footprint,
}


def table(results: Path = RESULTS) -> str:
    """The table of all but takeovers, of the results that are there, and the commit of each."""
    lines = ["| what | figure | command |", "|---|---|---|"]
    names: dict[str, list[str]] = {}
    for name, write in WRITERS.items():
        path = results / f"{name}.json"
        if path.exists():
            report = Report.load(path)
            lines += [f"| {what} | {figure} | `{report.command}` |" for what, figure in write(report)]
            names.setdefault(report.versions["replicator"], []).append(f"`{name}`")
    where = "; ".join(f"{', '.join(each)} at {commit}" for commit, each in names.items())
    return "\n".join([*lines, *(["", f"Measured: {where}."] if where else [])])


def takeovers(report: Report) -> str:
    """The table of takeovers, and where the time of the first goes."""
    titles = "| fault | profile | rounds | median | p99 | max | to the first new commit |"
    lines = [titles, "|" + "---|" * (titles.count("|") - 1)]
    for row in report.rows:
        fault = FAULTS[str(row["fault"])] + ("" if row["variant"] == "-" else f", {row['variant']}")
        figures = [row[f"{name}_ms"] for name in ("p50", "p99", "max", "commit_p50")]
        cells = [fault, str(row["profile"]), middle(row["rounds"])]
        cells += ["" if span is None else f"{middle(span)} ms" for span in figures]
        lines.append("| " + " | ".join(cells) + " |")
    first = report.rows[0]
    spans = ", ".join(f"{name} {middle(first[f'{name}_ms'])}" for name in STAGES)
    where = f"`{report.command}`, at {report.versions['replicator']}"
    return "\n".join([*lines, "", f"{where}. Medians of the first line: {spans} ms."])


def blocks(results: Path = RESULTS) -> dict[str, str]:
    """What stands between which markers; a table without results stays as it is."""
    found = {"measured": table(results)}
    if (path := results / "failover.json").exists():
        found["failover"] = takeovers(Report.load(path))
    return found


def shown(name: str, readme: Path = README) -> str:
    """What stands between those markers of the README."""
    begin, end = (marker.format(name) for marker in MARKERS)
    _, is_there, rest = readme.read_text().partition(begin)
    found, ends, _ = rest.partition(end)
    if not is_there or not ends:
        raise ValueError(f"{readme.name} has no place for it: {begin.strip()} and {end.strip()}")
    return found


def write(readme: Path = README, results: Path = RESULTS) -> None:
    """Put the tables into the README; raises OSError as `write_whole` does."""
    for name, text in blocks(results).items():
        begin, end = (marker.format(name) for marker in MARKERS)
        old = f"{begin}{shown(name, readme)}{end}"
        write_whole(readme, readme.read_text().replace(old, f"{begin}{text}{end}").encode())


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        write()
    else:
        print("\n\n".join(blocks().values()))
