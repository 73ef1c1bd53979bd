"""/api/v1/jobs: the queue of batch jobs, for those who want one run and for what runs them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from controller.api.access import Operator, Parts, Viewer
from runtime.protocol.jobs import Beat, BeatAnswer, Ending, JobRequest, JobView, Lease, LeaseRequest, Release

__all__ = ["router"]

router = APIRouter(prefix="/jobs", tags=["jobs"])


@router.post("", status_code=201)
def create(request: JobRequest, services: Parts, actor: Operator) -> JobView:
    """Queue a batch job; the one that is there if the same is live already."""
    return JobView.model_validate(services.jobs.submit(request, actor.name))


@router.get("")
def list_jobs(
    services: Parts,
    _actor: Viewer,
    most: Annotated[int, Query(ge=1, le=1000)] = 100,
    live: bool = False,  # noqa: FBT001, FBT002 - a query parameter
) -> list[JobView]:
    """List jobs, the newest first; those alone that have not ended if asked for."""
    return [JobView.model_validate(row) for row in services.jobs.listing(most, live=live)]


@router.post("/leases")
def lease(request: LeaseRequest, services: Parts, actor: Operator, response: Response) -> Lease | None:
    """Hand out the next job, under a lease; 204: none may run now."""
    taken = services.jobs.lease(request.holder, request.seconds, actor.name)
    if taken is None:
        response.status_code = 204
        return None
    lease_id, row = taken
    return Lease(lease=lease_id, job=JobView.model_validate(row))


@router.get("/{job}")
def show(job: str, services: Parts, _actor: Viewer) -> JobView:
    """Show a job."""
    return JobView.model_validate(services.jobs.find(job))


@router.post("/{job}/cancel")
def cancel(job: str, services: Parts, actor: Operator) -> JobView:
    """Cancel a job; a running one ends when its holder says so."""
    return JobView.model_validate(services.jobs.cancel(job, actor.name))


@router.post("/{job}/beat")
def beat(job: str, word: Beat, services: Parts, _actor: Operator) -> BeatAnswer:
    """Renew a lease."""
    return BeatAnswer(cancelling=services.jobs.beat(job, word).cancelling)


@router.post("/{job}/release")
def release(job: str, word: Release, services: Parts, actor: Operator) -> JobView:
    """Give a job back to the queue."""
    return JobView.model_validate(services.jobs.release(job, word.lease, actor.name))


@router.post("/{job}/finish")
def finish(job: str, ending: Ending, services: Parts, actor: Operator) -> JobView:
    """Say how a job ended."""
    return JobView.model_validate(services.jobs.finish(job, ending, actor.name))
