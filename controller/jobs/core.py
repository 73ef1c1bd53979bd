"""The rules of the job queue, pure: no clock, no database.

Rules:
    * The next job is the one of the highest priority, and of those the oldest; but never one whose
      output a running job writes, and none while as many run as may.
    * A job is held under one lease at a time. Only who names that lease may renew it, give the job back,
      or say how it ended. A word that names another lease is refused: its job is somebody else's.
    * A lease that runs out puts its job back into the queue, at its old place; a job that lost as many
      leases as it may has failed. A lease given back is not lost.
    * A job that waits is cancelled at once; a running one when its holder says so, or its lease runs out.
    * An end is final.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from controller.errors import FleetError, LeaseLostError
from runtime.protocol.jobs import JobState

__all__ = ["Bounds", "Held", "Job", "cancel", "finish", "give_back", "lapse", "next_job", "renew", "take"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the queue allows.

    Attributes:
        running: Jobs that may run at a time.
        lost: Leases that a job may lose; with one more it has failed.
    """

    running: int = 4
    lost: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A lease: its id, who has it, and until when."""

    id: str
    holder: str
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as the rules see it.

    Attributes:
        held: Its lease, exactly while it is running.
        lost: Leases that ran out.
        cancelling: Its end was asked for.
        reason: Why it is where it is.
    """

    id: str
    output: str
    priority: int
    created_at: datetime
    state: JobState = JobState.QUEUED
    held: Held | None = None
    lost: int = 0
    cancelling: bool = False
    reason: str = ""


def lapse(job: Job, bounds: Bounds, now: datetime) -> Job:
    """Return *job* without its lease if that ran out; the same job otherwise."""
    if job.held is None or now < job.held.until:
        return job
    lost = job.lost + 1
    why = f"{job.held.holder} was not heard of for the time of its lease"
    if job.cancelling:
        return replace(job, state=JobState.CANCELLED, held=None, lost=lost, reason=f"cancelled; {why}")
    if lost > bounds.lost:
        return replace(
            job, state=JobState.FAILED, held=None, lost=lost, reason=f"{lost} leases ran out; the last: {why}"
        )
    return replace(job, state=JobState.QUEUED, held=None, lost=lost, reason=why)


def next_job(jobs: Iterable[Job], bounds: Bounds) -> Job | None:
    """Return which of *jobs*, whose leases hold, is to run next; ``None``: none may."""
    live = list(jobs)
    running = {job.output for job in live if job.state is JobState.RUNNING}
    waiting = [job for job in live if job.state is JobState.QUEUED and job.output not in running]
    full = sum(job.state is JobState.RUNNING for job in live) >= bounds.running
    if full or not waiting:
        return None
    return min(waiting, key=lambda job: (-job.priority, job.created_at, job.id))


def take(job: Job, held: Held) -> Job:
    """Return *job*, of `next_job`, as it runs under the lease *held*."""
    return replace(job, state=JobState.RUNNING, held=held, reason="")


def _check_held(job: Job, lease: str) -> Held:
    """Return the lease of *job*.

    Raises:
        LeaseLostError: It is not *lease*.
    """
    if job.held is None or job.held.id != lease:
        found = f"held by {job.held.holder}" if job.held else job.state.value
        raise LeaseLostError(f"job {job.id} is not held under that lease any more: it is {found}")
    return job.held


def renew(job: Job, lease: str, now: datetime, seconds: float) -> Job:
    """Return *job* with its lease from *now* on.

    Raises:
        LeaseLostError: The job is not held under *lease*.
    """
    held = _check_held(job, lease)
    return replace(job, held=replace(held, until=max(held.until, now + timedelta(seconds=seconds))))


def give_back(job: Job, lease: str) -> Job:
    """Return *job* as it waits again; cancelled if that was asked for.

    Raises:
        LeaseLostError: The job is not held under *lease*.
    """
    held = _check_held(job, lease)
    state = JobState.CANCELLED if job.cancelling else JobState.QUEUED
    return replace(job, state=state, held=None, reason=f"given back by {held.holder}")


def finish(job: Job, lease: str, state: JobState, reason: str) -> Job:
    """Return *job* as it ended.

    Raises:
        LeaseLostError: The job is not held under *lease*.
    """
    _check_held(job, lease)
    return replace(job, state=state, held=None, reason=reason)


def cancel(job: Job) -> Job:
    """Return *job* cancelled, or on its way to it.

    Raises:
        FleetError: It ended already.
    """
    if job.state.ended:
        raise FleetError(f"job {job.id} has ended: it is {job.state.value}")
    if job.state is JobState.QUEUED:
        return replace(job, state=JobState.CANCELLED, cancelling=True, reason="cancelled before it ran")
    return replace(job, cancelling=True)
