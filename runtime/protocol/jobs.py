"""What the controller and those who use its queue of batch jobs say to each other, over ``/api/v1/jobs``.

Rules:
    * The controller keeps jobs and leases, and never looks inside ``options``; what runs a job reads them.
    * A lease is named by an id that only its holder was told: who says it, holds the job.
    * ``models`` are pinned: ``NAME@VERSION`` with the SHA-256 of its manifest.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "DEFAULT_LEASE",
    "Beat",
    "BeatAnswer",
    "Ending",
    "JobRequest",
    "JobState",
    "JobView",
    "Lease",
    "LeaseRequest",
    "OptionValue",
    "Progress",
    "Release",
]

DEFAULT_LEASE = 60.0  # seconds

Text = Annotated[str, Field(min_length=1, max_length=4096)]
Seconds = Annotated[float, Field(ge=1, le=3600)]
OptionName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=64)]
OptionValue = bool | int | float | str | list[str]


class JobState(StrEnum):
    """Where a job is: queued <-> running -> succeeded | failed | cancelled."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to the job."""
        return self not in {JobState.QUEUED, JobState.RUNNING}


class _Sent(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", from_attributes=True)


class JobRequest(_Sent):
    """A batch job to queue.

    Attributes:
        models: ``NAME``, ``NAME@VERSION`` or ``NAME@latest``, of the controller's store.
        input: URI, as what runs the job sees it.
        output: URI, as what runs the job sees it.
        options: Of ``vedette batch run``, by name without dashes before it.
        priority: The larger goes first.
    """

    models: Annotated[list[Text], Field(min_length=1, max_length=64)]
    input: Text
    output: Text
    options: dict[OptionName, OptionValue] = {}
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0


class Progress(_Said):
    """How far a job is, in shards."""

    shards: int
    committed: int


class JobView(_Said):
    """A job of the queue.

    Attributes:
        models: Digest of the manifest by ``NAME@VERSION``.
        cancelling: Somebody asked for its end, and its holder was not heard of since.
        reason: Why it failed or was cancelled, or waits again.
        holder: Who runs it, or ran it last.
        lease_until: When it goes back to the queue unless the holder says a word.
        lost: Leases that ran out.
        place: Of the Ray cluster that runs it: URL of its dashboard.
        run: What it is called there.
        summary: What `vedette batch run --json` prints, of a job that succeeded.
    """

    id: str
    state: JobState
    priority: int
    models: dict[str, str]
    input: str
    output: str
    options: dict[str, OptionValue]
    created_at: datetime
    created_by: str
    started_at: datetime | None
    ended_at: datetime | None
    cancelling: bool
    reason: str
    holder: str | None
    lease_until: datetime | None
    lost: int
    place: str | None
    run: str | None
    progress: Progress | None
    summary: dict[str, Any] | None


class LeaseRequest(_Sent):
    """Ask for the next job."""

    holder: Annotated[str, Field(min_length=1, max_length=128)]
    seconds: Seconds = DEFAULT_LEASE


class Lease(_Said):
    """The next job, and the id of the lease that it is held under."""

    lease: str
    job: JobView


class Beat(_Sent):
    """A word of the holder: it goes on with the job for so many *seconds* more."""

    lease: Text
    seconds: Seconds = DEFAULT_LEASE
    place: str | None = None
    run: str | None = None
    progress: Progress | None = None


class BeatAnswer(_Said):
    """Whether somebody asked for the job's end."""

    cancelling: bool


class Release(_Sent):
    """The holder gives the job back to the queue."""

    lease: Text


class Ending(_Sent):
    """The holder says how the job ended."""

    lease: Text
    state: Literal[JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED]
    reason: Annotated[str, Field(max_length=4096)] = ""
    progress: Progress | None = None
    summary: dict[str, Any] | None = None
