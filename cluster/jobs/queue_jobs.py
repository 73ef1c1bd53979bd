"""Jobs of the controller's queue: submitted and followed there; `cluster.jobs.server` brings them to Ray."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from cluster.errors import JobServerError
from cluster.jobs.ray_jobs import RayJobs
from cluster.storage import absolute_uri
from runtime.client import Client
from runtime.protocol.jobs import JobRequest, JobView

__all__ = ["QueueJobs"]

ID = re.compile(r"j[0-9a-f]{8}")
POLL = 1.0  # seconds between two looks at a job that waits


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
        """Return a job by its id, or the newest of an output; raises as `Client.request`."""
        if not ID.fullmatch(job):
            output = absolute_uri(job)
            job = next((view.id for view in self.listing() if view.output == output), job)
        return JobView.model_validate(self._client.get(f"/jobs/{quote(job, safe='')}"))

    def cancel(self, job: str) -> JobView:
        """Cancel a job; raises as `Client.request`."""
        return JobView.model_validate(self._client.post(f"/jobs/{self.status(job).id}/cancel"))

    def logs(self, job: str, *, follow: bool) -> Iterator[str]:
        """Yield what the job printed on its Ray cluster; one that waits is waited for, if *follow*.

        Raises:
            JobServerError: It has not run yet, or its cluster is out of reach.
        """
        view = self.status(job)
        while follow and view.run is None and not view.state.ended:
            time.sleep(POLL)
            view = self.status(view.id)
        if view.place is None or view.run is None:
            raise JobServerError(f"job {view.id} has no log: it is {view.state.value} and was on no cluster yet")
        return RayJobs(view.place).run_logs(view.run, follow=follow)

    def report(self, job: str) -> dict[str, Any]:
        """Return the report of a job that succeeded.

        Raises:
            JobServerError: It did not.
        """
        view = self.status(job)
        if view.summary is None:
            raise JobServerError(f"job {view.id} has no report: it is {view.state.value}")
        return view.summary
