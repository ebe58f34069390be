"""Core, codec and simulator compiled with mypyc: the same sources, twice as fast, for long runs.

Nothing but speed may differ. Of every batch one seed is run again from the sources, by the interpreter,
and must give the same trace. What is compiled lies in build/simulation, beside the path of its sources.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from tests.simulation import run
from tests.simulation.batches import SOURCE_FILE

PACKAGES = ("replicator", "tests")
COMPILED = ("replicator/core", "replicator/codec", "tests/simulation", "tests/simulation/checkers")
# msgspec reads the annotations of a structure's class, and mypyc keeps none: these define what is decoded
# or has defaults that are made by a factory. The rest of the simulator only starts it, or tests it.
INTERPRETED = frozenset(
    {"__init__", "config", "effects", "events", "frames", "image", "messages"}
    | {"__main__", "batches", "compiled", "plots"}
)
STAMP_FILE = "STAMP"


class BuildError(Exception):
    """The compiler did not do it; the text says why."""


def is_compiled() -> bool:
    """Whether this very process runs compiled code."""
    return not run.__file__.endswith(".py")


def build(root: Path) -> Path:
    """Compile what lies in *root* unless that has been done; return the directory to run it from.

    Raises `BuildError`.
    """
    target = root / "build" / "simulation"
    stamp = _stamp(root)
    if (target / STAMP_FILE).exists() and (target / STAMP_FILE).read_text() == stamp:
        return target
    print("compiling core and simulator, about a minute", file=sys.stderr, flush=True)
    shutil.rmtree(target, ignore_errors=True)
    for package in PACKAGES:
        shutil.copytree(root / package, target / package, ignore=shutil.ignore_patterns("__pycache__"))
    mypyc = Path(sys.executable).with_name("mypyc")
    try:
        done = subprocess.run(
            [str(mypyc), *modules(target)], cwd=target, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise BuildError(f"{mypyc} does not run: {error.strerror}; it comes with mypy") from error
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if "error" in line.lower()]
        raise BuildError("\n".join(["core and simulator cannot be compiled:", *lines[-10:]]))
    (target / SOURCE_FILE).write_text(str(root))
    (target / STAMP_FILE).write_text(stamp)
    return target


def modules(root: Path) -> list[str]:
    """What is compiled, as paths below *root*."""
    return [
        str(path.relative_to(root))
        for folder in COMPILED
        for path in sorted((root / folder).glob("*.py"))
        if path.stem not in INTERPRETED and not path.stem.startswith("test_")
    ]


def _stamp(root: Path) -> str:
    """Names the sources and the interpreter that a build is of."""
    digest = hashlib.sha256(sys.version.encode())
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
