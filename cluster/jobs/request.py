"""What a submitted job was asked for: from the command line to a request, and from a request to the driver's call.

Rules:
    * The same options as `vedette batch run`: what was given on the command line is in the request by its
      name, what was not is left to the driver's defaults.
    * Paths are absolute before they travel. An output has one spelling, and one job: its id is a hash of it.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from runtime.errors import UsageError

if TYPE_CHECKING:
    from runtime.protocol.jobs import JobRequest, OptionValue

__all__ = ["driver_call", "given_options", "input_uri", "job_id"]

APART = frozenset({"model", "input", "output", "store"})
"""Options of a job that travel in another way than by their name."""

OTHERS = APART | {"address", "cost-per-hour", "dry-run", "help", "json", "local"}
"""Options of the driver that a request must not have among its own: whoever takes the job decides about them."""


def given_options(context: click.Context, names: Iterable[str]) -> dict[str, OptionValue]:
    """Return what was given of the job's options to the command of *context*, by name without dashes before it.

    Args:
        context: Of a command that has the options.
        names: Of the job's options, without dashes before them.
    """
    wanted = frozenset(names) - APART
    found = {}
    for parameter in context.command.params:
        option = parameter.opts[0].lstrip("-")
        given = context.get_parameter_source(str(parameter.name)) is not ParameterSource.DEFAULT
        if option in wanted and given:
            found[option] = _plain(context.params[str(parameter.name)])
    return found


def _plain(value: Any) -> OptionValue:
    if isinstance(value, list | tuple):
        return [str(one) for one in value]
    return value if isinstance(value, bool | int | float) else str(value)


def input_uri(given: str) -> str:
    """Return *given* as another machine understands it: a path that is there becomes absolute."""
    place, mark, part = given.partition("#")
    there = "://" not in place and os.path.exists(place)  # noqa: PTH110 - it may be a name, not a path
    return os.path.abspath(place) + mark + part if there else given  # noqa: PTH100 - resolves no links


def job_id(output: str) -> str:
    """Return the id of the job that writes *output* (an absolute URI), whoever asks for it, and however often."""
    return f"batch-{hashlib.sha256(output.encode()).hexdigest()[:12]}"


def driver_call(request: JobRequest, models: Sequence[str], extra: Mapping[str, str]) -> str:
    """Return the shell command that runs *request* on a cluster.

    Args:
        request: What was asked for.
        models: What ``--model`` is on the cluster, in the order of the request's.
        extra: Further options of the driver and their values.

    Raises:
        UsageError: An option of the request is not the job's to choose.
    """
    if refused := sorted(OTHERS.intersection(request.options)):
        raise UsageError(f"a job's options hold {', '.join(refused)}; where it reads, writes and runs is said apart")
    arguments = [f"--model={model}" for model in models]
    arguments += [f"--input={request.input}", f"--output={request.output}"]
    arguments += [f"--{name}={value}" for name, value in extra.items()]
    for name, value in request.options.items():
        arguments += _arguments(name, value)
    return shlex.join(["python", "-m", "cluster.jobs.driver", *arguments])


def _arguments(name: str, value: OptionValue) -> list[str]:
    match value:
        case bool():
            return [f"--{name}"] if value else []
        case list():
            return [f"--{name}={one}" for one in value]
        case _:
            return [f"--{name}={value}"]
