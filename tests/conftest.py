"""Options of the test suite."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--record` writes the transcripts anew instead of comparing them."""
    parser.addoption("--record", action="store_true", help="record the transcripts in tests/transcripts anew")
