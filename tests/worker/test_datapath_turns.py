"""What is published between the messages of a large checkpoint (R16)."""

from __future__ import annotations

import pytest

from replicator.core.events import Published
from replicator.model import Epoch, Payload, Sequence, StreamName
from replicator.worker.publisher import Task
from tests.worker.nodes import publish_half, running
from tests.worker.payloads import noise

MIB = 2**20


def test_a_small_checkpoint_goes_between_the_messages_of_a_large_one() -> None:
    """It waits for what has left before it, not for what is to follow; another large one waits its turn."""
    with running(2) as (primary, backup):
        epoch = Epoch(9)
        publish_half(primary, backup, epoch)
        primary.start(6, StreamName("large"), epoch, Sequence(1), Payload({"": noise(2 * MIB)}))
        primary.start(7, StreamName("small"), epoch, Sequence(1), Payload({"": b"small"}))
        primary.path.allow_publish(epoch, 7)
        primary.wait_for(Published, lambda event: event.handle == 6)
        done = [(e.handle, e.publish_index) for e in primary.all(Published) if e.epoch == epoch]
        assert done == [(7, 3), (5, 5), (6, 7)]


def test_that_many_wait_is_not_looked_at_with_each_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 checkpoints of 70 KB would take half a minute longer, if all of them were."""
    is_small, looks = Task.is_small, list[Task]()
    assert isinstance(is_small, property)
    look = is_small.fget
    assert look is not None
    monkeypatch.setattr(Task, "is_small", property(lambda task: looks.append(task) or look(task)))
    with running(2) as (primary, _):
        epoch, count, content = Epoch(9), 200, noise(70_000)
        primary.path.allow_publish(epoch, 0)
        for number in range(1, count + 1):
            stream = StreamName(f"stream-{number}")
            primary.start(number, stream, epoch, Sequence(1), Payload({"": content}))
        primary.path.allow_publish(epoch, count)
        primary.wait_for(Published, lambda event: event.handle == count)
        assert len(looks) < 10 * count
