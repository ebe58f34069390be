"""The history checker: it passes a history that keeps every promise, and finds each way to break one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.history import Entry, History

STREAM = "s"


def _line(node: str, kind: str, **facts: Any) -> Entry:
    return {"node": node, "kind": kind, **facts}


def _state(node: str, kind: str, count: int, epoch: int, sequence: int, **facts: Any) -> Entry:
    told = {"stream": STREAM, "digest": f"d{count}", "position": [epoch, sequence], "count": count}
    return _line(node, kind, **told, **facts)


def _submitted(node: str, count: int, epoch: int, sequence: int, at: float, parent: str = "") -> Entry:
    parent = parent or (f"d{count - 1}" if count > 1 else "")
    active = [at, True, at + 0.001]
    return _state(node, "submitted", count, epoch, sequence, parent=parent, active=active)


def _restored(node: str, count: int, epoch: int, sequence: int) -> Entry:
    return {**_state(node, "restored", count, epoch, sequence), "epoch": epoch}


def _good() -> list[Entry]:
    """Two tenures: three states of the first, of which the last never commits; the second goes on."""
    return [
        _line("a", "started"),
        _line("b", "started"),
        _line("a", "tenure", epoch=1, pid=10),
        _submitted("a", 1, 1, 1, at=1.0),
        _state("a", "committed", 1, 1, 1),
        _submitted("a", 2, 1, 2, at=2.0),
        _state("a", "committed", 2, 1, 2),
        _state("b", "followed", 2, 1, 2),
        _submitted("a", 3, 1, 3, at=3.0),
        _state("a", "unknown", 3, 1, 3, error="CommitUnknown"),
        _restored("b", 2, 2, 2),
        _line("b", "tenure", epoch=2, pid=20),
        {**_submitted("b", 3, 2, 3, at=4.0), "digest": "e3"},
        {**_state("b", "superseded", 3, 2, 3), "digest": "e3"},
        _submitted("b", 4, 2, 4, at=5.0, parent="e3"),
        _state("b", "committed", 4, 2, 4),
    ]


def _kinds(lines: list[Entry]) -> set[str]:
    history = History()
    for line in lines:
        history.add(line)
    return {kind for kind, _ in history.violations()}


def _without(kind: str, node: str) -> list[Entry]:
    return [line for line in _good() if (line["kind"], line["node"]) != (kind, node)]


def _with(*lines: Entry, at: int | None = None) -> list[Entry]:
    good = _good()
    at = len(good) if at is None else at
    return [*good[:at], *lines, *good[at:]]


def _changed(number: int, **facts: Any) -> list[Entry]:
    good = _good()
    good[number] = {**good[number], **facts}
    return good


def test_a_history_that_keeps_every_promise_passes() -> None:
    """States that never commit, or are superseded, and a takeover from the last commit are no violation."""
    assert _kinds(_good()) == set()


def _rolled_back() -> list[Entry]:
    older = {"digest": "d1", "count": 1, "position": [2, 1]}
    return _changed(10, **older)


DOCTORED: dict[str, tuple[Callable[[], list[Entry]], str]] = {
    "a tenure restores nothing": (lambda: _without("restored", "b"), "lost"),
    "a tenure restores an older state": (_rolled_back, "rolled back"),
    "a state that was restored is forgotten": (
        lambda: _with(
            _restored("a", 2, 3, 2),
            _line("a", "tenure", epoch=3, pid=11),
        ),
        "rolled back",
    ),
    "the commit of a state beside the chain": (
        lambda: _with(_state("a", "followed", 3, 1, 3)),
        "fork",
    ),
    "a tenure restores a state beside the chain": (
        lambda: _with(
            {**_restored("a", 3, 3, 3), "digest": "d3"},
            _line("a", "tenure", epoch=3, pid=11),
        ),
        "fork",
    ),
    "one position is given twice": (
        lambda: _with({**_submitted("b", 5, 2, 4, at=6.0), "digest": "x5"}),
        "two contents",
    ),
    "one digest is submitted twice": (lambda: _with(_submitted("b", 4, 2, 9, at=6.0)), "two contents"),
    "a restored state has another sequence": (lambda: _changed(10, position=[2, 7]), "two contents"),
    "a commit of what nobody submitted": (lambda: _changed(15, digest="alien"), "corrupt"),
    "a restored state of what nobody submitted": (lambda: _changed(10, digest="alien"), "corrupt"),
    "a state with other bytes": (lambda: _changed(7, count=1), "corrupt"),
    "an engine that could not load a state": (
        lambda: _with(_line("b", "corrupt", error="not what was submitted")),
        "corrupt",
    ),
    "two nodes with one epoch": (lambda: _with(_line("a", "tenure", epoch=2, pid=10)), "two owners"),
    "two processes of a node with one epoch": (
        lambda: _with(_line("b", "tenure", epoch=2, pid=21)),
        "two owners",
    ),
    "an older tenure is active after a newer one": (
        lambda: _with({**_submitted("a", 4, 1, 4, at=4.5), "digest": "x4"}),
        "two active",
    ),
    "commits reported in the wrong order": (
        lambda: [_good()[number] for number in (0, 1, 2, 3, 5, 6, 4, *range(7, 16))],
        "backwards",
    ),
    "a standby gets an older state": (
        lambda: _with(_state("b", "followed", 1, 1, 1), at=8),
        "backwards",
    ),
    "a standby gets a state twice": (
        lambda: _with(_state("b", "followed", 2, 1, 2), at=8),
        "backwards",
    ),
    "a standby gets an older state after two tenures": (
        lambda: _with(
            *(_line("b", "tenure", epoch=epoch, pid=20) for epoch in (2, 4)),
            _state("b", "followed", 1, 1, 1),
            at=8,
        ),
        "backwards",
    ),
    "a ticket ends twice": (lambda: _with(_state("a", "committed", 3, 1, 3), at=10), "two outcomes"),
    "a ticket fails": (
        lambda: _with(_state("b", "failed", 5, 2, 5, error="ValueError()")),
        "unexpected",
    ),
    "a call fails": (lambda: _with(_line("b", "error", error="StoreError: no")), "unexpected"),
}


@pytest.mark.parametrize("name", DOCTORED)
def test_every_way_to_break_a_promise_is_found(name: str) -> None:
    """A history doctored in one place is found out, and under the right name."""
    make, kind = DOCTORED[name]
    assert kind in _kinds(make())


def test_every_kind_has_a_doctored_history() -> None:
    """No kind of violation is named by the checker and never tried."""
    told = History.__init__.__globals__["__doc__"].split("=\n")[1].splitlines()
    kinds = {line[:17].strip() for line in told if line[:1].strip() and not line.startswith("=")}
    assert kinds == {kind for _, kind in DOCTORED.values()}


def test_a_new_life_of_a_standby_begins_anew() -> None:
    """After a restart a standby is given what it was given before."""
    assert _kinds(_with(_line("b", "started"), _state("b", "followed", 2, 1, 2), at=8)) == set()


@pytest.mark.parametrize(
    "word", [_line("b", "tenure", epoch=2, pid=20), _line("b", "ended", epoch=2, reason="resigned")]
)
def test_after_a_tenure_of_its_own_a_standby_may_get_its_last_again(word: Entry) -> None:
    """What the engine made of it is not committed."""
    again = _state("b", "followed", 2, 1, 2)
    assert _kinds(_with(word, again, at=8)) == set()


def test_a_suspended_submit_is_no_activity() -> None:
    """Submitting while suspended is allowed, whoever is primary meanwhile."""
    late = {**_submitted("a", 4, 1, 4, at=4.5), "digest": "x4", "active": [4.5, False, 4.6]}
    assert _kinds(_with(late)) == set()


def test_a_line_that_was_cut_off_is_none(tmp_path: Path) -> None:
    """What a killed engine was writing counts for nothing; the node is named by the log's directory."""
    log = tmp_path / "a" / "log.jsonl"
    log.parent.mkdir()
    lines = [json.dumps({k: v for k, v in line.items() if k != "node"}) for line in _good()[2:5]]
    log.write_text("\n".join([*lines, '{"kind": "committed", "stre']))
    history = History.read([log])
    assert (history.counts["committed"], history.violations()) == (1, [])
