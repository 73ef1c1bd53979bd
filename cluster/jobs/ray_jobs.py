"""Jobs on Ray's job server: submitted, followed and cancelled there.

Rules:
    * A job's id is its output's (`request.job_id`). Each time that it is submitted anew is a run of it, called
      ``<id>-<number>`` on the cluster; the newest run is the job's state.
    * While a run has not ended there is no other: to submit the same again is to follow it, and to submit
      another job for the output is refused. Ray refuses two runs of one name, so that of two who submit at once
      one starts it and both follow it.
    * A run that ended is gone on with by the next one: what is committed is not done again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster.errors import JobServerError, OtherJobError
from cluster.jobs.luggage import Models, luggage
from cluster.jobs.outputs import progress_of, read_report
from cluster.jobs.request import driver_call, job_id
from cluster.storage import absolute_uri
from runtime.errors import UsageError
from runtime.protocol.jobs import JobRequest, JobState, JobView

__all__ = ["DEFAULT_ADDRESS", "RayJobs", "reason_of"]

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
CONNECT_TIMEOUT = 5.0  # seconds
METADATA = "vedette"  # key under which a run says what it was asked for ...
MODELS = "vedette_models"  # ... and the digests of its models
STATES: Mapping[str, JobState] = {
    "PENDING": JobState.QUEUED,
    "RUNNING": JobState.RUNNING,
    "SUCCEEDED": JobState.SUCCEEDED,
    "FAILED": JobState.FAILED,
    "STOPPED": JobState.CANCELLED,
}
"""Ours by Ray's."""

_ERROR = re.compile(r"^vedette[^:\n]*: error: (.+)$", re.MULTILINE)


def reason_of(message: str) -> str:
    """Return why a run failed, in one line, of what Ray says of it: our own error if there is one in its log."""
    ours = _ERROR.findall(message)
    return ours[-1] if ours else " ".join(message.split())[:300]


