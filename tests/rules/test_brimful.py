"""R21: a disk that is full to the brim has not even room for the record of an adoption, which it leaves
unanswered until it has, as one that hangs does: that holds up nobody else."""

from __future__ import annotations

import pytest

from replicator.core.effects import StartTenure, Transfer
from replicator.core.messages import Claim
from replicator.core.phase import Phase
from replicator.model import StreamName
from tests.rules.cluster import PROBED, Cluster
from tests.rules.test_full import committed, positions
from tests.rules.test_publishing import serving

S = StreamName("s")


def brimful(*commands: str) -> Cluster:
    """b has not even room for the record of its adoption, and is named before it knows of that."""
    cluster = serving().do("submit a s 1").live(0.5).do("crash a").live(1.2).do("start a").live(0.5)
    cluster.do("brimful b", *commands, "grant b").live(0.5)
    assert cluster.core("b")._primary.phase is Phase.RECOVERING
    return cluster


def test_R21_who_finds_no_room_for_its_adoption_gives_way() -> None:
    """It is not refused that, and would wait in vain while a majority lends it the lease (I8)."""
    cluster = brimful().live(0.5)
    assert cluster.effects("b", Transfer)[:1] == [Transfer("a")]  # type: ignore[arg-type]
    cluster.forget().do("revoke b", "grant a").live(1.0).do("submit a s 2").live(0.5)
    assert committed(cluster, "a") == [("s", 2)]
    cluster.do("room b").live(1.0)
    assert cluster.state("b").heads[S].sequence == 2


def test_R21_it_gives_way_to_a_full_disk_that_has_adopted() -> None:
    """No disk has room, but those of a and c for so small a record; they hold everything."""
    cluster = brimful("full a", "full c").live(0.5)
    assert cluster.effects("b", Transfer)[:1] == [Transfer("a")]  # type: ignore[arg-type]
    cluster.forget().do("revoke b", "grant a").live(2.0)
    assert [positions(tenure.heads) for tenure in cluster.effects("a", StartTenure)] == [[("s", 1)]]
    assert not cluster.effects("a", Transfer)


@pytest.mark.parametrize("others", [("brimful a", "brimful c"), ("engine a gone", "engine c gone")])
def test_R21_it_stays_where_nobody_is_better_placed(others: tuple[str, ...]) -> None:
    """No other disk takes the adoption either, or no other node can lead: it goes on when there is room."""
    cluster = brimful(*others).live(5.0)
    assert cluster.core("b")._primary.phase is Phase.RECOVERING
    assert not cluster.effects("b", Transfer)
    assert {claim.epoch for claim in cluster.sent("b", Claim)} == {2}
    cluster.do("room a", "room b").live(0.5)
    assert [positions(tenure.heads) for tenure in cluster.effects("b", StartTenure)] == [[("s", 1)]]


def beside_a_rival(trouble: str) -> Cluster:
    """b recovers with a, whose disk is in *trouble*; c has lost the duel, at a promise as high as b's."""
    cluster = serving().do("submit a s 1").live(0.5).do("crash a").live(1.2).do("start a").live(1.2).forget()
    cluster.do("cut b c", "grant b", "grant c", *PROBED, "sync b c", "deliver b->a", "sync a", "deliver a->b")
    cluster.do(trouble, "deliver", "revoke c", "mend b c").live(0.5)
    assert cluster.core("b")._primary.phase is Phase.RECOVERING
    return cluster


@pytest.mark.parametrize("trouble", ["brimful a", "hang a"])
def test_R11_a_claim_that_too_few_adopt_is_made_anew_above_who_is_stuck(trouble: str) -> None:
    """a lends the lease and adopts nothing; c would, but has promised as much to itself (I8)."""
    cluster = beside_a_rival(trouble).live(3.0)
    assert [tenure.epoch for tenure in cluster.effects("b", StartTenure)] == [3]
    assert cluster.state("c").promise == cluster.state("b").promise
    assert not cluster.effects("b", Transfer)
