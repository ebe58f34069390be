"""The table of teeth: for each rule what is broken, which harness finds it, and within how many seeds.

The simulator finds what breaks an invariant of a whole cluster. What breaks none (a rule for speed, or one
whose breaking costs time only) is found by the test that guards it, run against the broken substitution.
"""

# ruff: noqa: E501 - a line for each tooth

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.simulation.batches import ROOT
from tests.simulation.disk import Disk
from tests.simulation.run import run_seed
from tests.simulation.teeth import fencing, keeping, marks, old_copies, publishing, recovering, restarts, room

Patch = pytest.MonkeyPatch
RULES = (*(f"R{number}" for number in range(1, 29)), "R17a")


class Simulator(NamedTuple):
    """Seeds of the simulator; a kind of fault may be *favoured*, which comes again and again then."""

    seeds_max: int = 40
    favoured: str = ""
    clock_rate_bound: float = 0.0  # of the plan's, unless it is given here

    @property
    def changes(self) -> dict[str, object]:
        """What is changed in the plan of each seed."""
        given = {"favoured": self.favoured, "clock_rate_bound": self.clock_rate_bound}
        return {name: value for name, value in given.items() if value}

    def __str__(self) -> str:
        favour = f", {self.favoured} favoured" if self.favoured else ""
        return f"simulator, {self.seeds_max} seeds{favour}"


class Guard(NamedTuple):
    """A test that is called as it is."""

    test: str  # module:function

    def __str__(self) -> str:
        return self.test.replace(":", "::")


class Process(NamedTuple):
    """A test with fixtures, run by pytest in a process of its own."""

    node: str

    def __str__(self) -> str:
        return self.node


class Tooth(NamedTuple):
    """A broken rule and the harness that must find it."""

    rule: str
    break_it: Callable[[Patch], None] | type[Disk]
    harness: Simulator | Guard | Process = Simulator()

    @property
    def name(self) -> str:
        """What names it in tests and reports."""
        return f"{self.rule}-{self.break_it.__name__}"

    @property
    def promise(self) -> str:
        """What is broken, in one line."""
        return " ".join((self.break_it.__doc__ or "").split())


FENCING, CLAIMING, ROT, GOING_ON = (
    "tests.rules.test_fencing:test_",
    "tests.rules.test_claiming:test_",
    "tests.rules.test_rot:test_",
    "tests.rules.test_going_on:test_",
)
PUBLISHING, DISK, LEASE, REPORTS, OLD_STORE, TURNS, FULL, ROOMLESS, SLOW, ROLLED_BACK = (
    f"tests.rules.test_{part}:test_"
    for part in (
        "publishing",
        "disk",
        "lease",
        "reports",
        "old_store",
        "claim_turns",
        "full",
        "roomless",
        "slow_links",
        "rolled_back",
    )
)

