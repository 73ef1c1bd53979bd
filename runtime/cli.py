"""The `vedette` command: gathers the verbs that the packages bring, and keeps the rules for errors.

Rules:
    * A verb is an entry point of the group ``vedette.commands``; it is loaded when it is used, so
      the siblings stay strangers and a missing extra breaks only its own verbs.
    * An error is one line on stderr: exit code 2 for a wrong call, 1 for a failure, 130 for Ctrl-C.
      A traceback appears only with ``--debug`` (or ``VEDETTE_DEBUG=1``).
    * A verb of verbs without one prints its help, exit code 2. A reader that went away (``| head``) is
      no error to talk about.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NoReturn

import click

from runtime.errors import VedetteError
from runtime.logs import configure_logging

__all__ = ["MissingExtraError", "main", "run_command"]

GROUP = "vedette.commands"
NO_VERB: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())  # click before 8.2 just prints the help

GARBAGE = 50_000  # objects made before unused ones are looked for: imports make 100,000, all used (0.05 s of a command)

# What to install where a module is missing: by the package of ours that wanted it, or, where only the
# runtime did, by the module.
EXTRA_OF_PACKAGE = {"controller": "controller,train,cpu", "cluster": "cluster,cpu", "edge_agent": "edge,cpu"}
EXTRA_OF_MODULE = {"obstore": "cluster,cpu", "pyarrow": "cluster,cpu", "sklearn": "train,cpu"}
EXTRA_OF_RUNTIME = "cpu"


class MissingExtraError(VedetteError):
    """A verb needs a library that was not installed.

    Attributes:
        remedy: The command that installs it.
    """

    def __init__(self, module: str, extras: str) -> None:
        self.remedy = f"pip install 'vedette[{extras}]'"
        super().__init__(f"Python module {module!r} is not installed: {self.remedy}")


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
        try:
            command: click.Command = point.load()
        except ModuleNotFoundError as error:
            return _absent(cmd_name, _missing_extra(error, point.module.partition(".")[0]))
        return command


def _absent(name: str, error: MissingExtraError) -> click.Command:
    """Return a verb that is listed with what it lacks, and says so whatever it is called with."""

    def callback(**_: Any) -> NoReturn:
        raise error

    return click.Command(
        name,
        callback=callback,
        params=[click.Argument(["rest"], nargs=-1, type=click.UNPROCESSED)],
        context_settings={"ignore_unknown_options": True},
        add_help_option=False,
        short_help=f"(not installed: {error.remedy})",
    )


@click.command(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
@click.version_option(package_name="vedette", message="vedette %(version)s")
def vedette() -> None:
    """Train, publish and run computer-vision ONNX models: in batch, and on a fleet of devices."""


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError):
        where = error.filename or ""
        if error.errno == errno.ENOSPC:
            return f"no space left on device{f': {where}' if where else ''}; free some and run the same command again"
        return f"{error.strerror or error}{f': {where}' if where else ''}"
    return " ".join(str(error).split()) or type(error).__name__


def _missing_extra(error: ModuleNotFoundError, package: str = "") -> MissingExtraError:
    """Return an error that says what to install for the module that was not found.

    Args:
        error: That it was not found.
        package: Of ours, if it is known which one wanted the module; otherwise the traceback tells.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    ours = [package, *(str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame in frames)]
    wanting = [name for name in ours if name in EXTRA_OF_PACKAGE]
    module = str(error.name or "")
    by_module = EXTRA_OF_MODULE.get(module.partition(".")[0], EXTRA_OF_RUNTIME)
    return MissingExtraError(module, EXTRA_OF_PACKAGE[wanting[-1]] if wanting else by_module)


def run_command(command: click.Command, prog_name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run *command* as a process would, and exit with its code; the rules are in the module docstring."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given or os.environ.get("VEDETTE_DEBUG", "") not in {"", "0"}
    given = [argument for argument in given if argument != "--debug"]  # it may stand anywhere
    configure_logging()
    try:
        sys.exit(command.main(given, prog_name=prog_name, standalone_mode=False) or 0)
    except Exception as error:  # the one place that turns errors into exit codes
        if debug and not isinstance(error, click.exceptions.UsageError | click.Abort | BrokenPipeError):
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
        case BrokenPipeError():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing may be flushed into it at exit
            sys.exit(1)
        case click.UsageError() if isinstance(error, NO_VERB):
            click.echo(error.format_message(), err=True)
            sys.exit(error.exit_code)
        case click.UsageError() if error.ctx is not None:
            text, code = f"{error.format_message()} See '{error.ctx.command_path} --help'.", error.exit_code
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
    gc.set_threshold(GARBAGE)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # it looks for them in every package there is: 15 ms
    try:
        run_command(vedette, "vedette")
    finally:
        gc.freeze()  # else the interpreter looks through everything once more before it ends: 0.1 s
