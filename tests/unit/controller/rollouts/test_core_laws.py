"""Laws of the rollout core, whatever the devices do."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.rollouts import core
from controller.rollouts.model import Assign, DeviceFacts, OnFailure, Outcome, Policy, Release, Rollout, State
from controller.rollouts.schedule import parse_waves
from runtime.protocol.messages import Phase

NOW = datetime(2026, 11, 23, tzinfo=UTC)
OLD = Release(model="m", version=1, digest="1" * 64)
NEW = Release(model="m", version=2, digest="2" * 64)
ENDED = {State.SUCCEEDED, State.FAILED, State.ABORTED, State.ROLLED_BACK}

waves = st.sampled_from(["1,10%,100%", "1", "50%,100%", "2,100%", "100%", "25%,50%,75%,100%"])
policies = st.builds(
    Policy,
    waves=waves.map(parse_waves),
    soak=st.sampled_from([timedelta(), timedelta(minutes=3)]),
    max_failure_rate=st.sampled_from([0.0, 0.05, 0.34, 0.9]),
    success_rate=st.sampled_from([0.5, 1.0]),
    min_samples=st.integers(1, 5),
    device_timeout=st.just(timedelta(minutes=8)),
    per_minute=st.sampled_from([None, 1, 3]),
    on_failure=st.sampled_from(OnFailure),
)
# What happens between two steps: minutes that pass, and for some devices what they do with their assignment.
behaviours = st.sampled_from(["commit", "fail", "leave", "download", "silent", "revoke", "reassign"])
scripts = st.lists(
    st.tuples(st.integers(0, 4), st.dictionaries(st.integers(0, 11), behaviours, max_size=6), st.integers(0, 2)),
    min_size=1,
    max_size=14,
)


def behave(fact: DeviceFacts, behaviour: str) -> DeviceFacts:
    seen = replace(fact, reported_sequence=fact.sequence)
    return {
        "commit": replace(seen, phase=Phase.COMMITTED, active=NEW),
        "fail": replace(seen, phase=Phase.FAILED, failure="proof: no", failure_sequence=fact.sequence),
        "leave": replace(seen, phase=Phase.IDLE, active=OLD),
        "download": replace(seen, phase=Phase.DOWNLOADING),
        "silent": fact,
        "revoke": replace(fact, revoked=True, targeted=False),
        "reassign": replace(fact, sequence=fact.sequence + 1),
    }[behaviour]


def perform(facts: dict[str, DeviceFacts], step) -> dict[str, DeviceFacts]:
    done = {a.device: replace(facts[a.device], sequence=a.sequence) for a in step.actions if isinstance(a, Assign)}
    return facts | done


def present(rollout: Rollout) -> int:
    return sum(member.outcome is not Outcome.LEFT for member in rollout.members.values())


def places(rollout: Rollout, facts: dict[str, DeviceFacts]) -> int:
    """How many devices may have the release: said again, in the plainest way."""
    total = 0
    for device in facts.keys() | rollout.members.keys():
        member = rollout.members.get(device)
        left = member is not None and member.outcome is Outcome.LEFT
        total += not left and (facts[device].targeted or member is not None)
    return max(wave.size(total) for wave in rollout.policy.waves[: rollout.wave + 1])


@settings(max_examples=400)
@given(policy=policies, size=st.integers(1, 10), script=scripts)
def test_whatever_devices_do_the_gates_hold(policy, size, script):
    rollout = Rollout(id="r", release=NEW, policy=policy, state=State.RUNNING)
    facts = {f"d{i}": DeviceFacts(active=OLD, sequence=i) for i in range(size)}
    now, joined = NOW, 0
    for minutes, acts, joiners in script:
        now += timedelta(minutes=minutes)
        for i, behaviour in acts.items():
            if f"d{i}" in facts:
                facts[f"d{i}"] = behave(facts[f"d{i}"], behaviour)
        for _ in range(joiners):
            facts[f"late{joined}"] = DeviceFacts()
            joined += 1
        step = core.advance(rollout, facts, now)
        assigned = [a for a in step.actions if isinstance(a, Assign) and a.release == NEW]

        # Idempotent: the same moment again says nothing new, before and after the actions were performed.
        assert core.advance(step.rollout, facts, now) == core.Step(step.rollout)
        assert core.advance(step.rollout, perform(facts, step), now) == core.Step(step.rollout)
        # Never beyond the wave; only running rollouts assign; a revoked device never gets anything.
        if assigned:
            assert present(step.rollout) <= places(step.rollout, facts)
            assert rollout.state is State.RUNNING
        assert all(not facts[a.device].revoked for a in step.actions)
        # Sequences rise by one.
        assert all(a.sequence > facts[a.device].sequence for a in step.actions if isinstance(a, Assign))
        # Monotone: waves never go back, members are never forgotten, who failed stays failed.
        assert step.rollout.wave >= rollout.wave
        assert step.rollout.members.keys() >= rollout.members.keys()
        for device, member in rollout.members.items():
            if member.outcome is Outcome.FAILED:
                assert step.rollout.members[device].outcome in {Outcome.FAILED, Outcome.LEFT}
        # Ended is ended, but for a rollback under way.
        if rollout.state in ENDED and rollout.returning_since is None:
            assert step == core.Step(rollout)
        rollout, facts = step.rollout, perform(facts, step)
        if policy.per_minute is not None:
            recent = [m for m in rollout.members.values() if m.assigned_at > now - timedelta(minutes=1)]
            assert len(recent) <= policy.per_minute


@settings(max_examples=150)
@given(policy=policies, size=st.integers(1, 40))
def test_a_bad_version_never_reaches_more_than_the_first_wave(policy, size):
    rollout = Rollout(id="r", release=NEW, policy=policy, state=State.RUNNING)
    facts = {f"d{i}": DeviceFacts(active=OLD) for i in range(size)}
    for minute in range(200):
        step = core.advance(rollout, facts, NOW + timedelta(minutes=minute))
        facts = perform(facts, step)
        for action in step.actions:
            if isinstance(action, Assign) and action.release == NEW:
                facts[action.device] = behave(facts[action.device], "fail")
        rollout = step.rollout
    assert len(rollout.members) <= policy.waves[0].size(size)
    assert rollout.state in {State.PAUSED, State.FAILED}


@settings(max_examples=150)
@given(policy=policies, size=st.integers(1, 40))
def test_a_good_version_reaches_the_last_wave_and_succeeds(policy, size):
    rollout = Rollout(id="r", release=NEW, policy=policy, state=State.RUNNING)
    facts = {f"d{i}": DeviceFacts(active=OLD) for i in range(size)}
    for minute in range(200):
        step = core.advance(rollout, facts, NOW + timedelta(minutes=minute))
        facts = perform(facts, step)
        for action in step.actions:
            facts[action.device] = behave(facts[action.device], "commit")
        rollout = step.rollout
    assert rollout.state is State.SUCCEEDED
    assert len(rollout.members) == max(wave.size(size) for wave in policy.waves)


@given(devices=st.lists(st.text(min_size=1, max_size=8), unique=True), data=st.data())
def test_the_cohort_does_not_depend_on_the_order_of_the_devices(devices, data):
    shuffled = data.draw(st.permutations(devices))
    assert core.cohort("r", shuffled) == core.cohort("r", devices)


@given(devices=st.lists(st.text(min_size=1, max_size=8), unique=True, min_size=1), data=st.data())
def test_a_joiner_never_changes_the_order_of_the_others(devices, data):
    joiner = data.draw(st.sampled_from(devices))
    without = [device for device in core.cohort("r", devices) if device != joiner]
    assert core.cohort("r", [device for device in devices if device != joiner]) == without
