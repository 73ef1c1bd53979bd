"""Jobs of the controller's queue: submitted and followed there; `cluster.jobs.server` brings them to Ray."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cluster.errors import JobServerError
from cluster.jobs.ray_jobs import RayJobs
from runtime.client import Client
from runtime.protocol.jobs import JobRequest, JobView

__all__ = ["QueueJobs"]


class QueueJobs:
    """The batch jobs of one controller."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def submit(self, request: JobRequest) -> JobView:
        """Queue a job; raises as `Client.request`."""
        return JobView.model_validate(self._client.post("/jobs", request.model_dump(mode="json")))

    def listing(self) -> list[JobView]:
        """Return the latest jobs, the newest first; raises as `Client.request`."""
        return [JobView.model_validate(found) for found in self._client.get("/jobs")]

    def status(self, job: str) -> JobView:
        """Return a job; raises as `Client.request`."""
        return JobView.model_validate(self._client.get(f"/jobs/{job}"))

    def cancel(self, job: str) -> JobView:
        """Cancel a job; raises as `Client.request`."""
        return JobView.model_validate(self._client.post(f"/jobs/{job}/cancel"))

    def logs(self, job: str, *, follow: bool) -> Iterator[str]:
        """Yield what the job printed on its Ray cluster.

        Raises:
            JobServerError: It has not run yet, or its cluster is out of reach.
        """
        view = self.status(job)
        if view.place is None or view.run is None:
            raise JobServerError(f"job {job} has no log: it is {view.state.value} and was on no cluster yet")
        return RayJobs(view.place).run_logs(view.run, follow=follow)

    def report(self, job: str) -> dict[str, Any]:
        """Return the report of a job that succeeded.

        Raises:
            JobServerError: It did not.
        """
        view = self.status(job)
        if view.summary is None:
            raise JobServerError(f"job {job} has no report: it is {view.state.value}")
        return view.summary
