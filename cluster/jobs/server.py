"""Brings jobs of the controller's queue to a Ray cluster, a few at a time.

Rules:
    * A job is taken under a lease, and the lease is renewed while the job is followed. A lease that is lost
      is not fought for: whoever has it now follows the same run, or goes on with what is committed.
    * To take a job that already runs on this cluster is to follow it: its name there is its output's.
    * Starting a run may take long (a model travels), so each job has a thread of its own; only the main
      loop talks to the controller.
    * At the end the jobs go back to the queue, and their runs go on: the next server follows them.
    * A controller that does not answer is asked again; nothing is stopped for it.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from cluster.errors import JobServerError
from cluster.jobs.luggage import Models, find_models
from cluster.jobs.outputs import progress_of, read_report
from cluster.jobs.request import job_id
from runtime.client import Client
from runtime.errors import ApiError, ArtifactError, UnreachableError, VedetteError
from runtime.logs import get_logger
from runtime.protocol.jobs import Beat, Ending, JobRequest, JobState, JobView, Lease, LeaseRequest, Progress, Release

__all__ = ["JobServer", "RunsJobs"]

log = get_logger("vedette.batch")

POLL = 1.0  # seconds between two looks at a run
BEATS = 4  # words to the controller in the time of a lease
CONFLICT = 409  # HTTP status of a lease that is lost
MOST_REASON = 4000  # characters


class RunsJobs(Protocol):
    """What `RayJobs` does for the server."""

    address: str

    def submit(self, request: JobRequest, models: Models, environment: Mapping[str, Any] | None = None) -> JobView:
        """Start a run, or find the one that has not ended."""

    def status(self, job: str) -> JobView:
        """Return a job."""

    def cancel(self, job: str) -> JobView:
        """Stop a job's run."""


@dataclass(slots=True)
class _Followed:
    """A job that this server holds; written by its thread, read by the main loop."""

    lease: Lease
    run: str | None = None
    progress: Progress | None = None
    ending: Ending | None = None
    cancelling: bool = False
    lost: bool = False
    beaten: float = field(default_factory=time.monotonic)

    @property
    def job(self) -> JobView:
        return self.lease.job


