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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.kit import plots
from bench.kit.report import Report
from replicator import ReplicatorError
from replicator.cli.output import drop, prepare, write
from replicator.settings import PREFIX, SCRIPT_NAMES
from replicator.signals import interrupt_each_time
from tests.arguments import directory, writable
from tests.chaos.network import inherited_signals

Measure = Callable[[argparse.Namespace], Report]
Draw = Callable[[Report, Path], None]

STANDARD_OUTPUT = Path("-")
QUICK = "other defaults: a few seconds instead of minutes, and rough figures"
FILES = ("--json", "--plot", "--dir", "--state")  # options that say where to, and nothing of what


def parser(doc: str | None, name: str, *, has_plot: bool = True) -> argparse.ArgumentParser:
    """The options that all measurements have, --plot if it can be drawn; the module's doc is the help."""
    prepare()  # the help, too, has characters that not every encoding has
    made = argparse.ArgumentParser(
        prog=f"scripts/bench {name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--json", metavar="FILE", type=json_file, help="write the report as JSON; - is standard output"
    )
    if has_plot:
        made.add_argument("--plot", metavar="FILE.svg", type=plot_file, help="draw it (needs matplotlib)")
    made.set_defaults(plot=None)
    made.add_argument("--quick", action="store_true", help=QUICK)
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
    quick: Mapping[str, Any] | None = None,
) -> int:
    """Measure, print, write, draw; the exit status: 0, 1 for what failed, 130 when it was interrupted.

    *quick* are the defaults with --quick; what is given counts with it as without.
    """
    options = options_of.parse_args(arguments)
    if options.quick:
        options_of.set_defaults(**(quick or {}))
        options = options_of.parse_args(arguments)
    if options.plot is not None:
        try:
            plots.require()
        except plots.PlotsMissing as error:
            options_of.error(str(error))
    for each in inherited_signals():
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
    for promise in report.broken:
        print(f"{options_of.prog}: {promise}", file=sys.stderr)
    status = 1 if report.broken else 0
    for deliver in _deliveries(report, options, draw):  # one that fails is in no other's way
        try:
            deliver()
        except OSError as error:
            status = unwritten(options_of.prog, error)
    return status


def _deliveries(
    report: Report, options: argparse.Namespace, draw: Draw | None
) -> Iterator[Callable[[], None]]:
    if options.json == STANDARD_OUTPUT:
        yield lambda: write(report.to_json())
    else:
        yield lambda: print(report.text(), flush=True)
    if options.json not in (None, STANDARD_OUTPUT):
        yield lambda: report.save(options.json)
    if options.plot is not None and draw is not None:
        yield lambda: draw(report, options.plot)


def unwritten(program: str, error: OSError) -> int:
    """Say in one line what could not be written: a file, which the error names, or the output. Returns 1."""
    if error.filename is None:
        drop(sys.stdout)
    print(f"{program}: {error.filename or 'standard output'}: {error.strerror}", file=sys.stderr)
    return 1


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