TEETH = (
    Tooth("R1", fencing.promise_twice, Simulator(60, "duel")),
    Tooth("R1", fencing.go_on_after_restart, Simulator()),
    Tooth("R2", fencing.PromisesEarly),
    Tooth("R2", fencing.tell_old_heads, Simulator(60, "slow_disk")),
    Tooth("R3", fencing.promise_the_past),
    Tooth("R3", fencing.refuse_silently, Guard(f"{FENCING}R3_the_past_is_refused_and_learns_what_is_promised")),
    Tooth("R4", fencing.ChecksFenceEarly),
    Tooth("R5", fencing.claim_unasked, Guard(f"{CLAIMING}R5_nothing_is_promised_before_a_majority_would_promise")),
    Tooth("R5", fencing.see_no_epoch, Guard(f"{CLAIMING}R5_the_epoch_is_one_above_the_highest_seen_anywhere")),
    Tooth("R5", fencing.mix_claims, Guard(f"{GOING_ON}R5_a_new_claim_is_told_to_all_at_once")),
    Tooth("R6", fencing.report_less),
    Tooth("R7", recovering.highest_sequence_wins, Simulator(60, "comeback")),
    Tooth("R7", recovering.heed_strangers, Guard(f"{OLD_STORE}I10_only_stores_that_the_newest_record_names_are_chosen_from")),
    Tooth("R8", recovering.drop_unreadable, Simulator(60, "lag_behind")),
    Tooth("R8", recovering.bring_nothing),
    Tooth("R8", recovering.drop_accepted, Guard(f"{CLAIMING}R8_what_the_own_store_is_asked_to_accept_is_dropped_no_longer")),
    Tooth("R8", recovering.recall_the_abandoned, Guard(f"{GOING_ON}R8_what_was_abandoned_stays_so")),
    Tooth("R8", recovering.abandon_the_adopted, Guard(f"{GOING_ON}R8_what_the_own_store_is_asked_to_accept_is_not_abandoned")),
    Tooth("R8", recovering.withhold_the_dropped, Guard(f"{GOING_ON}R8_what_is_dropped_while_serving_is_withheld_no_longer")),
    Tooth("R8", recovering.ask_the_whole_only, Guard(f"{GOING_ON}R8_what_has_rotted_is_put_together_from_what_is_left_of_it")),
    Tooth("R8", recovering.wait_for_rot, Guard(f"{ROT}R8_a_head_that_rots_after_its_adoption_is_dropped_in_the_next_epoch")),
    Tooth("R8", recovering.commit_over_the_unread, Simulator(60, "spoil")),
    Tooth("R8", recovering.bring_in_vain, Guard(f"{ROT}R8_a_head_that_is_mended_in_vain_is_brought_ever_more_seldom")),
    Tooth("R8", recovering.heed_the_dropped, Guard(f"{ROT}R8_a_dropped_head_is_no_ancestor_of_what_comes")),
    Tooth("R9", recovering.serve_at_once),
    Tooth("R9", room.refuse_what_is_here, Guard(f"{FULL}R8_a_full_recovery_waits_where_nobody_is_better_placed")),
    Tooth("R9", room.hold_up_the_others, Guard(f"{ROOMLESS}R9_what_no_majority_has_room_for_holds_up_its_own_stream_alone")),
    Tooth("R9", room.withhold_the_slow, Guard(f"{ROOMLESS}R9_a_backup_with_room_is_waited_for_however_slow_it_is")),
    Tooth("R10", recovering.adopt_everything),
    Tooth("R10", recovering.forget_exceptions, Guard(f"{CLAIMING}R10_an_adoption_counts_for_what_it_covered_whoever_spoke_since")),
    Tooth("R10", fencing.tell_anew, Guard(f"{REPORTS}R10_all_pages_are_of_one_instant")),
    Tooth("R11", recovering.try_once),
    Tooth("R11", recovering.leave_stuck, Guard(f"{CLAIMING}R11_a_member_stuck_at_a_higher_promise_is_claimed_above")),
    Tooth("R11", recovering.keep_grants, Guard(f"{CLAIMING}R11_one_that_cannot_lead_gives_leadership_away")),
    Tooth("R11", recovering.drain_for_ever, Guard(f"{GOING_ON}R11_rot_that_was_found_while_recovering_over_a_bump")),
    Tooth("R11", recovering.forget_parked, Guard(f"{CLAIMING}R11_a_parked_probe_is_answered_when_the_lease_is_given_back")),
    Tooth("R11", recovering.drain_what_comes, Guard("tests.rules.test_under_load:test_R11_what_is_submitted_while_a_tenure_drains_does_not_prolong_it")),
    Tooth("R11", recovering.wait_for_the_deaf, Guard(f"{LEASE}R11_a_primary_that_hears_nobody_is_not_waited_for")),
    Tooth("R11", recovering.keep_the_grant, Guard(f"{LEASE}R11_who_is_lent_nothing_for_long_lets_another_try")),
    Tooth("R11", recovering.deafen_by_bumps, Guard(f"{TURNS}R11_a_late_promise_is_taken_after_a_bump_that_came_to_nothing")),
    Tooth("R11", room.claim_though_hanging),
    Tooth("R11", room.bump_the_starved, Guard(f"{FULL}R11_a_bump_waits_while_what_is_in_flight_finds_no_room")),
    Tooth("R11", room.drain_without_room, Guard(f"{ROOMLESS}R11_what_a_higher_epoch_finds_no_room_for_ends_the_tenure_and_not_the_others")),
    Tooth("R12", publishing.not_itself),
    Tooth("R12", publishing.publish_the_adopted, Guard(f"{ROT}R12_what_was_adopted_does_not_go_out_again_when_it_rots")),
    Tooth("R13", publishing.AcceptsEarly),
    Tooth("R13", restarts.begin_epochs_anew, Process("tests/rules/test_founding.py::test_R13_a_cluster_that_lost_its_memory_goes_on_above_its_epochs")),
    Tooth("R14", publishing.commit_alone),
    Tooth("R14", publishing.commit_without_own),
    Tooth("R14", publishing.count_old_acks, Guard(f"{PUBLISHING}R14_acks_of_other_epochs_digests_and_incarnations_count_for_nothing")),
    Tooth("R14", publishing.count_the_silent_out, Guard("tests.rules.test_many_streams:test_R14_a_member_that_has_yet_to_speak_in_the_epoch_counts_as_up")),
    Tooth("R15", publishing.forget_in_silence, Guard("tests.rules.test_many_streams:test_R15_a_follower_hears_of_every_deletion_before_it_is_forgotten")),
    Tooth("R15", publishing.trust_hints, Simulator()),
    Tooth("R16", fencing.ask_for_all_pages, Guard(f"{REPORTS}R16_few_pages_are_under_way_at_a_time")),
    Tooth("R16", fencing.ask_impatiently, Guard(f"{SLOW}R16_pages_are_not_asked_for_again_while_they_are_on_their_way")),
    Tooth("R16", fencing.tell_again_and_again, Guard(f"{SLOW}R15_R16_what_is_on_its_way_is_not_told_again")),
    Tooth("R16", publishing.wait_for_the_slowest, Guard(f"{PUBLISHING}R16_the_window_follows_the_fastest_majority")),
    Tooth("R16", publishing.keep_what_left_secret, Guard(f"{PUBLISHING}R16_a_window_that_is_lost_in_the_midst_of_a_checkpoint_does_not_stop_it")),
    Tooth("R12", publishing.give_back_at_once, Simulator(80, "spoil")),
    Tooth("R17", publishing.replace_in_flight, Guard(f"{PUBLISHING}R17_latest_wins_and_the_one_in_flight_runs_to_its_commit")),
    Tooth("R17", publishing.take_without_bound, Process("tests/engine/test_submit.py::test_waiting_checkpoints_are_bounded")),
    Tooth("R17a", publishing.call_it_superseded),
    Tooth("R18", publishing.leave_holes),
    Tooth("R18", publishing.fetch_without_bound, Simulator()),
    Tooth("R18", publishing.fetch_what_is_coming, Guard("tests.rules.test_arrivals:test_R18_what_is_on_its_way_is_not_fetched_besides")),
    Tooth("R18", publishing.take_late_ends, Guard("tests.rules.test_late_words:test_R18_a_late_word_of_an_older_fetch_does_not_end_a_newer_one")),
    Tooth("R19", publishing.accept_stale),
    Tooth("R20", keeping.amnesia),
    Tooth("R20", keeping.found_early, Guard(f"{DISK}R20_the_record_is_durable_on_all_before_it_is_declared")),
    Tooth("R20", keeping.lead_unnamed, Guard(f"{GOING_ON}R20_who_is_no_member_by_the_newest_record_does_not_lead")),
    Tooth("R20", keeping.wait_for_silence, Guard(f"{DISK}R20_a_joining_replica_takes_its_place_while_commits_go_on")),
    Tooth("R20", keeping.wait_for_nearness, Guard("tests.rules.test_under_load:test_R20_a_new_store_that_keeps_up_at_a_distance_is_taken_in")),
    Tooth("R20", keeping.compare_early, Guard(f"{GOING_ON}R20_a_learner_is_asked_anew_for_what_it_began_to_tell")),
    Tooth("R21", keeping.GoesOnAfterFailedSync, Simulator(60, "failed_sync")),
    Tooth("R21", old_copies.believe_old_copies, Simulator(60, "revert")),
    Tooth("R21", old_copies.count_old_copies, Simulator(60, "revert")),
    Tooth("R21", old_copies.heed_old_copies, Guard(f"{ROLLED_BACK}R21_nothing_that_an_old_copy_says_counts")),
    Tooth("R21", old_copies.take_from_the_unheard, Guard(f"{ROLLED_BACK}R21_an_old_copy_does_not_count_past_what_is_remembered")),
    Tooth("R21", old_copies.count_past, Guard(f"{ROLLED_BACK}R21_a_peer_that_hears_for_the_first_time_is_told_what_was_found_on_the_disk")),
    Tooth("R21", old_copies.compare_with_late_words, Guard(f"{ROLLED_BACK}R21_what_a_peer_has_said_before_it_heard_more_compares_nothing")),
    Tooth("R21", old_copies.remember_one_store, Guard(f"{ROLLED_BACK}R21_a_late_frame_of_a_replaced_disk_has_nobody_forget_the_disk_in_its_place")),
    Tooth("R21", old_copies.forget_members, Guard(f"{ROLLED_BACK}R21_the_stores_of_a_node_that_are_remembered_are_few")),
    Tooth("R21", old_copies.take_what_is_meant_for_another, Guard(f"{ROLLED_BACK}R21_a_peer_that_hears_for_the_first_time_is_told_what_was_found_on_the_disk")),
    Tooth("R21", old_copies.forget_the_verdict, Guard(f"{ROLLED_BACK}R21_an_old_copy_stays_faulty_until_it_is_emptied")),
    Tooth("R21", room.stay_though_full, Guard(f"{DISK}R21_a_full_primary_gives_leadership_away_and_goes_on_with_room")),
    Tooth("R21", room.await_the_adoption),
    Tooth("R21", room.lead_though_hanging, Guard("tests.rules.test_slow_disks:test_R21_a_primary_whose_disk_hangs_hands_over")),
    Tooth("R21", room.lead_though_told_to_hang, Guard("tests.rules.test_slow_disks:test_R21_so_does_one_whose_store_says_that_its_disk_hangs")),
    Tooth("R21", room.lead_with_room_alone, Guard(f"{FULL}R21_with_all_disks_full_a_node_takes_over_restores_and_deletes")),
    Tooth("R21", room.claim_though_full, Guard(f"{FULL}R21_a_full_node_leaves_the_grant_to_one_with_room")),
    Tooth("R21", room.wait_to_delete, Guard(f"{FULL}R21_a_deletion_waits_for_nothing_that_finds_no_room")),
    Tooth("R21", room.fetch_nothing_though_some_would_fit, Guard(f"{FULL}R21_a_disk_too_full_for_one_stream_is_mended_of_all_others")),
    Tooth("R21", room.fetch_without_room, Guard(f"{FULL}R21_a_withheld_stream_waits_for_room_while_others_are_served")),
    Tooth("R22", keeping.let_rot, Simulator(60, "rot")),
    Tooth("R22", keeping.forget_what_is_wanted, Guard(f"{GOING_ON}R22_what_is_wanted_in_the_place_of_rot_stays_wanted")),
    Tooth("R23", keeping.forget_early),
    Tooth("R23", keeping.forget_while_changing, Guard(f"{OLD_STORE}R23_no_tombstone_is_forgotten_while_members_change")),
    Tooth("R23", keeping.remember_all_deletions, Guard("tests.rules.test_many_streams:test_I12_deleted_streams_are_remembered_in_a_bounded_number")),
    Tooth("R23", keeping.keep_the_forgotten, Guard("tests.rules.test_many_streams:test_I12_of_a_deleted_stream_nothing_is_kept_of_the_followers")),
    Tooth("R23", keeping.take_in_the_deleted, Guard(f"{OLD_STORE}R23_a_store_that_holds_what_was_deleted_is_not_taken_in")),
    Tooth("R23", keeping.recall_the_deleted, Guard("tests.rules.test_second_reading:test_R23_a_late_frame_does_not_bring_back_what_was_deleted")),
    Tooth("R23", marks.ComparesSequencesAlone, Simulator(60, "begin_anew")),
    Tooth("R23", keeping.keep_the_newest_only, Process("tests/adapters/test_store.py::test_r23_the_newest_committed_and_all_newer_stay")),
    Tooth("R24", recovering.borrow_alone, Guard(f"{LEASE}R24_a_primary_without_a_majority_borrows_nothing")),
    Tooth("R24", keeping.lend_twice, Simulator(60, "usurp")),
    Tooth("R24", restarts.forget_leases, Simulator(60, "usurp")),
    Tooth("R24", restarts.wait_by_the_present_settings, Guard(f"{LEASE}R24_a_lender_restarted_with_another_maximum_waits_the_longer_one")),
    Tooth("R24", keeping.lease_from_answer, Simulator(60, "usurp")),
    Tooth("R24", keeping.lend_unheard, Guard(f"{LEASE}R24_nothing_is_lent_without_a_fresh_echo")),
    Tooth("R24", keeping.no_margin, Simulator(60, "usurp", 0.1)),
    Tooth("R25", keeping.report_suspended),
    Tooth("R25", keeping.never_end, Guard(f"{LEASE}R25_a_lapse_longer_than_the_limit_ends_it")),
    Tooth("R25", recovering.lapse_anew, Guard(f"{TURNS}R25_one_lapse_may_hold_many_claims")),
    Tooth("R25", room.hand_over_to_the_full, Guard(f"{FULL}R25_a_tenure_stays_where_nobody_better_could_go_on")),
    Tooth("R26", keeping.keep_the_lease, Guard(f"{LEASE}R26_a_primary_that_resigns_gives_the_lease_back_at_once")),
    Tooth("R26", keeping.hand_on_what_was_held, Guard("tests.rules.test_handover:test_R26_what_was_held_back_ends_with_its_tenure")),
    Tooth("R26", keeping.hand_over_unheard, Guard("tests.rules.test_handover:test_R26_who_has_not_told_what_it_holds_is_not_taken_for_one_that_holds_everything")),
    Tooth("R27", keeping.change_at_once),
    Tooth("R27", keeping.take_any_record, Guard(f"{DISK}R27_a_founder_that_missed_the_declaration_never_goes_back_to_an_older_record")),
    Tooth("R27", keeping.leave_the_primary_out, Simulator(60, "swap_back")),
    Tooth("R27", keeping.cover_nothing, Simulator(280, "lose_holder")),
    Tooth("R28", keeping.jump_anywhere, Guard(f"{LEASE}R28_an_epoch_may_jump_by_a_bounded_step_only")),
    Tooth("R28", keeping.see_any_epoch, Guard(f"{LEASE}R28_an_epoch_may_jump_by_a_bounded_step_only")),
    Tooth("R28", keeping.hear_strangers, Guard(f"{LEASE}R28_a_stranger_is_not_heard")),
    Tooth("R28", keeping.read_any_size, Guard("tests.codec.test_frames:test_oversized_frames_are_refused_unread")),
    Tooth("R28", keeping.hear_anybody, Process("tests/worker/test_driver_mesh.py::test_what_does_not_fit_is_refused_with_a_reason")),
)  # fmt: skip


