"""``scripts/chaos``: torment a cluster of real processes, and say whether every promise was kept.

The run re-enters itself in namespaces of its own (`network`), makes a directory of its own, and removes it
unless something went wrong. The exit status is 1 if a promise was broken. With --state the figures of several
runs add up in one file.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from replicator.cli.output import guarded
from replicator.signals import interrupt_each_time
from tests.arguments import above_zero, resumable
from tests.chaos.nemeses import NEMESES
from tests.chaos.network import INSIDE, enter, inherited_signals, missing
from tests.chaos.report import add_up, sums, words
from tests.chaos.run import torment
from tests.chaos.world import Options

MODULE = "tests.chaos"


def _arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=above_zero, default=1.0, help="how long (default 1)")
    parser.add_argument("--nodes", type=int, default=3, choices=range(2, 8), help="how many (default 3)")
    parser.add_argument("--seed", type=int, help="what the faults are drawn from (default: a random one)")
    parser.add_argument("--nemeses", default="", help=f"some of: {','.join(NEMESES)} (default: all)")
    parser.add_argument(
        "--state", type=resumable(sums), help="a file in which the figures of several runs add up"
    )
    parser.add_argument("--loopback", action="store_true", help="do without namespaces, even where there are")
    parser.add_argument("--json", action="store_true", help="the report as one line of JSON")
    parser.add_argument("--keep", action="store_true", help="keep the run's directory, also when all is well")
    options = parser.parse_args(given)
    wrong = set(filter(None, options.nemeses.split(","))) - NEMESES.keys()
    if wrong:
        parser.error(f"no such nemesis: {', '.join(sorted(wrong))}; there are {', '.join(NEMESES)}")
    return options


is_interrupted = False


def _end(signum: int, frame: object) -> NoReturn:
    global is_interrupted
    is_interrupted = True
    interrupt_each_time()


def main(given: list[str]) -> int:
    """Run it; the exit status."""
    arguments = _arguments(given)
    reason = "not wanted" if arguments.loopback else "" if os.environ.get(INSIDE) else missing()
    if not reason and not os.environ.get(INSIDE):
        enter(MODULE, given)
    if reason:
        print(f"no namespaces here ({reason}): nodes on loopback, nothing is cut or full", file=sys.stderr)
    for each in inherited_signals():
        signal.signal(each, _end)
    seed = random.randrange(2**32) if arguments.seed is None else arguments.seed
    options = Options(arguments.nodes, seed, not reason)
    names = [name for name in arguments.nemeses.split(",") if name] or list(NEMESES)
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    began = time.monotonic()

    def say(what: str) -> None:
        with suppress(OSError):  # the terminal may have been closed
            print(f"{time.monotonic() - began:7.1f} s  {what}", file=sys.stderr, flush=True)

    say(f"seed={seed} nodes={options.nodes} namespaces={options.namespaces} directory={directory}")
    is_kept = True
    try:
        report = torment(directory, options, arguments.minutes * 60, names, say)
        is_kept = arguments.keep or bool(report["problems"] or report["violations"])
    except BaseException as error:
        if not is_interrupted:
            raise
        # Processes of the same terminal end at the same moment: what is done just then may fail as well.
        say("interrupted" if isinstance(error, KeyboardInterrupt) else f"interrupted: {error!r}")
        is_kept = arguments.keep
        return 130
    finally:
        if not is_kept:
            shutil.rmtree(directory, ignore_errors=True)
    _tell(report, arguments)
    if is_kept:
        say(f"see {directory}")
    return 1 if report["problems"] or report["violations"] else 0


def _tell(report: dict[str, Any], arguments: argparse.Namespace) -> None:
    print(json.dumps(report) if arguments.json else words(report))
    if arguments.state is not None:
        total = add_up(arguments.state, report)
        print(f"in all: {json.dumps(total)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(guarded("scripts/chaos", lambda: main(sys.argv[1:])))
