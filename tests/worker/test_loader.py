"""The loader: which heads come together, and what is told of those that cannot be read."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import pytest
from msgspec.structs import replace

from replicator.errors import CheckpointUnreadable
from replicator.model import Epoch, Head, Payload, StreamName
from replicator.worker.inbox import Loaded
from replicator.worker.loader import HEADS_MAX, Loader
from tests.worker.driver_fakes import head
from tests.worker.nodes import wait_until

FOUR = Epoch(4)
DEADLINE_S = 10


class Data:
    """Small heads, but for those called large; those called rotten cannot be read, and those called endless
    are read as long as they are wanted; *gate* lets it go on."""

    def __init__(self) -> None:
        self.gate, self.begun = threading.Event(), threading.Event()

    def restore(self, head: Head, is_wanted: Callable[[], bool]) -> Payload:
        self.begun.set()
        while head.stream == "endless" and is_wanted():
            self.gate.wait(0.001)
        self.gate.wait(DEADLINE_S)
        if head.stream.startswith("rotten"):
            raise CheckpointUnreadable("rotten")
        return Payload({"": head.stream.encode()})

    def restore_small(self, heads: Iterable[Head]) -> dict[StreamName, Payload]:
        names = [StreamName(head.stream) for head in heads]
        if "broken" in names:
            raise OSError("broken")
        self.begun.set()
        self.gate.wait(DEADLINE_S)
        return {
            s: Payload({"": s.encode()}) for s in names if not s.startswith(("large", "rotten", "endless"))
        }


@pytest.fixture
def data() -> Data:
    return Data()


@pytest.fixture
def told() -> queue.Queue[tuple[Loaded, ...]]:
    return queue.Queue()


@pytest.fixture
def loader(data: Data, told: queue.Queue[tuple[Loaded, ...]]) -> Iterator[Loader]:
    loader = Loader(cast(Any, data), told.put)
    yield loader
    data.gate.set()
    loader.close()


def names(results: tuple[Loaded, ...]) -> list[str]:
    return [result.head.stream for result in results]


def test_small_heads_come_together_and_all_others_alone(
    loader: Loader, data: Data, told: queue.Queue[tuple[Loaded, ...]]
) -> None:
    """What is large, or cannot be read, is read by itself, which says why it cannot."""
    data.gate.set()
    streams = ["a", "large", "b", "rotten"]
    loader.load(FOUR, [head(stream) for stream in streams])
    together, large, rotten = (told.get(timeout=DEADLINE_S) for _ in range(3))
    assert (names(together), names(large), names(rotten)) == (["a", "b"], ["large"], ["rotten"])
    assert [result.payload for result in together] == [Payload({"": b"a"}), Payload({"": b"b"})]
    assert (rotten[0].payload, rotten[0].error) == (None, "rotten")
    assert {result.epoch for result in (*together, *large, *rotten)} == {FOUR}


def test_what_breaks_the_small_ones_leaves_the_others(
    loader: Loader, data: Data, told: queue.Queue[tuple[Loaded, ...]]
) -> None:
    """An error of many heads is looked for in each: the loader lives, and all of them are told of."""
    data.gate.set()
    loader.load(FOUR, [head("a"), head("broken"), head("b")])
    assert [names(told.get(timeout=DEADLINE_S)) for _ in range(3)] == [["a"], ["broken"], ["b"]]


def test_close_waits_for_no_checkpoint(loader: Loader, data: Data) -> None:
    """However large the one is that is being restored."""
    closer = threading.Thread(target=loader.close, daemon=True)
    loader.load(None, [head("endless")])
    assert data.begun.wait(DEADLINE_S)
    closer.start()
    data.gate.set()
    closer.join(DEADLINE_S)
    assert not closer.is_alive()


def test_a_tenure_comes_before_standbys_and_a_bounded_number_at_once(
    loader: Loader, data: Data, told: queue.Queue[tuple[Loaded, ...]]
) -> None:
    """Standbys one by one; what is dropped before its turn is not loaded."""
    loader.load(None, [head("first")])
    assert data.begun.wait(DEADLINE_S)
    loader.load(None, [head("standby")])
    loader.load(FOUR, [head("dropped")])
    loader.drop()
    loader.load(FOUR, [head(f"s{n}") for n in range(HEADS_MAX + 2)])
    data.gate.set()
    sizes = [(each[0].epoch, len(each)) for each in (told.get(timeout=DEADLINE_S) for _ in range(4))]
    assert sizes == [(None, 1), (FOUR, HEADS_MAX), (FOUR, 2), (None, 1)]


def test_what_is_restored_for_a_standby_is_the_tenure_s_if_that_wants_it(
    loader: Loader, data: Data, told: queue.Queue[tuple[Loaded, ...]]
) -> None:
    """It is restored once, and named as the tenure knows it; what else standbys wanted is dropped."""
    loader.load(None, [head("large"), head("standby")])
    assert data.begun.wait(DEADLINE_S)
    adopted = replace(head("large"), accepted_epoch=4)
    loader.load(FOUR, [head("other"), adopted])
    loader.drop_standbys()
    data.gate.set()
    first, second = (told.get(timeout=DEADLINE_S)[0] for _ in range(2))
    assert (first.epoch, first.head, second.head.stream) == (FOUR, adopted, "other")
    loader.load(None, [head("last")])
    assert told.get(timeout=DEADLINE_S)[0].head.stream == "last"


def test_a_tenure_gets_what_was_restored_or_dropped_for_a_standby(
    loader: Loader, data: Data, told: queue.Queue[tuple[Loaded, ...]]
) -> None:
    """Only what a standby is still to get is on its way: else the tenure would wait for it without end."""
    data.gate.set()
    loader.load(None, [head("large")])
    assert told.get(timeout=DEADLINE_S)[0].epoch is None
    wait_until(lambda: loader._job is None, "the end of the job")
    loader.load(FOUR, [head("large")])
    assert told.get(timeout=DEADLINE_S)[0].epoch == FOUR
    data.gate.clear()
    data.begun.clear()
    loader.load(None, [head("larger")])
    assert data.begun.wait(DEADLINE_S)
    loader.drop_standbys()
    loader.load(FOUR, [head("larger")])
    data.gate.set()
    assert told.get(timeout=DEADLINE_S)[0].epoch == FOUR


@pytest.mark.parametrize("epoch", [None, FOUR])
def test_what_is_dropped_ends_at_its_next_chunk(
    loader: Loader, data: Data, told: queue.Queue[tuple[Loaded, ...]], epoch: Epoch | None
) -> None:
    """Nothing is told of it, and the next one has its turn."""
    data.gate.set()
    loader.load(epoch, [head("endless")])
    assert data.begun.wait(DEADLINE_S)
    loader.drop_standbys() if epoch is None else loader.drop()
    loader.load(FOUR, [head("next")])
    assert names(told.get(timeout=DEADLINE_S)) == ["next"]


def test_nothing_of_a_batch_outlives_its_tenure(
    loader: Loader, data: Data, told: queue.Queue[tuple[Loaded, ...]]
) -> None:
    """Neither what comes together nor what is restored by itself afterwards."""
    loader.load(FOUR, [head("small"), head("large"), head("larger")])
    assert data.begun.wait(DEADLINE_S)
    loader.drop()
    loader.load(Epoch(5), [head("next")])
    data.gate.set()
    assert names(told.get(timeout=DEADLINE_S)) == ["next"]
    loader.load(Epoch(5), [head("a"), head("endless"), head("large")])
    assert names(told.get(timeout=DEADLINE_S)) == ["a"]
    loader.drop()
    loader.load(Epoch(6), [head("last")])
    assert names(told.get(timeout=DEADLINE_S)) == ["last"]
