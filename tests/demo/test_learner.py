"""The demo's learner is deterministic: restored at any row, it goes on to the same bits."""

from __future__ import annotations

import pytest

pytest.importorskip("river")

from replicator.demo.learner import Learner, Row, read_rows

ROWS = 3_000


@pytest.fixture(scope="module")
def rows() -> tuple[Row, ...]:
    return read_rows(ROWS)


def test_the_rows_are_real_and_come_with_the_package(rows: tuple[Row, ...]) -> None:
    """Nine integer channels and a label each; nothing is downloaded."""
    assert len(rows) == ROWS
    assert all(len(channels) == 9 and truth in (0, 1) for channels, truth in rows)


def test_a_restored_learner_goes_on_to_the_same_bits(rows: tuple[Row, ...]) -> None:
    """Restored every 700 rows, after having predicted 50 rows in vain, it says and knows the same."""
    whole, pieces = Learner(), Learner()
    expected = [whole.learn(row) for row in rows]
    predictions: list[float] = []
    while pieces.offset < ROWS:
        end = min(pieces.offset + 700, ROWS)
        predictions += [pieces.learn(row) for row in rows[pieces.offset : end]]
        parts, meta = pieces.dump(), pieces.meta()
        for row in rows[end : end + 50]:
            pieces.learn(row)
        pieces = Learner.restore({name: memoryview(part) for name, part in parts.items()}, meta)
    assert [p.hex() for p in predictions] == [p.hex() for p in expected]
    assert pieces.result() == whole.result()
    assert whole.result().metric > 0.9


def test_a_lost_row_shows(rows: tuple[Row, ...]) -> None:
    """A learner that skips one row comes to other digests: the comparison can fail."""
    whole, skipping = Learner(), Learner()
    for number, row in enumerate(rows):
        whole.learn(row)
        if number != 1_000:
            skipping.learn(row)
    assert skipping.result().predictions_digest != whole.result().predictions_digest
    assert skipping.result().model_digest != whole.result().model_digest
