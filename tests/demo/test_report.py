"""The demo's conclusions are drawn from the records, and they can be bad ones."""

from __future__ import annotations

import os
from pathlib import Path

from replicator.demo.records import Entry, Journal, Predictions, Result
from replicator.demo.report import Stages, assemble, count_lost, takeover
from replicator.model import Position


def restored(epoch: int, position: Position | None, at: float = 0, offset: int = 0) -> Entry:
    return Entry("restored", at, epoch, position, offset)


def committed(epoch: int, sequence: int) -> Entry:
    return Entry("committed", 0, epoch, Position(epoch, sequence))


def test_nothing_is_lost_when_each_tenure_restores_the_last_commit_or_a_newer_checkpoint() -> None:
    """A checkpoint that was stored by a majority but never reported may be restored: that is not a loss."""
    entries = [restored(1, None), committed(1, 1), committed(1, 2), restored(2, Position(1, 2))]
    entries += [committed(2, 3), restored(5, Position(2, 4)), committed(5, 5)]
    assert count_lost(entries) == 0


def test_every_commit_newer_than_a_later_restore_is_lost() -> None:
    """Two commits after what the next tenure restored are two losses, also if a later tenure looks right."""
    entries = [restored(1, None), *(committed(1, n) for n in (1, 2, 3)), restored(2, Position(1, 1))]
    assert count_lost(entries) == 2
    assert count_lost([*entries, restored(3, Position(1, 3))]) == 2


def test_a_later_epoch_counts_before_a_higher_sequence() -> None:
    """What an earlier epoch's primary issued without a commit never stands for a later epoch's commit."""
    assert count_lost([committed(2, 7), restored(3, Position(1, 9))]) == 1


def test_a_tenure_that_restores_nothing_loses_all_earlier_commits() -> None:
    """An empty restore after commits is a loss of each."""
    assert count_lost([committed(1, 1), committed(1, 2), restored(2, None)]) == 2


def test_a_row_counts_as_its_last_epoch_predicted_it() -> None:
    """Rows replayed after a takeover replace the dead primary's; a different bit is a difference."""
    first = [(0, 1, 0.5), (1, 1, 0.25), (2, 1, 0.75)]
    assert assemble([(1, 2, 0.1), (2, 2, 0.2), *first]) == assemble([(0, 0, 0.5), (1, 0, 0.1), (2, 0, 0.2)])
    assert assemble(first) != assemble([(0, 0, 0.5), (1, 0, 0.25), (2, 0, 0.7500000000000001)])
    assert assemble(first) != assemble(first[:2])


def test_a_takeover_is_told_by_stages_that_add_up() -> None:
    """Each stage ends at its instant; the whole is from the kill to the first row."""
    entries = [
        restored(1, None, at=1),
        Entry("restored", 10.9, 4, Position(1, 7), 500, numbers={"granted": 10.5, "claimed": 10.6}),
        Entry("serving", 11.0, 4, offset=600),
    ]
    told = takeover("a", "b", 10.0, 800, entries)
    assert told.stages == Stages(detect=500.0, claim=100.0, fetch=0.0, restore=400.0)
    assert (told.kill_to_serving_ms, told.rows_replayed, told.epoch) == (1000.0, 300, 4)


def test_records_are_read_as_they_were_written_but_for_a_torn_end(tmp_path: Path) -> None:
    """A line or record that a kill cut short is left for later, or for ever."""
    journal, predictions = Journal(tmp_path), Predictions(tmp_path)
    assert journal.read_new() == []
    assert list(predictions.read()) == []
    journal.append(committed(1, 1))
    predictions.append([(0, 1, 0.1), (1, 1, 0.2)])
    for name in ("journal.jsonl", "predictions.bin"):
        with (tmp_path / name).open("ab") as file:
            os.write(file.fileno(), b'{"ki')
    assert journal.read_new() == [committed(1, 1)]
    assert journal.read_new() == []
    assert list(predictions.read()) == [(0, 1, 0.1), (1, 1, 0.2)]


def test_a_result_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    """The metric comes back to the bit."""
    assert Result.read(tmp_path) is None
    result = Result(3, 0.1 + 0.2, "aa", "bb")
    result.write(tmp_path)
    assert Result.read(tmp_path) == result
