"""Reading beside a running node: what it has at that moment, or had a moment ago."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.adapters.store_kit import Stores

READER = """
import sys
from pathlib import Path
from replicator.adapters.store_reader import StoreReader
reader = StoreReader(Path(sys.argv[1]))
for _ in sys.stdin:
    print(reader.manifest("a").sequence, flush=True)
"""


def test_a_reader_that_stays_sees_what_has_come_since(stores: Stores) -> None:
    """What the environment has by now, also where it never was in the journal. What only the journal
    has it may miss, for as long as the environment stands still."""
    opened = stores.open()
    opened.promise(1)
    with subprocess.Popen(
        [sys.executable, "-c", READER, stores.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        for sequence, content in enumerate((b"1", b"2", os.urandom(900_000), b"4"), 1):
            opened.accept("a", sequence, content)
            if sequence > 1:
                opened.settle()
            print(file=reader.stdin, flush=True)
            assert reader.stdout.readline() == f"{sequence}\n"
