"""The verb `vedette demo`."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

import click

from runtime.terminal import emit, json_option

__all__ = ["demo"]


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a signal handler
    raise KeyboardInterrupt


@click.command()
@click.option("--keep", is_flag=True, help="Leave controller and agents running, and say how to look around.")
@click.option("--dir", "directory", type=click.Path(path_type=Path), help="A new directory to work in, and to keep.")
@json_option
def demo(*, keep: bool, directory: Path | None, as_json: bool) -> None:
    """See all of Vedette at work on this machine, with three agents; about five minutes.

    Trains a model on real digits, publishes it, rolls it out to three agents, runs a batch job on Ray,
    does it again with a better model in waves, and stops a broken one at its first wave. Ends with exit
    code 1 if any step did not hold.
    """
    from controller.demo.processes import Processes
    from controller.demo.report import Report
    from controller.demo.scenario import Scenario
    from runtime.errors import UsageError

    if directory is not None and directory.exists():
        raise UsageError(f"{directory} exists; the demo works in a new directory")
    root = directory.absolute() if directory else Path(tempfile.mkdtemp(prefix="vedette-demo-"))
    signal.signal(signal.SIGTERM, _interrupt)
    report, home = Report(), root / "home"
    with Processes(root / "logs", {"VEDETTE_HOME": str(home)}) as processes:
        processes.keep = keep
        try:
            Scenario(root, processes, report).play()
        except BaseException:
            click.echo(f"the logs are in {root / 'logs'}", err=True)
            raise
        running = processes.running
    emit(report.as_json(), as_json=as_json, text=report.render)
    if keep:
        click.echo(_look_around(home, running), err=as_json)
    elif directory is None:
        shutil.rmtree(root, ignore_errors=True)


def _look_around(home: Path, running: Mapping[str, int]) -> str:
    return "\n".join(
        [
            "",
            "Still running: " + ", ".join(f"{name} (process {pid})" for name, pid in running.items()),
            "Look around:",
            f"  export VEDETTE_HOME={home}",
            "  vedette device list",
            "  vedette rollout list",
            "  vedette model show digits",
            f"  tail -f {home.parent}/agents/cam-1/results.jsonl",
            "End it all:",
            f"  kill {' '.join(map(str, running.values()))}",
        ]
    )
