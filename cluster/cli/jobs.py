"""The verbs for jobs on a cluster: submit, status, list, logs, cancel, report and serve."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster.cli.options import job_option_names, job_options
from runtime.errors import UsageError
from runtime.terminal import emit, json_option, table

if TYPE_CHECKING:
    from cluster.jobs.queue_jobs import QueueJobs
    from cluster.jobs.ray_jobs import RayJobs
    from runtime.protocol.jobs import JobView

__all__ = ["VERBS"]

address_option = click.option(
    "--address",
    metavar="URL",
    help="Of a Ray cluster's dashboard [default: RAY_API_SERVER_ADDRESS, else port 8265 here].",
)
controller_option = click.option(
    "--controller", metavar="URL", help="Of the controller whose queue it is, in place of a Ray cluster."
)
environment_option = click.option(
    "--runtime-env",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSON of further keys of Ray's runtime environment: pip, env_vars, ...",
)


def place_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the parameters ``address`` and ``controller``: where the job is."""
    return address_option(controller_option(function))


@contextmanager
def _jobs(address: str | None, controller: str | None) -> Iterator[RayJobs | QueueJobs]:
    """Open the jobs of a Ray cluster, or of the queue of *controller*."""
    if controller is None:
        from cluster.jobs.ray_jobs import RayJobs

        yield RayJobs(address)
        return
    from cluster.jobs.queue_jobs import QueueJobs
    from runtime.client import Client

    if address is not None:
        raise UsageError("--address and --controller exclude each other: a job is on a Ray cluster, or in a queue")
    with Client.find(controller) as client:
        yield QueueJobs(client)


