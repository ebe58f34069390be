"""The size of chunks: small where something is found again, larger where nothing is."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from replicator.model import StreamName
from replicator.settings import Settings
from replicator.worker.grain import ABOVE_BYTES, COARSE_BYTES_MAX, FRUITLESS, LOOK_EVERY, STREAMS_MAX, Grain
from tests.worker.nodes import running
from tests.worker.payloads import noise
from tests.worker.test_datapath_publish import chunks_of, take

FINE = 2**18
ORDERS = StreamName("orders")


def grain(**changes: Any) -> Grain:
    return Grain(Settings(data_dir=Path("unused"), **changes))


def sizes(grain: Grain, count: int, *, found_bytes: int = 0, payload_bytes: int = ABOVE_BYTES) -> list[int]:
    """Of the chunks of so many checkpoints, in each of which so much was found again."""
    given = []
    for _ in range(count):
        given.append(grain.chunk_bytes(ORDERS, payload_bytes))
        grain.note(ORDERS, payload_bytes, found_bytes)
    return given


def test_chunks_grow_where_nothing_is_found_again() -> None:
    """After a few checkpoints in a row."""
    assert sizes(grain(), FRUITLESS + 2) == [FINE] * FRUITLESS + [COARSE_BYTES_MAX] * 2


def test_a_little_that_is_found_is_nothing_and_much_is_something() -> None:
    """A sixteenth is worth small chunks again."""
    coarse = grain()
    sizes(coarse, FRUITLESS, found_bytes=ABOVE_BYTES // 16 - 1)
    assert sizes(coarse, 2, found_bytes=ABOVE_BYTES // 16) == [COARSE_BYTES_MAX, FINE]
    large = sizes(grain(), FRUITLESS + 1, found_bytes=ABOVE_BYTES // 4, payload_bytes=8 * ABOVE_BYTES)
    assert large[-1] == COARSE_BYTES_MAX


def test_what_only_small_chunks_would_find_is_looked_for_in_two_checkpoints() -> None:
    """The first is what the second is compared with."""
    given = sizes(grain(), 3 * LOOK_EVERY)
    looks = [n for n, (size, after) in enumerate(pairwise(given)) if (size, after) == (FINE, FINE)]
    assert looks == [*range(FRUITLESS - 1), *(n * LOOK_EVERY - 2 for n in (1, 2, 3))]


def test_small_checkpoints_are_cut_as_ever_and_say_nothing() -> None:
    """What is found in them is no reason for small chunks in large ones."""
    coarse = grain()
    assert sizes(coarse, 2 * FRUITLESS, payload_bytes=ABOVE_BYTES - 1) == [FINE] * 2 * FRUITLESS
    sizes(coarse, FRUITLESS)
    assert sizes(coarse, 1, payload_bytes=ABOVE_BYTES - 1, found_bytes=ABOVE_BYTES // 2) == [FINE]
    assert sizes(coarse, 1) == [COARSE_BYTES_MAX]


def test_a_checkpoint_in_which_nothing_has_changed_says_nothing() -> None:
    """A stream that rests would be sent whole, cut in another way."""
    given = grain()
    assert sizes(given, FRUITLESS - 1) + sizes(given, 2, found_bytes=ABOVE_BYTES) == [FINE] * (FRUITLESS + 1)
    assert sizes(given, 2) + sizes(given, 2, found_bytes=ABOVE_BYTES) == [FINE] + [COARSE_BYTES_MAX] * 3


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({"stream_chunk_bytes": {"ord*": FINE}}, FINE),
        ({"stream_chunk_bytes": {"other": FINE}}, COARSE_BYTES_MAX),
        ({"chunk_bytes": 2**14}, 2**16),
        ({"chunk_bytes": 2**19}, COARSE_BYTES_MAX),
        ({"chunk_bytes": 2**21}, 2**21),
        ({"chunk_bytes": 2**18, "transaction_bytes_max": 2**19}, 2**19),
    ],
    ids=["set", "set for another", "small", "half", "larger as it is", "small transactions"],
)
def test_settings_bound_the_size(changes: dict[str, Any], size: int) -> None:
    """What is set for the stream is kept; a chunk fits into a transaction."""
    assert sizes(grain(**changes), FRUITLESS + 1)[-1] == size


def test_few_streams_are_remembered() -> None:
    """The one that was noted longest ago is forgotten first."""
    coarse = grain()
    sizes(coarse, FRUITLESS)
    for other in range(STREAMS_MAX - 1):
        coarse.note(StreamName(f"s{other}"), ABOVE_BYTES, 0)
    assert sizes(coarse, 1) == [COARSE_BYTES_MAX]
    for other in range(STREAMS_MAX):
        coarse.note(StreamName(f"t{other}"), ABOVE_BYTES, 0)
    assert sizes(coarse, 1) == [FINE]


def test_where_nothing_is_found_again_chunks_are_larger() -> None:
    """And small again as soon as something is; checkpoints are restored whatever their chunks' sizes."""
    with running(2) as (primary, backup):
        given = []
        for sequence in range(1, FRUITLESS + 4):
            kept = noise(ABOVE_BYTES // 2, seed=100 + min(sequence, FRUITLESS + 1))
            changed = noise(ABOVE_BYTES // 2, seed=sequence) + kept
            manifest = take(backup, primary.publish(changed, sequence))
            primary.store.accept(manifest)
            given.append({chunk.raw_bytes for chunk in chunks_of(manifest)})
            assert backup.restore(manifest).parts[""] == changed
    small, large = {FINE}, {COARSE_BYTES_MAX}
    assert given == [small] * FRUITLESS + [large, large, small]