class JobServer:
    """Takes jobs of a controller's queue, and runs them on Ray."""

    def __init__(
        self,
        client: Client,
        ray: RunsJobs,
        *,
        concurrency: int,
        lease: float,
        store: str | None = None,
        environment: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin nothing yet.

        Args:
            client: Of the controller.
            ray: Where the jobs run.
            concurrency: Jobs at a time, at most.
            lease: Seconds that a job is held for without a word.
            store: URI of the artifact store; the default one if ``None``.
            environment: Further keys of Ray's runtime environment.
        """
        self._client, self._ray, self._store, self._environment = client, ray, store, environment
        self._concurrency, self._seconds = concurrency, lease
        self._holder = f"{socket.gethostname()}:{os.getpid()}"
        self._followed: dict[str, _Followed] = {}

    def serve(self, stop: threading.Event) -> None:
        """Take and run jobs until *stop* is set."""
        try:
            while not stop.is_set():
                self.step()
                stop.wait(POLL)
        finally:
            self._give_back()

    def step(self) -> None:
        """Say what is to be said of the jobs at hand, and take new ones while there is room."""
        for followed in list(self._followed.values()):
            self._tell(followed)
        while len(self._followed) < self._concurrency and self._take():
            pass

    def _take(self) -> bool:
        """Take the next job, if there is one; return whether there was."""
        asked = LeaseRequest(holder=self._holder, seconds=self._seconds)
        answer = self._post("/jobs/leases", asked.model_dump())
        if answer is None:
            return False
        followed = _Followed(Lease.model_validate(answer))
        if followed.job.id in self._followed:  # its lease ran out, and we got the next one
            self._followed[followed.job.id].lost = True
        self._followed[followed.job.id] = followed
        log.info("took a job", job=followed.job.id, output=followed.job.output)
        threading.Thread(target=self._follow, args=(followed,), name=followed.job.id, daemon=True).start()
        return True

    def _post(self, path: str, body: Any) -> Any:
        """Return the controller's answer, or ``None`` if it gives none now.

        Raises:
            ApiError: The lease is lost.
        """
        try:
            return self._client.post(path, body)
        except ApiError as error:
            if error.status == CONFLICT:
                raise
            log.warning("the controller does not take it", path=path, reason=str(error))
            if not isinstance(error, UnreachableError) and error.status < 500:
                raise
            return None

    def _tell(self, followed: _Followed) -> None:
        """Renew a lease in time, or say how its job ended."""
        now = time.monotonic()
        path = f"/jobs/{followed.job.id}"
        lease = followed.lease.lease
        try:
            if followed.ending is not None:
                if self._post(f"{path}/finish", followed.ending.model_dump(mode="json")) is not None:
                    del self._followed[followed.job.id]
                    log.info("a job ended", job=followed.job.id, state=followed.ending.state.value)
            elif now - followed.beaten >= self._seconds / BEATS:
                beat = Beat(
                    lease=lease, seconds=self._seconds, place=self._ray.address, run=followed.run,
                    progress=followed.progress,
                )  # fmt: skip
                answer = self._post(f"{path}/beat", beat.model_dump(mode="json"))
                if answer is not None:
                    followed.beaten, followed.cancelling = now, answer["cancelling"]
        except ApiError as error:
            log.warning("a job is not ours any more", job=followed.job.id, reason=str(error))
            followed.lost = True
            del self._followed[followed.job.id]

    def _give_back(self) -> None:
        for followed in self._followed.values():
            self._tell(followed) if followed.ending is not None else self._release(followed)

    def _release(self, followed: _Followed) -> None:
        followed.lost = True
        try:
            self._post(f"/jobs/{followed.job.id}/release", Release(lease=followed.lease.lease).model_dump())
        except ApiError as error:
            log.warning("a job could not be given back", job=followed.job.id, reason=str(error))

    # --- In the thread of a job -------------------------------------------------------------------

    def _follow(self, followed: _Followed) -> None:
        """Run a job to its end, which becomes its `_Followed.ending`."""
        try:
            followed.ending = self._run(followed)
        except VedetteError as error:
            followed.ending = self._ended(followed, JobState.FAILED, str(error))
        except Exception as error:  # noqa: BLE001 - a job must not wait for a thread that died
            followed.ending = self._ended(followed, JobState.FAILED, f"{type(error).__name__}: {error} (this is a bug)")

    def _ended(self, followed: _Followed, state: Any, reason: str, summary: dict[str, Any] | None = None) -> Ending:
        return Ending(
            lease=followed.lease.lease,
            state=state,
            reason=reason[:MOST_REASON],
            progress=followed.progress,
            summary=summary,
        )

    def _run(self, followed: _Followed) -> Ending | None:
        job = followed.job
        request = JobRequest(
            models=list(job.models), input=job.input, output=job.output, options=job.options, priority=job.priority
        )
        models = find_models(request.models, self._store)
        _check_digests(job, models)
        view = self._patiently(lambda: self._ray.submit(request, models, self._environment))
        followed.run, followed.beaten = view.run, 0.0  # say so soon
        stopped, looked = False, time.monotonic()
        while not view.state.ended:
            if followed.lost:
                return None
            if followed.cancelling and not stopped:
                self._patiently(lambda: self._ray.cancel(job_id(job.output)))
                stopped = True
            time.sleep(POLL)
            if time.monotonic() - looked >= self._seconds / BEATS:
                followed.progress, looked = progress_of(job.output) or followed.progress, time.monotonic()
            view = self._patiently(lambda: self._ray.status(job_id(job.output)))
        followed.progress = progress_of(job.output) or followed.progress
        if view.state is JobState.SUCCEEDED:
            return self._ended(followed, view.state, "", read_report(job.output))
        return self._ended(followed, view.state, view.reason)

    def _patiently(self, call: Callable[[], JobView]) -> JobView:
        """Return what Ray's job server answers; one that is gone for less than a lease is waited for."""
        until = time.monotonic() + self._seconds
        while True:
            try:
                return call()
            except JobServerError:
                if time.monotonic() > until:
                    raise
                time.sleep(POLL)


def _check_digests(job: JobView, models: Models) -> None:
    """Raise unless *models* are the ones that the controller pinned.

    Raises:
        ArtifactError: One is another.
    """
    for reference, digest in models.digests.items():
        if job.models[reference] != digest:
            raise ArtifactError(
                f"model {reference} of this store has the digest {digest}; the controller's has "
                f"{job.models[reference]}: serve with the --store of the controller"
            )
