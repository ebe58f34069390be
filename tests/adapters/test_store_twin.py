"""The store against a dumb twin: any order of effects, with a crash or a restart between any two."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from tests.adapters.twin import StoreAndTwin

TestStoreAndTwin = StoreAndTwin.TestCase
TestStoreAndTwin.settings = settings(
    max_examples=20,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
