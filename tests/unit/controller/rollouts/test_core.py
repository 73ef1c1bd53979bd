from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from controller.errors import FleetError
from controller.rollouts import core, orders
from controller.rollouts.model import Assign, DeviceFacts, OnFailure, Outcome, Policy, Release, Rollout, State, Withdraw
from controller.rollouts.schedule import parse_waves, parse_window
from runtime.protocol.messages import Phase

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)  # a Monday
OLD = Release(model="m", version=1, digest="1" * 64)
NEW = Release(model="m", version=2, digest="2" * 64)


def rollout(waves="1,100%", **policy):
    return Rollout(id="r1", release=NEW, state=State.RUNNING, policy=Policy(waves=parse_waves(waves), **policy))


def fleet(size, **facts):
    return {f"cam{i}": DeviceFacts(active=OLD, phase=Phase.IDLE, **facts) for i in range(size)}


def assigned(step):
    return [action.device for action in step.actions if isinstance(action, Assign)]


def apply(facts, step):
    """The facts after the engine performed the step."""
    done = {a.device: replace(facts[a.device], sequence=a.sequence) for a in step.actions if isinstance(a, Assign)}
    return facts | done


def commit(facts, *devices, release=NEW):
    return facts | {
        d: replace(facts[d], reported_sequence=facts[d].sequence, phase=Phase.COMMITTED, active=release)
        for d in devices
    }


def fail(facts, *devices, why="proof: output differs"):
    return facts | {
        d: replace(
            facts[d],
            reported_sequence=facts[d].sequence,
            phase=Phase.FAILED,
            failure=why,
            failure_sequence=facts[d].sequence,
        )
        for d in devices
    }


def outcomes(step_or_rollout):
    found = getattr(step_or_rollout, "rollout", step_or_rollout)
    return {device: member.outcome for device, member in found.members.items()}


def test_the_first_wave_is_the_first_of_the_cohort():
    facts = fleet(5)
    step = core.advance(rollout(), facts, NOW)
    assert assigned(step) == core.cohort("r1", facts)[:1]
    assert step.actions[0].sequence == 1
    assert step.rollout.members[assigned(step)[0]].previous == OLD


def test_a_committed_wave_soaks_before_the_next_opens():
    facts = fleet(3)
    step = core.advance(rollout(soak=timedelta(minutes=10)), facts, NOW)
    facts = commit(apply(facts, step), *assigned(step))
    step = core.advance(step.rollout, facts, NOW)
    assert not step.actions
    assert step.rollout.passed_at == NOW
    assert core.advance(step.rollout, facts, NOW + timedelta(minutes=9)).rollout.wave == 0
    later = core.advance(step.rollout, facts, NOW + timedelta(minutes=10))
    assert later.rollout.wave == 1
    assert len(assigned(later)) == 2


def test_it_succeeds_when_all_have_committed_the_new_digest():
    facts = fleet(3)
    step = core.advance(rollout("100%"), facts, NOW)
    step = core.advance(step.rollout, commit(apply(facts, step), *facts), NOW)
    assert step.rollout.state is State.SUCCEEDED


def test_committed_with_the_old_digest_is_no_success():
    facts = fleet(1)
    step = core.advance(rollout("100%"), facts, NOW)
    step = core.advance(step.rollout, commit(apply(facts, step), "cam0", release=OLD), NOW)
    assert outcomes(step) == {"cam0": Outcome.PENDING}


@pytest.mark.parametrize("phase", [p for p in Phase if p is not Phase.COMMITTED])
def test_the_new_digest_serving_is_no_success_before_it_is_committed(phase):
    facts = fleet(1)
    step = core.advance(rollout("100%"), facts, NOW)
    facts = {"cam0": replace(apply(facts, step)["cam0"], reported_sequence=1, phase=phase, active=NEW)}
    assert Outcome.SUCCEEDED not in outcomes(core.advance(step.rollout, facts, NOW)).values()


def test_a_report_about_an_earlier_assignment_is_no_success():
    facts = {"cam0": DeviceFacts(sequence=7, reported_sequence=7, phase=Phase.COMMITTED, active=NEW)}
    step = core.advance(rollout("100%"), facts, NOW)
    assert step.actions[0].sequence == 8
    assert outcomes(core.advance(step.rollout, apply(facts, step), NOW)) == {"cam0": Outcome.PENDING}


def test_a_failed_wave_pauses_and_no_further_device_gets_the_model():
    facts = fleet(5)
    step = core.advance(rollout("1,100%"), facts, NOW)
    (first,) = assigned(step)
    facts = fail(apply(facts, step), first)
    step = core.advance(step.rollout, facts, NOW)
    assert step.rollout.state is State.PAUSED
    assert step.rollout.reason == f"wave 1: 1 of 1 devices failed ({first}: proof: output differs)"
    assert not core.advance(step.rollout, facts, NOW + timedelta(days=1)).actions


