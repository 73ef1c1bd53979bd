"""What several verbs share: the controller that they talk to, and options that mean the same everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from runtime.client import Client

__all__ = ["client", "controller_option", "custom_ops_option", "oldest_ort_option", "reference"]

controller_option = click.option(
    "--controller", "url", metavar="URL", help="Of the controller; default: VEDETTE_CONTROLLER, or the home's own."
)
"""Adds the parameter ``url: str | None`` to a command."""

custom_ops_option = click.option(
    "--custom-ops", type=click.Path(path_type=Path), help="Library of operators of its own; it is run."
)
"""Adds the parameter ``custom_ops: Path | None`` to a command."""

oldest_ort_option = click.option(
    "--oldest-ort",
    envvar="VEDETTE_OLDEST_ORT",
    type=click.Path(path_type=Path),
    help="Interpreter that has the oldest ONNX Runtime to run on.",
)
"""Adds the parameter ``oldest_ort: Path | None`` to a command."""


def client(url: str | None) -> Client:
    """Return a client of the controller at *url*; raises as `Client.find`."""
    from runtime.client import Client

    return Client.find(url)


def reference(release: Mapping[str, Any] | None) -> str:
    """Return ``NAME@VERSION`` of anything that has both; a dash for nothing."""
    return f"{release['model']}@{release['version']}" if release else "-"
