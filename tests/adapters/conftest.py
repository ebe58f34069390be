"""What all tests of the store begin with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.adapters.store_kit import Stores


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    """Opens the test's store; whatever is open at the end is closed."""
    with Stores(tmp_path / "store") as stores:
        yield stores