def test_a_device_that_stays_silent_has_failed():
    facts = fleet(1)
    step = core.advance(rollout("100%", device_timeout=timedelta(minutes=5)), facts, NOW)
    facts = apply(facts, step)
    assert outcomes(core.advance(step.rollout, facts, NOW + timedelta(minutes=4))) == {"cam0": Outcome.PENDING}
    step = core.advance(step.rollout, facts, NOW + timedelta(minutes=5))
    assert step.rollout.state is State.PAUSED
    assert "timed out" in step.rollout.reason


def test_failures_within_the_rate_let_the_wave_pass():
    facts = fleet(10)
    step = core.advance(rollout("100%", max_failure_rate=0.1), facts, NOW)
    facts = apply(facts, step)
    step = core.advance(step.rollout, fail(commit(facts, *facts), "cam3"), NOW)
    assert step.rollout.state is State.SUCCEEDED


def test_a_wave_stops_early_when_enough_samples_speak_against_it():
    facts = fleet(100)
    step = core.advance(rollout("100%", max_failure_rate=0.2, min_samples=10), facts, NOW)
    facts = apply(facts, step)
    few = core.advance(step.rollout, fail(facts, *(f"cam{i}" for i in range(9))), NOW)
    assert few.rollout.state is State.RUNNING
    enough = core.advance(step.rollout, fail(facts, *(f"cam{i}" for i in range(10))), NOW)
    assert enough.rollout.state is State.PAUSED


def test_a_device_that_leaves_the_new_model_during_the_soak_fails_its_wave():
    facts = fleet(3)
    step = core.advance(rollout(soak=timedelta(minutes=10)), facts, NOW)
    (first,) = assigned(step)
    facts = commit(apply(facts, step), first)
    step = core.advance(step.rollout, facts, NOW)
    facts[first] = replace(facts[first], active=OLD)
    step = core.advance(step.rollout, facts, NOW + timedelta(minutes=20))
    assert step.rollout.state is State.PAUSED
    assert "left the new model" in step.rollout.reason


def test_success_threshold_opens_the_gate_before_the_stragglers():
    facts = fleet(20)
    step = core.advance(rollout("50%,100%", success_rate=0.9), facts, NOW)
    first = assigned(step)
    facts = commit(apply(facts, step), *first[:8])
    assert core.advance(step.rollout, facts, NOW).rollout.wave == 0
    facts = commit(facts, first[8])
    assert core.advance(step.rollout, facts, NOW).rollout.wave == 1


def test_a_wave_that_adds_no_device_is_passed_without_a_soak():
    facts = fleet(3)
    step = core.advance(rollout("1,10%,100%"), facts, NOW)
    facts = commit(apply(facts, step), *assigned(step))
    step = core.advance(step.rollout, facts, NOW)
    assert step.rollout.wave == 2
    assert len(assigned(step)) == 2


def test_a_late_joiner_goes_through_the_gate_that_is_open():
    facts = fleet(2)
    step = core.advance(rollout("100%", soak=timedelta(minutes=5)), facts, NOW)
    facts = commit(apply(facts, step), *facts)
    step = core.advance(step.rollout, facts, NOW)
    facts |= {"late": DeviceFacts()}
    step = core.advance(step.rollout, facts, NOW + timedelta(minutes=5))
    assert assigned(step) == ["late"]
    assert step.rollout.state is State.RUNNING
    facts = commit(apply(facts, step), "late")
    step = core.advance(step.rollout, facts, NOW + timedelta(minutes=6))
    assert step.rollout.state is State.RUNNING, "it soaks too"
    assert core.advance(step.rollout, facts, NOW + timedelta(minutes=11)).rollout.state is State.SUCCEEDED


def test_a_late_joiner_gets_no_place_beyond_the_wave():
    facts = fleet(3)
    step = core.advance(rollout("1,100%"), facts, NOW)
    facts = apply(facts, step) | {f"late{i}": DeviceFacts() for i in range(20)}
    assert not core.advance(step.rollout, facts, NOW).actions


def test_the_rate_limit_counts_a_sliding_minute():
    facts = fleet(5)
    step = core.advance(rollout("100%", per_minute=2), facts, NOW)
    assert len(assigned(step)) == 2
    facts = apply(facts, step)
    assert not core.advance(step.rollout, facts, NOW + timedelta(seconds=59)).actions
    assert len(assigned(core.advance(step.rollout, facts, NOW + timedelta(seconds=60)))) == 2


def test_devices_are_assigned_only_within_their_own_window():
    facts = {"utc": DeviceFacts(), "tokyo": DeviceFacts(timezone=ZoneInfo("Asia/Tokyo"))}
    step = core.advance(rollout("100%", window=parse_window("Mon 20:00-23:00")), facts, NOW)
    assert assigned(step) == ["tokyo"]
    assert step.actions[0].deadline == datetime(2026, 11, 23, 23, 0, tzinfo=ZoneInfo("Asia/Tokyo"))


def test_a_device_that_another_rollout_waits_for_is_left_alone():
    facts = fleet(1) | {"busy": DeviceFacts(held=True)}
    step = core.advance(rollout("100%"), facts, NOW)
    assert assigned(step) == ["cam0"]
    step = core.advance(step.rollout, commit(apply(facts, step), "cam0"), NOW)
    assert step.rollout.state is State.RUNNING


