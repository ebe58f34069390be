"""One way to run a measurement: the same options everywhere, an end without leftovers, one report.

A script defines ``measure(options) -> Report`` and, if it can be drawn, ``draw(report, path)``, and calls
`run`. Ctrl-C, SIGTERM and a terminal that closes end it cleanly: what has been started is stopped, and
nothing is written.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.kit import plots
from bench.kit.report import Report
from replicator import ReplicatorError
from replicator.settings import PREFIX, SCRIPT_NAMES
from replicator.signals import ending_signals, interrupt_each_time
from tests.arguments import directory, writable

Measure = Callable[[argparse.Namespace], Report]
Draw = Callable[[Report, Path], None]

STANDARD_OUTPUT = Path("-")
FILES = ("--json", "--plot", "--dir", "--state")  # options that say where to, and nothing of what


def parser(doc: str | None, name: str) -> argparse.ArgumentParser:
    """The options that all measurements have; the module's docstring is the help."""
    made = argparse.ArgumentParser(
        prog=f"scripts/bench {name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--json", metavar="FILE", type=json_file, help="write the report as JSON; - is standard output"
    )
    made.add_argument("--plot", metavar="FILE.svg", type=plot_file, help="draw it (needs matplotlib)")
    made.add_argument("--quick", action="store_true", help="a few seconds instead of minutes; rough figures")
    made.add_argument(
        "--dir", metavar="DIR", type=directory, help="where the stores are made, and removed again"
    )
    return made


def json_file(text: str) -> Path:
    """Where a report is written; `-` is standard output."""
    return STANDARD_OUTPUT if text == "-" else writable(text)


def plot_file(text: str) -> Path:
    """Where a plot is drawn."""
    if Path(text).suffix != ".svg":
        raise argparse.ArgumentTypeError(f"{text} does not end in .svg")
    return writable(text)


def run(
    options_of: argparse.ArgumentParser,
    measure: Measure,
    draw: Draw | None = None,
    arguments: list[str] | None = None,
) -> int:
    """Measure, print, write, draw; the exit status: 0, 1 for what failed, 130 when it was interrupted."""
    options = options_of.parse_args(arguments)
    if options.plot is not None:
        if draw is None:
            options_of.error("this measurement has no plot")
        try:
            plots.require()
        except plots.PlotsMissing as error:
            options_of.error(str(error))
    for each in ending_signals():
        signal.signal(each, interrupt_each_time)
    for name in unheeded(os.environ):
        print(f"{name} is not heeded: a measurement has its own settings", file=sys.stderr)
    try:
        report = measure(options)
    except KeyboardInterrupt:
        print("interrupted: nothing is written", file=sys.stderr)
        return 130
    except (ReplicatorError, OSError, TimeoutError) as error:
        print(f"{options_of.prog}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    if options.json == STANDARD_OUTPUT:
        sys.stdout.write(report.to_json().decode())
    else:
        print(report.text())
        if options.json:
            report.save(options.json)
    if options.plot is not None and draw is not None:
        draw(report, options.plot)
    return 0


def unheeded(environ: Mapping[str, str]) -> list[str]:
    """The settings of an engine that are in the environment, where no measurement looks for them."""
    return sorted(name for name in environ.keys() - SCRIPT_NAMES if name.startswith(PREFIX))


def command_line(name: str, arguments: list[str] | None = None) -> str:
    """How this measurement was called, for its report, without the files that it writes."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    kept: list[str] = []
    while words:
        word = words.pop(0)
        if word in FILES:
            del words[:1]
        elif not word.startswith(tuple(f"{name}=" for name in FILES)):
            kept.append(word)
    return shlex.join(["scripts/bench", name, *kept])
