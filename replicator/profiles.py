"""Three sets of timers: what the network and the machines are like decides how soon a silence means a fault.

``REPLICATOR_PROFILE`` names one; any variable that is set overrides its value. `default` is for a local
network and machines that are busy with other things too. `fast` halves and halves again: for a quiet local
network and nodes with a core to spare for the worker; a stall of a tenth of a second costs a takeover there,
never data. `wan` is for round trips of up to 300 ms. All nodes of a cluster should run the same one; a
cluster in which they differ is as safe, but not as quick.

The values of `default` are those of `settings`; here is what differs from them.
"""

from __future__ import annotations

from collections.abc import Mapping

PROFILES: Mapping[str, Mapping[str, float]] = {
    "default": {},
    "fast": {
        "heartbeat_interval_s": 0.02,
        "lease_s": 0.08,
        "lease_max_s": 0.5,
        "claim_timeout_s": 0.25,
        "claim_retry_min_s": 0.02,
        "claim_retry_max_s": 0.1,
        "fetch_retry_s": 0.1,
        "behind_interval_s": 0.1,
        "bump_after_s": 0.5,
        "hand_over_after_s": 1.0,
        "election_timeout_min_s": 0.1,
        "election_timeout_max_s": 0.15,
        "raft_append_interval_s": 0.025,
        "leader_fallback_s": 0.1,
        "elector_tick_interval_s": 0.005,
    },
    "wan": {
        "heartbeat_interval_s": 0.5,
        "lease_s": 2.5,
        "lease_max_s": 5.0,
        "hello_interval_s": 2.0,
        "claim_timeout_s": 3.0,
        "claim_retry_min_s": 0.4,
        "claim_retry_max_s": 1.5,
        "fetch_retry_s": 1.5,
        "behind_interval_s": 1.5,
        "bump_after_s": 6.0,
        "lapse_max_s": 20.0,
        "hand_over_after_s": 10.0,
        "election_timeout_min_s": 3.2,
        "election_timeout_max_s": 5.0,
        "raft_append_interval_s": 0.6,
        "leader_fallback_s": 3.2,
        "elector_tick_interval_s": 0.1,
    },
}
