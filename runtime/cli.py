"""The `vedette` command: gathers the verbs that the packages bring, and keeps the rules for errors.

Rules:
    * A verb is an entry point of the group ``vedette.commands``; it is loaded when it is used, so
      the siblings stay strangers and a missing extra breaks only its own verbs.
    * An error is one line on stderr: exit code 2 for a wrong call, 1 for a failure, 130 for Ctrl-C.
      A traceback appears only with ``--debug`` (or ``VEDETTE_DEBUG=1``).
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NoReturn

import click
import structlog

from runtime.errors import VedetteError

__all__ = ["MissingExtraError", "configure_logging", "main", "run_command"]

GROUP = "vedette.commands"
EXTRA_OF_PACKAGE = {
    "controller": "controller,train,cpu",
    "cluster": "cluster,cpu",
    "runtime": "cpu",
    "edge_agent": "edge,cpu",
}


class MissingExtraError(VedetteError):
    """A verb needs a library that was not installed."""


class _Verbs(click.Group):
    """The verbs of all installed packages, each imported on first use."""

    def _entry_points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=GROUP)}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return sorted(self._entry_points())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        point = self._entry_points().get(cmd_name)
        if point is None:
            return None
        command: click.Command = point.load()
        return command


@click.command(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="vedette", message="vedette %(version)s")
def vedette() -> None:
    """Train, publish and run computer-vision ONNX models: in batch, and on a fleet of devices."""


def configure_logging() -> None:
    """Log to stderr: for people on a terminal, as JSON lines otherwise."""
    renderer: Any = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer(sort_keys=True)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError):
        where = error.filename or ""
        if error.errno == errno.ENOSPC:
            return f"no space left on device{f': {where}' if where else ''}; free some and run the same command again"
        return f"{error.strerror or error}{f': {where}' if where else ''}"
    return " ".join(str(error).split()) or type(error).__name__


def _missing_extra(error: ModuleNotFoundError) -> MissingExtraError:
    """Return an error that says what to install for the module that was not found."""
    extras = EXTRA_OF_PACKAGE["runtime"]
    for frame, _ in traceback.walk_tb(error.__traceback__):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        extras = EXTRA_OF_PACKAGE.get(package, extras)  # the innermost frame of ours decides
    return MissingExtraError(f"Python module {error.name!r} is not installed: pip install 'vedette[{extras}]'")


def run_command(command: click.Command, prog_name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run *command* as a process would, and exit with its code; the rules are in the module docstring."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given or os.environ.get("VEDETTE_DEBUG", "") not in {"", "0"}
    given = [argument for argument in given if argument != "--debug"]
    configure_logging()
    try:
        sys.exit(command.main(given, prog_name=prog_name, standalone_mode=False) or 0)
    except Exception as error:  # the one place that turns errors into exit codes
        if debug:
            raise
        _exit_with(error, prog_name)
    except KeyboardInterrupt:
        click.echo(f"{prog_name}: interrupted", err=True)
        sys.exit(130)


def _exit_with(error: Exception, prog_name: str) -> NoReturn:
    match error:
        case click.Abort():
            click.echo(f"{prog_name}: interrupted", err=True)
            sys.exit(130)
        case click.ClickException():
            text, code = error.format_message(), error.exit_code
        case VedetteError():
            text, code = _one_line(error), error.exit_code
        case ModuleNotFoundError():
            text, code = _one_line(_missing_extra(error)), MissingExtraError.exit_code
        case OSError():
            text, code = _one_line(error), 1
        case _:
            text, code = f"{type(error).__name__}: {_one_line(error)} (this is a bug; --debug shows where)", 1
    click.echo(f"{prog_name}: error: {' '.join(text.split())}", err=True)
    sys.exit(code)


def main() -> NoReturn:
    """Run the `vedette` command."""
    run_command(vedette, "vedette")
