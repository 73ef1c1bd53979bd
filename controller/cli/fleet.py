"""The verbs `vedette init`, `controller` and `device`; `rollout` is beside, in `controller.cli.rollouts`."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from controller.cli.figures import proof_of
from controller.cli.rollouts import rollout
from controller.cli.shared import client, controller_option, reference
from runtime.errors import ApiError, UsageError
from runtime.home import Home
from runtime.protocol.messages import VariantProof
from runtime.terminal import emit, json_option, table

__all__ = ["controller", "device", "init", "rollout"]

ANSWER_SECONDS = 10.0  # that a device has to answer a command


@click.command()
@json_option
def init(*, as_json: bool) -> None:
    """Prepare the home: its database, its artifact store and the admin's token. Does no harm twice."""
    from controller.server import initialize, open_database

    home = Home.from_environment()
    database = open_database(home, None)
    try:
        token = initialize(home, database)
    finally:
        database.close()
    home.store.mkdir(parents=True, exist_ok=True)
    said = {"home": str(home.root), "store": str(home.store), "token_file": str(token)}
    text = f"home {home.root} is ready; the admin's token is in {token}\nnext: vedette controller serve"
    emit(said, as_json=as_json, text=text)


@click.group()
def controller() -> None:
    """Run the controller: fleet, rollouts, REST API and, by default, the message broker."""


_PATH = click.Path(path_type=Path, exists=True, dir_okay=False)


@controller.command()
@click.option("--listen", default="127.0.0.1:8420", show_default=True, metavar="HOST:PORT", help="Of the API.")
@click.option(
    "--broker", default="embedded", show_default=True, help="`embedded`, or mqtt://HOST:PORT or mqtts://HOST:PORT."
)
@click.option(
    "--broker-listen", default="127.0.0.1:1883", show_default=True, metavar="HOST:PORT", help="Of the embedded broker."
)
@click.option("--advertise-broker", metavar="URL", help="Where devices reach the broker, if it is elsewhere for them.")
@click.option("--broker-username", help="The controller's user at an external broker; default: vedette-controller.")
@click.option("--broker-password-file", type=_PATH, help="Its password; default: one is made and kept in the home.")
@click.option("--broker-ca", type=_PATH, help="PEM certificates that an external broker's must chain to.")
@click.option(
    "--broker-reload-command", default="", metavar="COMMAND", help="Makes an external broker read its users again."
)
@click.option("--database", metavar="URL", help="Default: SQLite in the home.")
@click.option("--store", metavar="URI", help="Of the artifacts: a directory or an object store. Default: in the home.")
@click.option("--fleet", default="lab", show_default=True, help="Name of the fleet, a level of every topic.")
@click.option(
    "--chunk-rate",
    type=click.FloatRange(min=0.01),
    default=100.0,
    show_default=True,
    metavar="MB/S",
    help="What all devices together are sent of models, at most.",
)
@click.option(
    "--batch-jobs", type=click.IntRange(min=1), default=4, show_default=True, help="Of the queue, that run at a time."
)
@click.option("--json", "as_json", is_flag=True, help="Say that it is ready as one line of JSON.")
def serve(*, broker_reload_command: str, chunk_rate: float, as_json: bool, **options: Any) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    import asyncio

    from controller.server import Settings
    from controller.server import serve as run

    settings = Settings(**options, broker_reload=shlex.split(broker_reload_command), chunk_rate=chunk_rate * 1e6)

    def ready(said: dict[str, object]) -> None:
        click.echo(json.dumps(said) if as_json else f"ready: API {said['url']}, broker {said['broker']}")

    asyncio.run(run(settings, Home.from_environment(), ready))


@click.group()
def device() -> None:
    """Enrol devices, and see what they do."""


def _labels(pairs: Iterable[str]) -> dict[str, str]:
    """Return the labels of ``key=value`` pairs."""
    labels = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"label {pair!r} is not usable: expected key=value")
        labels[key] = value
    return labels


@device.command()
@click.argument("id")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="May be given several times.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="The bundle's file; default: ID.json.")
@controller_option
@json_option
def enroll(id: str, labels: tuple[str, ...], out: Path | None, url: str | None, *, as_json: bool) -> None:  # noqa: A002 - the word for it
    """Make ID part of the fleet, and write the bundle that the device joins with. It is a secret."""
    from runtime.protocol.bundle import Bundle

    path = out or Path(f"{id}.json")
    if path.exists():
        raise UsageError(f"{path} exists; choose another file with --out")
    if not path.parent.is_dir():
        raise UsageError(f"{path} cannot be written: {path.parent} is no directory")
    with client(url) as api:
        bundle = Bundle.model_validate(api.post("/devices", {"id": id, "labels": _labels(labels)}))
    bundle.write(path)
    said = {"device": id, "fleet": bundle.fleet, "broker": bundle.broker, "bundle": str(path)}
    text = f"enrolled {id}; on the device: vedette-agent enroll {path.name}"
    emit(said, as_json=as_json, text=text)


@device.command("list")
@click.option("--target", default="all", show_default=True, help="Label query.")
@click.option("--revoked", is_flag=True, help="Also those that were revoked.")
@controller_option
@json_option
def list_devices(target: str, url: str | None, *, revoked: bool, as_json: bool) -> None:
    """List devices."""
    with client(url) as api:
        found = api.get("/devices", target=target, revoked=revoked)
    emit(found, as_json=as_json, text=lambda: table(("id", "status", "serving", "phase", "labels"), map(_row, found)))


