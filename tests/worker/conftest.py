"""What several tests of the worker begin with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.worker.driver_fakes import Bench


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A driver on a bench of its own."""
    bench = Bench()
    yield bench
    bench.close()
