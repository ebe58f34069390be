"""What an operator asks of a primary, and what he is told of it."""

from __future__ import annotations

import math

import pytest
from msgspec import json

from replicator.core import effects, events
from replicator.errors import Unavailable
from replicator.model import Owner, Promise, Role, StreamName
from tests.worker.driver_fakes import ID, A, B, Bench, C, head

ORDERS = StreamName("orders")


def test_the_operator_is_refused_with_the_reason(bench: Bench) -> None:
    """Handing over and abandoning are for the primary."""
    bench.elector.leader = B
    with pytest.raises(Unavailable, match="not primary; ask b"):
        bench.driver.operator.hand_over(None, print)
    with pytest.raises(Unavailable, match="not primary; ask b"):
        bench.driver.operator.abandon(ORDERS, print)


@pytest.mark.parametrize("role", [Role.FOUNDING, Role.JOINING, Role.BACKUP])
def test_the_operator_is_told_the_role_that_the_node_has_started_in(bench: Bench, role: Role) -> None:
    """One that was a member before does not change to backup: it is one from its start."""
    bench.core.role = role
    bench.driver.leave()
    bench.driver.run()
    with pytest.raises(Unavailable, match=f"a is {role}, not primary"):
        bench.driver.operator.hand_over(None, print)


@pytest.mark.parametrize(
    ("happens", "answer"),
    [
        (
            effects.Abandoned(head(sequence=7), head(sequence=6)),
            {"ok": True, "position": [3, 7], "instead": [3, 6]},
        ),
        (effects.Abandoned(head(sequence=7), None), {"ok": True, "position": [3, 7], "instead": None}),
        (effects.AbandonRefused("it can be read"), {"error": "nothing was changed: it can be read"}),
    ],
)
def test_the_operator_is_told_what_was_abandoned(
    bench: Bench, happens: effects.Effect, answer: dict[str, object]
) -> None:
    """The core decides whether anything is given up, and its answer is the operator's."""
    bench.emit(effects.Changed(Role.CANDIDATE, Role.PRIMARY, "for the test"))
    bench.core.react = lambda event: [happens] if isinstance(event, events.AbandonAsked) else []
    told: list[bytes] = []
    bench.driver.operator.abandon(ORDERS, told.append)
    assert bench.core.events[-1] == events.AbandonAsked(ORDERS)
    assert [json.decode(line) for line in told] == [answer]


@pytest.mark.parametrize(
    ("happens", "answer"),
    [
        (effects.WritePromise(Promise(5, Owner(C, ID, ID))), {"ok": True, "primary": "c"}),
        (effects.WritePromise(Promise(5, Owner(B, ID, ID))), {"error": "c did not take over in time, b did"}),
        (effects.HandoverRefused("c is not reachable"), {"error": "c is not reachable"}),
        (None, {"error": "nobody has taken over yet"}),
    ],
)
def test_the_operator_is_told_who_took_over(
    bench: Bench, happens: effects.Effect | None, answer: dict[str, object]
) -> None:
    """Whoever names a successor hears whether it took over, or why not; the own promises do not count."""
    bench.emit(effects.Changed(Role.CANDIDATE, Role.PRIMARY, "for the test"))
    told: list[bytes] = []
    bench.driver.operator.hand_over("c", told.append)
    assert bench.core.events[-1] == events.ResignAsked(C, if_able=True)
    with pytest.raises(Unavailable, match="under way already"):
        bench.driver.operator.hand_over("b", print)
    bench.emit(effects.WritePromise(Promise(4, Owner(A, ID, ID))))
    assert told == []
    if happens is not None:
        bench.emit(happens)
    else:
        bench.clock.now += 4.0
        bench.turn()
    assert [json.decode(line) for line in told] == [answer]
    assert bench.driver.operator.deadline == math.inf  # or the driver would never sleep again
