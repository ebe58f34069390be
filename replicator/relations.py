"""What must hold between settings, not of one alone; each with the reason.

A relation is blamed on the first setting it names. `settings` checks them together once all values are
within their own ranges.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from replicator.model import CHUNKS_MAX
from replicator.sizes import MIB

_ROUNDING = 1e-9


class Relation(Struct, frozen=True):
    """Something that *holds* (a test on settings) between the settings *names*, told in words by *text*."""

    names: tuple[str, ...]
    text: str
    holds: Callable[[Any], bool]


def publication_bytes_max(settings: Any) -> int:
    """What a publication may hold: several chunks up to 1 MiB in all, or one, of whatever stream."""
    sizes: list[int] = [settings.chunk_bytes, *settings.stream_chunk_bytes.values()]
    return max(MIB, *sizes)


RELATIONS = (
    Relation(
        ("lease_s", "heartbeat_interval_s", "election_timeout_min_s"),
        "lease_s + heartbeat_interval_s is at most election_timeout_min_s, or the lease delays takeovers",
        lambda s: s.lease_s + s.heartbeat_interval_s <= s.election_timeout_min_s + _ROUNDING,
    ),
    Relation(
        ("lease_s", "lease_max_s"),
        "lease_s is at most lease_max_s, the longest that backups lend",
        lambda s: s.lease_s <= s.lease_max_s,
    ),
    Relation(
        ("heartbeat_interval_s", "lease_s"),
        "heartbeat_interval_s is at most a third of lease_s, or one lost heartbeat suspends the primary",
        lambda s: 3 * s.heartbeat_interval_s <= s.lease_s + _ROUNDING,
    ),
    Relation(
        ("election_timeout_min_s", "raft_append_interval_s"),
        "election_timeout_min_s is more than 3 times raft_append_interval_s, or healthy leaders are deposed",
        lambda s: s.election_timeout_min_s > 3 * s.raft_append_interval_s,
    ),
    Relation(
        ("election_timeout_max_s", "election_timeout_min_s"),
        "election_timeout_max_s is more than election_timeout_min_s, or nodes stand at the same moment",
        lambda s: s.election_timeout_max_s > s.election_timeout_min_s,
    ),
    Relation(
        ("elector_tick_interval_s", "raft_append_interval_s"),
        "elector_tick_interval_s is at most raft_append_interval_s",
        lambda s: s.elector_tick_interval_s <= s.raft_append_interval_s,
    ),
    Relation(
        ("claim_retry_min_s", "claim_retry_max_s"),
        "claim_retry_min_s is at most claim_retry_max_s",
        lambda s: s.claim_retry_min_s <= s.claim_retry_max_s,
    ),
    Relation(
        ("chunk_bytes", "transaction_bytes_max"),
        "chunk_bytes is at most transaction_bytes_max",
        lambda s: s.chunk_bytes <= s.transaction_bytes_max,
    ),
    Relation(
        ("payload_bytes_max", "chunk_bytes"),
        f"payload_bytes_max is at most {CHUNKS_MAX} times chunk_bytes, all that a manifest has room for",
        lambda s: s.payload_bytes_max <= CHUNKS_MAX * s.chunk_bytes,
    ),
    Relation(
        ("stream_chunk_bytes", "transaction_bytes_max"),
        "each of stream_chunk_bytes is at most transaction_bytes_max",
        lambda s: max(s.stream_chunk_bytes.values(), default=0) <= s.transaction_bytes_max,
    ),
    Relation(
        ("stream_chunk_bytes", "payload_bytes_max"),
        f"payload_bytes_max is at most {CHUNKS_MAX} times each of stream_chunk_bytes",
        lambda s: (
            s.payload_bytes_max
            <= CHUNKS_MAX * min(s.stream_chunk_bytes.values(), default=s.payload_bytes_max)
        ),
    ),
    Relation(
        ("window_bytes_max", "chunk_bytes", "stream_chunk_bytes"),
        "window_bytes_max is at least chunk_bytes, and each of stream_chunk_bytes",
        lambda s: publication_bytes_max(s) <= s.window_bytes_max,
    ),
    Relation(
        ("backlog_bytes_max", "payload_bytes_max"),
        "backlog_bytes_max is at least payload_bytes_max",
        lambda s: s.payload_bytes_max <= s.backlog_bytes_max,
    ),
    Relation(
        ("secret_key_file", "peer_keys_file"),
        "secret_key_file and peer_keys_file are set both or neither",
        lambda s: (s.secret_key_file is None) == (s.peer_keys_file is None),
    ),
)
