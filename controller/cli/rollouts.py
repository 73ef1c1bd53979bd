"""The verb `vedette rollout`."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from controller.cli.shared import client, controller_option, reference
from runtime.errors import ApiError, UnreachableError, UsageError
from runtime.terminal import emit, json_option, table

if TYPE_CHECKING:
    from runtime.client import Client

__all__ = ["rollout"]

POLL_SECONDS = 0.5
RESTART_SECONDS = 30.0  # that a controller may be away while a rollout is watched
LATEST = "latest"


@click.group()
def rollout() -> None:
    """Bring a model to devices in waves, watched, and stopped where a wave fails."""


@rollout.command()
@click.argument("model")
@click.option("--target", required=True, metavar="QUERY", help="Label query: all, site=lab, id in (a,b), !x.")
@click.option("--waves", default="1,10%,100%", show_default=True, help="Cumulative counts or percentages.")
@click.option("--soak", default="10m", show_default=True, metavar="DURATION", help="Between a full wave and the next.")
@click.option("--max-failure-rate", type=float, default=0.05, show_default=True, help="Share of a wave, 0 to 1.")
@click.option("--success-rate", type=float, default=1.0, show_default=True, help="Opens a gate before all are decided.")
@click.option("--min-samples", type=int, default=10, show_default=True, help="Decided before the rate alone can stop.")
@click.option(
    "--on-failure",
    type=click.Choice(["pause", "rollback"]),
    default="pause",
    show_default=True,
    help="What a failed wave leads to: it waits for you, or every device goes back.",
)
@click.option("--window", metavar="WINDOW", help="Like 'Mon-Fri 01:00-05:00', in each device's own time (label tz).")
@click.option("--rate", metavar="N/min", help="Assignments a minute, at most.")
@click.option("--device-timeout", default="1h", show_default=True, metavar="DURATION", help="Then it has failed.")
@click.option("--probation", type=click.FloatRange(min=0), metavar="SECONDS", help="That devices watch the new model.")
@click.option("--config", multiple=True, metavar="KEY=VALUE", help="For the devices, with the assignment.")
@controller_option
@json_option
def create(
    model: str,
    target: str,
    url: str | None,
    probation: float | None,
    config: tuple[str, ...],
    *,
    as_json: bool,
    **policy: Any,
) -> None:
    """Start a rollout of MODEL (NAME, NAME@VERSION) to the devices that QUERY means."""
    settings = dict(_pair(text) for text in config)
    if probation is not None:
        settings["probation_seconds"] = f"{probation:g}"
    with client(url) as api:
        made = api.post("/rollouts", {"model": model, "target": target, "policy": policy | {"config": settings}})
    emit(made, as_json=as_json, text=f"rollout {made['id']} of {reference(made)} to {target}\n{_standing(made)}")


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"--config {text!r} is not usable: expected KEY=VALUE")
    return key, value


@rollout.command("list")
@controller_option
@json_option
def list_rollouts(url: str | None, *, as_json: bool) -> None:
    """List rollouts, the newest first."""
    with client(url) as api:
        found = api.get("/rollouts")
    headers = ("id", "model", "target", "state", "wave", "succeeded", "failed", "pending")
    emit(found, as_json=as_json, text=lambda: table(headers, [_row(one) for one in found]))


def _row(one: dict[str, Any]) -> tuple[object, ...]:
    counts = one["counts"]
    wave = f"{one['wave']}/{one['waves']}"
    undecided = counts["pending"] + counts["queued"]
    return (
        one["id"],
        reference(one),
        one["target"],
        one["state"],
        wave,
        counts["succeeded"],
        counts["failed"],
        undecided,
    )


@rollout.command()
@click.argument("rollout")
@controller_option
@json_option
def show(rollout: str, url: str | None, *, as_json: bool) -> None:
    """Show ROLLOUT (an id, or `latest`) with its devices."""
    with client(url) as api:
        found = _find(api, rollout)
    emit(found, as_json=as_json, text=lambda: _described(found))


def _described(found: dict[str, Any]) -> str:
    rows = [(d["device"], d["wave"], d["state"], d["reason"] or "-") for d in found["devices"]]
    lines = [f"rollout {found['id']} of {reference(found)} to {found['target']}", _standing(found)]
    if rows:
        lines += ["", table(("device", "wave", "state", "reason"), rows)]
    return "\n".join(lines)


def _standing(found: dict[str, Any]) -> str:
    """Return in one line where a rollout is."""
    counts = ", ".join(f"{count} {state}" for state, count in found["counts"].items() if count) or "no device yet"
    back = ", devices on their way back" if found["returning"] else ""
    reason = f": {found['reason']}" if found["reason"] else ""
    return f"{found['state']}{back}, wave {found['wave']} of {found['waves']}, {counts}{reason}"


def _find(api: Client, rollout: str) -> dict[str, Any]:
    if rollout != LATEST:
        found: dict[str, Any] = api.get(f"/rollouts/{rollout}")
        return found
    every: list[dict[str, Any]] = api.get("/rollouts")
    if not every:
        raise ApiError("there is no rollout yet; start one with `vedette rollout create`")
    return every[0]


@rollout.command()
@click.argument("rollout")
@controller_option
@json_option
@click.pass_context
def watch(context: click.Context, rollout: str, url: str | None, *, as_json: bool) -> None:
    """Follow ROLLOUT (an id, or `latest`) until it ends or pauses; exit code 0 only if it succeeded."""
    with client(url) as api:
        found, shown = _find(api, rollout), ""
        while True:
            if not as_json and (standing := _standing(found)) != shown:
                click.echo(f"{datetime.now().astimezone():%H:%M:%S} {standing}")
                shown = standing
            if found["state"] != "running" and not found["returning"]:
                break
            time.sleep(POLL_SECONDS)
            found = _look_again(api, found)
    if as_json:
        emit(found, as_json=True, text="")
    elif found["state"] == "paused":
        click.echo(f"paused: go on with `vedette rollout resume {found['id']}`, or end it with abort or rollback")
    context.exit(0 if found["state"] == "succeeded" else 1)


def _look_again(api: Client, found: dict[str, Any]) -> dict[str, Any]:
    """Return the rollout as it is now; a controller that is restarted meanwhile is waited for."""
    until = time.monotonic() + RESTART_SECONDS
    while True:
        try:
            return _find(api, found["id"])
        except UnreachableError:
            if time.monotonic() > until:
                raise
            time.sleep(POLL_SECONDS)


def _order(word: str, text: str) -> Callable[..., None]:
    """Return the command that gives a rollout the order *word*."""

    @rollout.command(word, help=text)
    @click.argument("rollout")
    @controller_option
    @json_option
    def give(rollout: str, url: str | None, *, as_json: bool) -> None:
        with client(url) as api:
            found = api.post(f"/rollouts/{_find(api, rollout)['id']}/{word}")
        emit(found, as_json=as_json, text=lambda: _standing(found))

    return give


for _word, _text in {
    "pause": "Assign no more devices; those under way go on.",
    "resume": "Go on; devices that failed get the model once more.",
    "abort": "End it where it is; who has not decided yet is sent back.",
    "rollback": "Send every device back to what it served before.",
}.items():
    _order(_word, _text)
