"""What makes no sense is refused by the scripts: nothing that was not run passes for what went well."""

from __future__ import annotations

from importlib import import_module

import pytest

REFUSED = {
    "simulate --seeds 0": "argument --seeds: 0 is less than 1",
    "simulate --seeds -5": "argument --seeds: -5 is less than 1",
    "simulate --minutes -1": "argument --minutes: -1 is not more than 0",
    "simulate --jobs 0": "argument --jobs: 0 is less than 1",
    "simulate --state /no/y": "argument --state: no file can be made in /no: No such file or directory",
    "simulate --report nope": "argument --report: nope cannot be read: No such file or directory",
    "simulate --report /dev/null": "argument --report: /dev/null has no batches",
    "explore --depth -1": "argument --depth: -1 is less than 1",
    "explore --minutes 0": "argument --minutes: 0 is not more than 0",
    "explore --states 0": "argument --states: 0 is less than 1",
}
MODULES = {"simulate": "tests.simulation.__main__", "explore": "tests.exploration.__main__"}


@pytest.mark.parametrize("words", REFUSED)
def test_nothing_run_is_no_success(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What would run nothing, or could not be written down, ends with status 2 and one line."""
    name, *arguments = words.split()
    with pytest.raises(SystemExit, match="2"):
        import_module(MODULES[name]).main(arguments)
    out, err = capsys.readouterr()
    assert (out, err.splitlines()[-1]) == ("", f"scripts/{name}: error: {REFUSED[words]}")
