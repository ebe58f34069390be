"""The numbers that the core works by. All spans are in seconds of the caller's clock.

They come from `settings`, which checks their relations together; the simulator draws its own.
"""

from __future__ import annotations

from msgspec import Struct

from replicator.model import NodeId

EPOCH_JUMP_MAX = 2**20


class Config(Struct, frozen=True, kw_only=True):
    """What one replica knows before it hears anybody."""

    node: NodeId
    peers: frozenset[NodeId] = frozenset()  # the configured others; empty: standalone
    address: str = ""
    public_key: str = ""
    has_engine: bool = True  # False: stores and votes, never becomes primary

    heartbeat_interval_s: float = 0.06
    hello_interval_s: float = 0.5
    lease_s: float = 0.3
    lease_max_s: float = 1.0  # no question may ask for more; what a restarted lender waits (R24)
    clock_rate_bound: float = 0.01
    claim_timeout_s: float = 0.5
    claim_retry_min_s: float = 0.05
    claim_retry_max_s: float = 0.3
    fetch_retry_s: float = 0.2
    behind_interval_s: float = 0.2  # how often heads not acknowledged are told again
    bump_after_s: float = 1.0  # how long a member may be stuck at a higher promise (R11)
    lapse_max_s: float = 5.0  # a tenure suspended for longer ends (R25)
    hand_over_after_s: float = 2.0  # the elector has named another for so long: hand over (R25)

    window_frames_max: int = 32  # publications that the majority has not taken (R16)
    behind_heads_max: int = 256  # heads told to one lagging member at a time
    fetches_max: int = 16  # streams fetched at the same time

    @property
    def lease_margin_s(self) -> float:
        """What the holder gives away of each lease, so that rates off by the bound cannot overlap (R24)."""
        return 2 * self.clock_rate_bound * self.lease_s

    @property
    def standalone(self) -> bool:
        return not self.peers
