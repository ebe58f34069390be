"""Errors: each says the same wherever it is read."""

from __future__ import annotations

import pickle

import pytest

from replicator import errors
from replicator.errors import ReplicatorError, SettingsError

KINDS = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and kind.__module__ == errors.__name__
]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_comes_whole_out_of_another_process(kind: type[ReplicatorError]) -> None:
    """As a pool of processes hands it on: its text, and of wrong settings each line."""
    error = SettingsError(["one wrong", "another"]) if kind is SettingsError else kind("what it is")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (kind, str(error), vars(error))


def test_wrong_settings_are_told_in_a_line_each() -> None:
    """Also where nobody asks for `problems`: in a traceback."""
    assert str(SettingsError(["one wrong", "another"])) == "one wrong\nanother"