def test_a_revoked_device_frees_its_place():
    facts = fleet(2)
    step = core.advance(rollout("1"), facts, NOW)
    (first,) = assigned(step)
    facts = apply(facts, step)
    facts[first] = replace(facts[first], revoked=True, targeted=False)
    step = core.advance(step.rollout, facts, NOW)
    assert len(assigned(step)) == 1
    assert outcomes(step)[first] is Outcome.LEFT


def test_a_device_assigned_something_else_counts_for_nothing():
    facts = fleet(2)
    step = core.advance(rollout("100%"), facts, NOW)
    facts = commit(apply(facts, step), "cam0")
    facts["cam1"] = replace(facts["cam1"], sequence=9)
    step = core.advance(step.rollout, facts, NOW)
    assert step.rollout.state is State.SUCCEEDED
    assert outcomes(step)["cam1"] is Outcome.LEFT


def test_on_failure_rollback_sends_back_and_ends_when_all_are_back():
    facts = fleet(4)
    step = core.advance(rollout("2,100%", on_failure=OnFailure.ROLLBACK), facts, NOW)
    good, bad = assigned(step)
    facts = fail(commit(apply(facts, step), good), bad)
    step = core.advance(step.rollout, facts, NOW)
    assert step.rollout.state is State.FAILED
    assert {(a.device, a.release, a.sequence) for a in step.actions} == {(good, OLD, 2), (bad, OLD, 2)}
    facts = commit(apply(facts, step), bad, release=OLD)
    step = core.advance(step.rollout, facts, NOW)
    assert step.rollout.state is State.FAILED
    step = core.advance(step.rollout, commit(facts, good, release=OLD), NOW)
    assert step.rollout.state is State.ROLLED_BACK
    assert "proof: output differs" in step.rollout.reason


def test_a_rollback_gives_up_on_devices_that_never_confirm_and_names_them():
    facts = fleet(1)
    step = core.advance(rollout("1", device_timeout=timedelta(minutes=1)), facts, NOW)
    facts = commit(apply(facts, step), "cam0")
    step = core.advance(step.rollout, facts, NOW)
    step = orders.roll_back(step.rollout, facts, NOW)
    assert step.rollout.live
    step = core.advance(step.rollout, apply(facts, step), NOW + timedelta(minutes=1))
    assert step.rollout.state is State.SUCCEEDED
    assert not step.rollout.live
    assert "cam0" in step.rollout.reason


def test_a_first_model_has_nothing_to_go_back_to_and_is_withdrawn():
    facts = {"cam0": DeviceFacts()}
    step = core.advance(rollout("1"), facts, NOW)
    facts = fail(apply(facts, step), "cam0")
    step = orders.roll_back(core.advance(step.rollout, facts, NOW).rollout, facts, NOW)
    assert step.actions == (Withdraw(device="cam0"),)
    step = core.advance(step.rollout, facts, NOW)
    assert step.rollout.state is State.ROLLED_BACK
    assert "no earlier model" in step.rollout.reason


def test_resume_tries_the_failed_devices_once_more():
    facts = fleet(1)
    step = core.advance(rollout("1"), facts, NOW)
    facts = fail(apply(facts, step), "cam0")
    step = core.advance(orders.resume(core.advance(step.rollout, facts, NOW).rollout).rollout, facts, NOW)
    assert [(a.device, a.sequence) for a in step.actions] == [("cam0", 2)]
    assert step.rollout.members["cam0"].previous == OLD
    step = core.advance(step.rollout, commit(apply(facts, step), "cam0"), NOW)
    assert step.rollout.state is State.SUCCEEDED


def test_abort_sends_back_the_undecided_and_leaves_the_succeeded():
    facts = fleet(2)
    step = core.advance(rollout("100%"), facts, NOW)
    facts = commit(apply(facts, step), "cam0")
    step = orders.abort(core.advance(step.rollout, facts, NOW).rollout, facts)
    assert [(a.device, a.release) for a in step.actions] == [("cam1", OLD)]
    assert step.rollout.state is State.ABORTED
    assert core.advance(step.rollout, apply(facts, step), NOW).rollout == step.rollout


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.ABORTED, State.ROLLED_BACK])
def test_an_ended_rollout_cannot_be_paused_resumed_or_aborted(state):
    ended = replace(rollout(), state=state)
    for verb in (orders.pause, orders.resume, lambda r: orders.abort(r, {}), orders.start):
        with pytest.raises(FleetError, match=rf"r1 is {state}"):
            verb(ended)


def test_pause_keeps_devices_under_way_and_assigns_no_more():
    facts = fleet(2)
    step = core.advance(rollout("1,100%"), facts, NOW)
    paused = orders.pause(step.rollout).rollout
    step = core.advance(paused, commit(apply(facts, step), *facts), NOW)
    assert not step.actions
    assert Outcome.SUCCEEDED in outcomes(step).values()
    assert step.rollout.state is State.PAUSED
