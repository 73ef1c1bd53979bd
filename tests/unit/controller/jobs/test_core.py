"""The laws of the job queue, against any order of events."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from controller.errors import FleetError, LeaseLostError
from controller.jobs.core import Bounds, Held, Job, cancel, finish, give_back, lapse, next_job, renew, take
from runtime.protocol.jobs import JobState

START = datetime(2026, 11, 23, tzinfo=UTC)


def job(number=0, **changes):
    made = {"id": f"j{number}", "output": f"/out/{number}", "priority": 0, "created_at": START}
    return Job(**made | changes)


def held(job, until=60.0, lease="l1"):
    return take(job, Held(id=lease, holder="ray-1", until=START + timedelta(seconds=until)))


jobs = st.lists(
    st.builds(
        lambda number, output, priority, age, state: replace(
            job(number, output=f"/out/{output}", priority=priority, created_at=START - timedelta(seconds=age)),
            state=state,
        ),
        st.integers(0, 999),
        st.integers(0, 3),
        st.integers(-2, 2),
        st.integers(0, 5),
        st.sampled_from(JobState),
    ),
    max_size=12,
    unique_by=lambda one: one.id,
)


@given(jobs=jobs, bound=st.integers(1, 4))
def test_the_next_job_is_the_first_by_priority_and_age_of_those_that_may_run(jobs, bound):
    found = next_job(jobs, Bounds(running=bound))
    running = [one for one in jobs if one.state is JobState.RUNNING]
    may = [
        one for one in jobs if one.state is JobState.QUEUED and one.output not in {other.output for other in running}
    ]
    if found is None:
        assert len(running) >= bound or not may
        return
    assert found in may
    assert len(running) < bound
    assert not [one for one in may if one.priority > found.priority]
    assert not [one for one in may if one.priority == found.priority and one.created_at < found.created_at]


def test_a_lease_that_runs_out_puts_the_job_back_at_its_place():
    first, second = job(1, created_at=START - timedelta(seconds=1)), job(2)
    back = lapse(held(first), Bounds(), START + timedelta(seconds=60))
    assert (back.state, back.held, back.lost) == (JobState.QUEUED, None, 1)
    assert "ray-1 was not heard of" in back.reason
    assert next_job([second, back], Bounds()) is back


def test_a_lease_holds_until_its_time():
    running = held(job())
    assert lapse(running, Bounds(), START + timedelta(seconds=59.9)) is running


def test_a_job_that_lost_too_many_leases_has_failed():
    running = held(job(lost=2))
    assert lapse(running, Bounds(lost=3), START + timedelta(hours=1)).state is JobState.QUEUED
    failed = lapse(running, Bounds(lost=2), START + timedelta(hours=1))
    assert failed.state is JobState.FAILED
    assert "3 leases ran out" in failed.reason


def test_who_names_another_lease_is_refused():
    for word in (
        lambda one: renew(one, "other", START, 60),
        lambda one: give_back(one, "other"),
        lambda one: finish(one, "other", JobState.SUCCEEDED, ""),
    ):
        with pytest.raises(LeaseLostError, match="job j0 is not held under that lease any more: it is held by ray-1"):
            word(held(job()))
        with pytest.raises(LeaseLostError, match="it is queued"):
            word(job())


def test_a_renewed_lease_never_ends_earlier():
    running = held(job(), until=60)
    assert renew(running, "l1", START, 5).held.until == running.held.until
    assert renew(running, "l1", START + timedelta(seconds=50), 60).held.until == START + timedelta(seconds=110)


def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_by_its_holder():
    assert cancel(job()).state is JobState.CANCELLED
    asked = cancel(held(job()))
    assert (asked.state, asked.cancelling) == (JobState.RUNNING, True)
    assert finish(asked, "l1", JobState.CANCELLED, "").state is JobState.CANCELLED
    assert give_back(asked, "l1").state is JobState.CANCELLED
    assert lapse(asked, Bounds(), START + timedelta(hours=1)).state is JobState.CANCELLED


@pytest.mark.parametrize("state", [state for state in JobState if state.ended])
def test_an_end_is_final(state):
    ended = finish(held(job()), "l1", state, "")
    assert lapse(ended, Bounds(), START + timedelta(days=9)) is ended
    assert next_job([ended], Bounds()) is None
    with pytest.raises(FleetError, match=f"it is {state.value}"):
        cancel(ended)


class Queue(RuleBasedStateMachine):
    """Holders that come and go, in any order."""

    def __init__(self):
        super().__init__()
        self.now, self.jobs, self.leases, self.bounds = START, {}, {}, Bounds(running=2, lost=3)

    def put(self, after):
        self.jobs[after.id] = after

    @rule(output=st.integers(0, 2), priority=st.integers(-1, 1))
    def submit(self, output, priority):
        self.put(job(len(self.jobs), output=f"/out/{output}", priority=priority, created_at=self.now))

    @rule(seconds=st.integers(1, 90))
    def wait(self, seconds):
        self.now += timedelta(seconds=seconds)
        for one in list(self.jobs.values()):
            self.put(lapse(one, self.bounds, self.now))

    @rule()
    def lease(self):
        found = next_job(self.jobs.values(), self.bounds)
        if found is not None:
            lease = f"l{len(self.leases)}"
            self.leases[lease] = found.id
            self.put(take(found, Held(id=lease, holder="h", until=self.now + timedelta(seconds=60))))

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), word=st.sampled_from(["renew", "give_back", "finish"]))
    def say(self, data, word):
        lease = data.draw(st.sampled_from(sorted(self.leases)))
        before = self.jobs[self.leases[lease]]
        words = {
            "renew": lambda: renew(before, lease, self.now, 60),
            "give_back": lambda: give_back(before, lease),
            "finish": lambda: finish(before, lease, JobState.SUCCEEDED, ""),
        }
        if before.held is not None and before.held.id == lease:
            self.put(words[word]())
        else:
            with pytest.raises(LeaseLostError):
                words[word]()

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data):
        one = self.jobs[data.draw(st.sampled_from(sorted(self.jobs)))]
        if not one.state.ended:
            self.put(cancel(one))

    @invariant()
    def one_writer_an_output_and_no_more_than_may_run(self):
        running = [one.output for one in self.jobs.values() if one.state is JobState.RUNNING]
        assert len(set(running)) == len(running) <= self.bounds.running

    @invariant()
    def a_lease_is_held_exactly_while_a_job_runs(self):
        assert all((one.held is not None) == (one.state is JobState.RUNNING) for one in self.jobs.values())
        assert all(one.lost <= self.bounds.lost + 1 for one in self.jobs.values())


TestQueue = Queue.TestCase