def _environment(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise UsageError(f"--runtime-env {path} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise UsageError(f"--runtime-env {path} holds no JSON object")
    return found


@click.command()
@job_options
@place_options
@click.option("--priority", type=click.IntRange(-1000, 1000), help="In the controller's queue; the larger goes first.")
@environment_option
@json_option
def submit(*, address: str | None, controller: str | None, as_json: bool, **given: Any) -> None:
    """Send a job to a Ray cluster, with the code and the model, or to the controller's queue.

    The same command again finds the job that is there; once that has ended, it goes on where it stopped.
    """
    from cluster.jobs.ray_jobs import RayJobs

    with _jobs(address, controller) as jobs:
        view = _to_ray(jobs, given) if isinstance(jobs, RayJobs) else _to_queue(jobs, given)
    emit(_plain(view), as_json=as_json, text=f"{view.id} is {view.state.value}: {view.output}")


def _asked(given: dict[str, Any]) -> dict[str, Any]:
    """Return what of a request does not depend on where it goes."""
    from cluster.jobs.request import given_options, input_uri
    from cluster.storage import absolute_uri

    return {
        "input": input_uri(given["input_"]),
        "output": absolute_uri(given["output"]),
        "options": given_options(click.get_current_context(), job_option_names()),
    }


def _to_ray(jobs: RayJobs, given: dict[str, Any]) -> JobView:
    from cluster.jobs.luggage import find_models
    from runtime.protocol.jobs import JobRequest

    if given["priority"] is not None:
        raise UsageError("--priority is of the controller's queue: give --controller")
    models = find_models(list(given["model"]), given["store"])
    request = JobRequest(models=list(models.digests), **_asked(given))
    return jobs.submit(request, models, _environment(given["runtime_env"]))


def _to_queue(jobs: QueueJobs, given: dict[str, Any]) -> JobView:
    from runtime.protocol.jobs import JobRequest

    if given["store"] is not None or given["runtime_env"] is not None:
        raise UsageError("--store and --runtime-env are what `vedette batch serve` has, not a job of its queue")
    return jobs.submit(JobRequest(models=list(given["model"]), priority=given["priority"] or 0, **_asked(given)))


def _plain(view: JobView) -> dict[str, Any]:
    return view.model_dump(mode="json")


def _moment(time: datetime | None) -> str:
    return time.isoformat(" ", "seconds") if time else "-"


def _described(view: JobView) -> str:
    progress = f"{view.progress.committed} of {view.progress.shards} shards" if view.progress else "-"
    facts = [
        ("job", view.id),
        ("state", f"{view.state.value}{', to be cancelled' if view.cancelling and not view.state.ended else ''}"),
        ("model", ", ".join(view.models)),
        ("input", view.input),
        ("output", view.output),
        ("committed", progress),
        ("created", _moment(view.created_at)),
        ("ended", _moment(view.ended_at)),
        ("run", f"{view.run} on {view.place}" if view.run else "-"),
        ("reason", view.reason or "-"),
    ]
    return "\n".join(f"{name:<10} {value}" for name, value in facts)


@click.command()
@click.argument("job")
@place_options
@json_option
def status(job: str, address: str | None, controller: str | None, *, as_json: bool) -> None:
    """Show JOB (its id, or its output): its state, how far it is, and why it failed."""
    with _jobs(address, controller) as jobs:
        view = jobs.status(job)
    emit(_plain(view), as_json=as_json, text=_described(view))


@click.command("list")
@place_options
@json_option
def list_jobs(address: str | None, controller: str | None, *, as_json: bool) -> None:
    """List jobs, the newest first."""
    with _jobs(address, controller) as jobs:
        views = jobs.listing()
    rows = [
        (
            view.id,
            view.state.value,
            view.priority,
            ", ".join(view.models),
            view.output,
            view.created_at.isoformat(" ", "seconds"),
        )
        for view in views
    ]
    headers = ("job", "state", "priority", "model", "output", "created")
    emit([_plain(view) for view in views], as_json=as_json, text=lambda: table(headers, rows))


@click.command()
@click.argument("job")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job ends.")
@place_options
@json_option
def logs(job: str, address: str | None, controller: str | None, *, follow: bool, as_json: bool) -> None:
    """Print what the driver of JOB (its id, or its output) printed."""
    if follow and as_json:
        raise UsageError("--follow and --json exclude each other: JSON is printed when all is known")
    with _jobs(address, controller) as jobs:
        pieces = jobs.logs(job, follow=follow)
        if as_json:
            emit({"job": job, "log": "".join(pieces)}, as_json=True, text="")
            return
        for piece in pieces:
            click.echo(piece, nl=False)


@click.command()
@click.argument("job")
@place_options
@json_option
def cancel(job: str, address: str | None, controller: str | None, *, as_json: bool) -> None:
    """Cancel JOB (its id, or its output); what is committed stays, and the same `submit` goes on with it."""
    with _jobs(address, controller) as jobs:
        view = jobs.cancel(job)
    text = f"{view.id} is {'to be cancelled' if view.cancelling and not view.state.ended else view.state.value}"
    emit(_plain(view), as_json=as_json, text=text)


@click.command()
@click.argument("job")
@place_options
@json_option
def report(job: str, address: str | None, controller: str | None, *, as_json: bool) -> None:
    """Show the report of JOB (its id, or its output) that is finished."""
    with _jobs(address, controller) as jobs:
        found = jobs.report(job)
    from dataclasses import fields

    from cluster.report import Summary

    summary = [field.name for field in fields(Summary) if found.get(field.name) is not None]  # the page has the rest
    facts = [(name.replace("_", " "), _flat(found[name])) for name in summary]
    emit(found, as_json=as_json, text=lambda: table(("batch job", ""), facts))


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count} {name}" for name, count in value.items()) or "-"
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


@click.command()
@click.option("--controller", metavar="URL", help="Whose queue; default: VEDETTE_CONTROLLER, or the home's own.")
@address_option
@click.option("--concurrency", type=click.IntRange(min=1), default=1, show_default=True, help="Jobs at a time.")
@click.option("--lease", type=click.FloatRange(1, 3600), default=60.0, show_default=True, metavar="SECONDS",
              help="A job is held for so long without a word; then it goes back to the queue.")  # fmt: skip
@click.option("--store", metavar="URI", help="Artifact store of the controller.")
@environment_option
@click.option("--json", "as_json", is_flag=True, help="Say that it is ready as one line of JSON.")
def serve(
    *,
    controller: str | None,
    address: str | None,
    concurrency: int,
    lease: float,
    store: str | None,
    runtime_env: Path | None,
    as_json: bool,
) -> None:
    """Bring jobs of the controller's queue to a Ray cluster, until SIGTERM or Ctrl-C."""
    from cluster.jobs.ray_jobs import RayJobs
    from cluster.jobs.server import JobServer
    from runtime.client import Client

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    ray = RayJobs(address)
    with Client.find(controller) as client:
        client.get("/jobs", most=1)  # refused now if it ever will be
        said = {"event": "ready", "address": ray.address, "concurrency": concurrency}
        click.echo(json.dumps(said) if as_json else f"ready: {concurrency} job(s) at a time on {ray.address}")
        environment = _environment(runtime_env)
        JobServer(client, ray, concurrency=concurrency, lease=lease, store=store, environment=environment).serve(stop)


VERBS = (submit, status, list_jobs, logs, cancel, report, serve)