class RayJobs:
    """The batch jobs of one Ray cluster."""

    def __init__(self, address: str | None = None) -> None:
        """Connect.

        Args:
            address: URL of the cluster's dashboard; ``RAY_API_SERVER_ADDRESS``, else this machine's, if ``None``.

        Raises:
            UsageError: *address* is no URL.
            JobServerError: There is no job server, or it does not let us in.
        """
        self.address = _checked(address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS)
        _offer_token()
        logging.getLogger("ray").setLevel(logging.WARNING)  # what it uploads is not for our output
        from ray.job_submission import JobSubmissionClient

        _check_reachable(self.address)
        with self._explained():
            self._client = JobSubmissionClient(self.address)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what Ray's client raises into one error."""
        from ray.exceptions import RayError

        try:
            yield
        except (RayError, RuntimeError, ConnectionError, ValueError, OSError) as error:
            text = " ".join(str(error).split())
            raise JobServerError(f"Ray's job server at {self.address}: {text[-400:]}") from None

    def submit(self, request: JobRequest, models: Models, environment: Mapping[str, Any] | None = None) -> JobView:
        """Start a run of the job, or find the one that has not ended.

        Args:
            request: What was asked for; its output as `cluster.storage.absolute_uri` spells it.
            models: Its models.
            environment: Further keys of Ray's runtime environment.

        Raises:
            OtherJobError: Another job's run writes the output.
            JobServerError: Ray refuses.
        """
        job = job_id(request.output)
        runs = self._runs().get(job, [])
        if runs and not runs[-1].state.ended:
            return _same(runs[-1], request, models)
        run = f"{job}-{len(runs) + 1}"
        extra = {"store": models.store} if models.store else {}
        metadata = {METADATA: request.model_dump_json(), MODELS: json.dumps(models.digests)}
        with luggage(models, environment) as runtime_env, self._explained():
            try:
                self._client.submit_job(
                    entrypoint=driver_call(request, models.on_cluster, extra),
                    submission_id=run,
                    runtime_env=runtime_env,
                    metadata=metadata,
                )
            except RuntimeError as error:
                if f"{run} already exists" not in str(error):
                    raise
        return _same(self.status(job), request, models)

    def _runs(self) -> dict[str, list[JobView]]:
        """Return the runs of every job of ours, the newest last."""
        with self._explained():
            details = self._client.list_jobs()
        found: dict[str, list[JobView]] = {}
        for detail in details:
            if METADATA in (detail.metadata or {}):
                view = self._view(detail)
                found.setdefault(view.id, []).append(view)
        for runs in found.values():
            runs.sort(key=lambda view: int(str(view.run).rpartition("-")[2]))
        return found

    def _view(self, detail: Any) -> JobView:
        request = JobRequest.model_validate_json(detail.metadata[METADATA])
        state = STATES[str(detail.status.value)]
        created = _time(detail.start_time)
        return JobView(
            id=job_id(request.output),
            state=state,
            priority=request.priority,
            models=json.loads(detail.metadata[MODELS]),
            input=request.input,
            output=request.output,
            options=request.options,
            created_at=created or datetime.now(UTC),
            created_by="",
            started_at=created,
            ended_at=_time(detail.end_time),
            cancelling=False,
            reason=reason_of(detail.message or "") if state is JobState.FAILED else "",
            holder=None,
            lease_until=None,
            lost=0,
            place=self.address,
            run=detail.submission_id,
            progress=None,
            summary=None,
        )

    def listing(self) -> list[JobView]:
        """Return every job, the newest first."""
        newest = [runs[-1] for runs in self._runs().values()]
        return sorted(newest, key=lambda view: view.created_at, reverse=True)

    def status(self, job: str) -> JobView:
        """Return a job, with how far it is where its output is seen from here.

        Args:
            job: Its id, or its output.

        Raises:
            JobServerError: The cluster knows no such job.
        """
        runs = self._runs()
        found = runs.get(job) or runs.get(job_id(absolute_uri(job)))
        if found is None:
            known = ", ".join(sorted(runs)) or "none"
            raise JobServerError(f"Ray's job server at {self.address} knows no batch job {job!r}; it knows: {known}")
        view = found[-1]
        return view.model_copy(update={"progress": progress_of(view.output)})

    def cancel(self, job: str) -> JobView:
        """Stop a job's run; what is committed stays. Raises as `status`."""
        view = self.status(job)
        if not view.state.ended:
            with self._explained():
                self._client.stop_job(view.run)
        return self.status(view.id)

    def logs(self, job: str, *, follow: bool) -> Iterator[str]:
        """Yield what the newest run of a job printed; until it ends, if *follow*. Raises as `status`."""
        return self.run_logs(str(self.status(job).run), follow=follow)

    def run_logs(self, run: str, *, follow: bool) -> Iterator[str]:
        """Yield what *run* printed; until it ends, if *follow*.

        Raises:
            JobServerError: The cluster knows no such run.
        """
        with self._explained():
            if not follow:
                yield self._client.get_job_logs(run)
                return
            lines = self._client.tail_job_logs(run)
            with asyncio.Runner() as runner, suppress(StopAsyncIteration):
                while True:
                    yield runner.run(anext(lines))

    def report(self, job: str) -> dict[str, Any]:
        """Return the report of a finished job; raises as `status` and `outputs.read_report`."""
        return read_report(self.status(job).output)


def _time(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None


def _same(live: JobView, request: JobRequest, models: Models) -> JobView:
    """Return the run *live* if it is one of *request* with *models*.

    Raises:
        OtherJobError: It is another job's.
    """
    asked = {"models": models.digests, "input": request.input, "options": request.options}
    differing = [part for part, value in asked.items() if getattr(live, part) != value]
    if differing:
        raise OtherJobError(
            f"job {live.id} is {live.state.value} and writes {live.output}; it differs in: {', '.join(differing)}. "
            "Cancel it, or give --output another directory"
        )
    return live


def _checked(address: str) -> str:
    parts = urlsplit(address)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(
            f"--address {address!r} is no job server of Ray: expected the URL of its dashboard, like {DEFAULT_ADDRESS}"
        )
    return address.rstrip("/")


def _check_reachable(address: str) -> None:
    """Raise unless something listens at *address*: Ray's client would say so in many lines."""
    parts = urlsplit(address)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    try:
        socket.create_connection((str(parts.hostname), port), CONNECT_TIMEOUT).close()
    except OSError as error:
        raise JobServerError(f"there is no job server of Ray at {address}: {error}") from None


def _offer_token() -> None:
    """Show Ray's token if this machine has one, as `ray start` asks for it then; Ray looks when it is loaded."""
    places = (os.environ.get("RAY_AUTH_TOKEN_PATH"), Path.home() / ".ray" / "auth_token")
    if os.environ.get("RAY_AUTH_TOKEN") or any(Path(place).is_file() for place in places if place):
        os.environ.setdefault("RAY_AUTH_MODE", "token")
