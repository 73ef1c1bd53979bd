"""The ``vedette-agent`` command: enroll, run, status, doctor. Errors are printed as `runtime.cli` does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from edge_agent.config import AgentHome, Settings
from edge_agent.errors import AgentError
from runtime.cli import run_command
from runtime.commands.doctor import findings
from runtime.protocol.bundle import Bundle
from runtime.terminal import emit, json_option, table

if TYPE_CHECKING:
    from edge_agent.status import LocalState

__all__ = ["agent", "main"]

_PATH = click.Path(path_type=Path)
_DEFAULT = Settings()


def _home_option(command: Callable[..., Any]) -> Callable[..., Any]:
    text = "The agent's state; default: VEDETTE_AGENT_HOME, or the platform's place for it."
    return click.option("--home", "home", type=_PATH, help=text)(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="vedette", message="vedette-agent %(version)s")
def agent() -> None:
    """Run models on this device, as its fleet's controller desires."""


@agent.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@_home_option
@click.option(
    "--force", is_flag=True, help="Also if the device is enrolled as another one; its assignments are forgotten."
)
@json_option
def enroll(bundle: Path, home: Path | None, *, force: bool, as_json: bool) -> None:
    """Join the fleet that BUNDLE (made by `vedette device enroll`) names."""
    place, given = AgentHome.resolve(home), Bundle.read(bundle)
    place.enrol(given, force=force)
    result = {"device": given.device, "fleet": given.fleet, "broker": given.broker, "home": str(place.root)}
    text = f"enrolled device {given.device} of fleet {given.fleet} at {given.broker}; home {place.root}"
    emit(result, as_json=as_json, text=text)


@agent.command()
@_home_option
@click.option(
    "--source",
    help="Images: file:///dir/*.jpg, or a dataset (digits#test); file+once:, dataset+once: end after one round.",
)
@click.option(
    "--fps",
    type=click.FloatRange(min=0, min_open=True),
    default=_DEFAULT.fps,
    show_default=True,
    help="Frames a second, at most.",
)
@click.option("--results", type=_PATH, help="JSON lines with the results; default: results.jsonl in the home.")
@click.option(
    "--telemetry-interval",
    type=click.FloatRange(min=0.1),
    default=_DEFAULT.telemetry_interval,
    show_default=True,
    help="Seconds between two batches of measurements.",
)
def run(home: Path | None, source: str | None, fps: float, results: Path | None, telemetry_interval: float) -> None:
    """Serve the active model and follow the controller, until SIGTERM or Ctrl-C."""
    from edge_agent.agent import run_agent

    settings = Settings(
        source=source,
        fps=fps,
        results=results.absolute() if results else None,
        telemetry_interval=telemetry_interval,
    )
    run_agent(AgentHome.resolve(home), settings)


@agent.command()
@_home_option
@json_option
def status(home: Path | None, *, as_json: bool) -> None:
    """Say what the agent of this home does, or last did; needs no broker."""
    from edge_agent.status import read_state

    place = AgentHome.resolve(home)
    state = read_state(place.state)
    if state is None:
        place.load_bundle()  # says it if the device is not enrolled
        raise AgentError(f"no agent has run in {place.root} yet; start it with 'vedette-agent run'")
    document = {"running": state.running} | state.model_dump(mode="json")
    emit(document, as_json=as_json, text=lambda: table(("", ""), _status_rows(state)))


def _status_rows(state: LocalState) -> list[tuple[str, object]]:
    reported, running = state.reported, state.running
    active, standby, failure = reported.active, reported.standby, reported.failure
    return [
        ("device", f"{reported.device} of fleet {state.fleet}"),
        ("agent", f"runs (process {state.pid})" if running else "does not run"),
        ("broker", f"{state.broker}, {'connected' if running and state.connected else 'not connected'}"),
        ("serving", f"{active.model}@{active.version}, {active.variant} on {active.provider}" if active else "nothing"),
        ("fall-back", (active.fallback if active else "") or "none"),
        ("standby", f"{standby.model}@{standby.version}" if standby else "none"),
        ("update", f"{reported.phase} (assignment {reported.sequence})"),
        ("failure", f"{failure.code}: {failure.message}" if failure else "none"),
        ("restarts", f"{state.restarts}{f', last: {state.last_death}' if state.last_death else ''}"),
        ("waiting", f"{state.waiting} messages"),
    ]


@agent.command()
@_home_option
@json_option
def doctor(home: Path | None, *, as_json: bool) -> None:
    """Say what this device can do, and whether it reaches its broker."""
    from edge_agent.doctor import diagnose

    report = diagnose(AgentHome.resolve(home))
    emit(report, as_json=as_json, text=lambda: _doctor_text(report))


def _doctor_text(report: dict[str, Any]) -> str:
    facts = [
        (name, report[section][name])
        for section in ("agent", "broker", "machine", "versions")
        for name in report[section]
    ]
    return "\n\n".join([table(("what", "found"), facts), *findings(report)])


def main() -> NoReturn:
    """Run the `vedette-agent` command."""
    run_command(agent, "vedette-agent")