def bite(
    tooth: Tooth, patch: Patch, first_seed: int = 0, seeds_max: int | None = None
) -> tuple[int, str] | None:
    """How many seeds (or calls) it took to notice, and what was noticed; None if nobody did."""
    if isinstance(tooth.harness, Process):
        return _run(tooth.harness.node, tooth.name)
    disk: type[Disk] = Disk
    if isinstance(tooth.break_it, type):
        disk = tooth.break_it
    else:
        tooth.break_it(patch)
    if isinstance(tooth.harness, Guard):
        return _call(tooth.harness.test)
    count = seeds_max or tooth.harness.seeds_max
    for tried, seed in enumerate(range(first_seed, first_seed + count), 1):
        violation = run_seed(seed, disk_type=disk, changes=tooth.harness.changes).violation
        if violation is not None:
            return tried, violation.splitlines()[0]
    return None


def _call(test: str) -> tuple[int, str] | None:
    module, _, function = test.partition(":")
    try:
        getattr(importlib.import_module(module), function)()
    except AssertionError as error:
        return 1, (str(error) or "its assertion fails").splitlines()[0]
    except Exception as error:
        return 1, repr(error)
    return None


def _run(node: str, name: str) -> tuple[int, str] | None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", __name__, node]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, TOOTH_VARIABLE: name}, capture_output=True, text=True
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return (1, "it fails") if done.returncode == 1 else None


TOOTH_VARIABLE = "PYTEST_TOOTH_OF_REPLICATOR"


def pytest_configure(config: pytest.Config) -> None:
    """As a plugin of pytest this module breaks the rule that the environment names, for the whole run."""
    (tooth,) = (one for one in TEETH if one.name == os.environ[TOOTH_VARIABLE])
    assert not isinstance(tooth.break_it, type)
    tooth.break_it(Patch())
