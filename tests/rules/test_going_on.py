"""R5, R8, R11, R20, R22: what once kept a cluster with a healthy majority from going on, found by reading."""

from __future__ import annotations

from replicator.core.messages import Claim
from tests.rules.test_idle_streams import page_of, taken_over


def test_R5_a_new_claim_is_told_to_all_at_once() -> None:
    """Also to one whose answer to the claim before was on its way."""
    cluster, claim = taken_over()
    cluster.hear("b", "c", page_of(cluster, claim, 0, "s"))  # and the other page never comes
    cluster.core("b")._primary.claim_above("for the test")
    cluster.forget().do("advance 0.07", "deliver *->* Probe", "deliver *->* ProbeAnswer", "sync b")
    assert [each.epoch for each in cluster.sent("b", Claim)].count(3) == 2
