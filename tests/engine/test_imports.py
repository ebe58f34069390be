"""What the engine's process pays for."""

from __future__ import annotations

import subprocess
import sys

import replicator

WORKER_ONLY = {"lmdb", "lz4", "blake3", "pysyncobj", "uvloop", "asyncio", "typer", "rich", "msgpack", "river"}


def test_the_engine_loads_no_library_of_the_workers() -> None:
    """Not by the import, and not by a blocking replicator's public names."""
    code = (
        "import sys; from replicator import Replicator, Settings, Tenure, Ticket, Committed;"
        "print(' '.join(sys.modules))"
    )
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert WORKER_ONLY & set(modules.split()) == set()


def test_every_public_name_is_there() -> None:
    """The lazy names are those that are promised, and no others."""
    assert set(dir(replicator)) == set(replicator.__all__)
    assert all(hasattr(replicator, name) for name in replicator.__all__)
    assert not hasattr(replicator, "Nonsense")