def _row(found: dict[str, Any]) -> tuple[str, ...]:
    reported = found["reported"] or {}
    labels = ",".join(f"{key}={value}" for key, value in sorted(found["labels"].items()))
    return found["id"], found["status"], reference(reported.get("active")), reported.get("phase", "-"), labels


@device.command()
@click.argument("id")
@controller_option
@json_option
def show(id: str, url: str | None, *, as_json: bool) -> None:  # noqa: A002 - the word for it
    """Show a device: what it shall run, what it runs, and why not."""
    with client(url) as api:
        found = api.get(f"/devices/{id}")
    emit(found, as_json=as_json, text=lambda: _described(found))


def _described(found: dict[str, Any]) -> str:
    reported = found["reported"] or {}
    hardware, failure, active = reported.get("hardware") or {}, reported.get("failure"), reported.get("active")
    rows = [
        ("id", found["id"]),
        ("labels", ", ".join(f"{k}={v}" for k, v in sorted(found["labels"].items())) or "-"),
        ("status", f"{found['status']}, last seen {found['last_seen'] or 'never'}"),
        ("desired", reference(found["desired"])),
        (
            "serving",
            f"{active['model']}@{active['version']}, {active['variant']} on {active['provider']}" if active else "-",
        ),
        ("standby", reference(reported.get("standby"))),
        ("phase", reported.get("phase", "-")),
        ("failure", f"{failure['code']}: {failure['message']}" if failure else "-"),
        *(("variant", f"{proof['variant']}: {_told(found['id'], proof)}") for proof in _proofs(active)),
        ("hardware", f"{hardware['model'] or hardware['machine']}, {hardware['cpu_count']} CPUs" if hardware else "-"),
        ("providers", ", ".join(reported.get("providers", ())) or "-"),
        ("agent", reported.get("agent_version", "-")),
    ]
    return "\n".join(f"{name:<10} {value}" for name, value in rows)


def _proofs(active: dict[str, Any] | None) -> list[dict[str, Any]]:
    return list((active or {}).get("proofs", ()))


def _told(device_id: str, proof: dict[str, Any]) -> str:
    """Return what the device found out about an unproven variant."""
    return proof_of({**proof, "device": device_id, "speedup": VariantProof.model_validate(proof).speedup})


@device.command()
@click.argument("id")
@click.argument("labels", nargs=-1, required=True, metavar="KEY=VALUE|KEY-...")
@controller_option
@json_option
def label(id: str, labels: tuple[str, ...], url: str | None, *, as_json: bool) -> None:  # noqa: A002 - the word for it
    """Set labels of ID; `KEY-` takes one away."""
    gone = {pair[:-1]: None for pair in labels if pair.endswith("-") and "=" not in pair}
    changes = _labels(pair for pair in labels if pair[:-1] not in gone or "=" in pair) | gone
    with client(url) as api:
        found = api.request("PUT", f"/devices/{id}/labels", body={"labels": changes})
    text = ", ".join(f"{key}={value}" for key, value in sorted(found["labels"].items()))
    emit(found, as_json=as_json, text=f"{id}: {text or 'no labels'}")


@device.command()
@click.argument("id")
@controller_option
@json_option
def revoke(id: str, url: str | None, *, as_json: bool) -> None:  # noqa: A002 - the word for it
    """Take ID out of the fleet: its password is worth nothing from now on."""
    with client(url) as api:
        found = api.request("DELETE", f"/devices/{id}")
    emit(found, as_json=as_json, text=f"revoked {id}")


@device.command()
@click.argument("id")
@click.option("--events", type=click.IntRange(0, 1000), default=10, show_default=True, help="How many of the latest.")
@controller_option
@json_option
def telemetry(id: str, events: int, url: str | None, *, as_json: bool) -> None:  # noqa: A002 - the word for it
    """Show the last values that ID measured, and its latest events."""
    with client(url) as api:
        found = api.get(f"/devices/{id}/telemetry", events=events)
    emit(found, as_json=as_json, text=lambda: _measured(found))


def _measured(found: dict[str, Any]) -> str:
    samples = [(s["name"], round(s["value"], 4), s["time"]) for s in found["samples"]]
    events = [(e["time"], e["kind"], e["phase"] or "-", e["code"] or "-", e["message"]) for e in found["events"]]
    measured = table(("measurement", "value", "time"), samples) if samples else "no measurements yet"
    happened = table(("time", "event", "phase", "code", "message"), events) if events else "no events yet"
    return f"{measured}\n\n{happened}"


@device.command()
@click.argument("id")
@click.argument("word", metavar="COMMAND", type=click.Choice(["ping"]))
@controller_option
@json_option
def command(id: str, word: str, url: str | None, *, as_json: bool) -> None:  # noqa: A002 - the word for it
    """Send COMMAND to ID, and wait for its answer."""
    began = time.monotonic()
    with client(url) as api:
        sent = api.post(f"/devices/{id}/commands", {"command": word})
        while time.monotonic() - began < ANSWER_SECONDS:
            for event in api.get(f"/devices/{id}/telemetry", events=50)["events"]:
                if event["kind"] == "command" and event["code"] == sent["id"]:
                    answer = {"device": id, "command": word, "answer": event["message"], "time": event["time"]}
                    took = (datetime.now(UTC) - datetime.fromisoformat(sent["time"])).total_seconds()
                    emit(answer | {"seconds": took}, as_json=as_json, text=f"{id}: {event['message']} ({took:.2f} s)")
                    return
            time.sleep(0.1)
    raise ApiError(f"device {id} did not answer {word} within {ANSWER_SECONDS:.0f} s; is it online?")
