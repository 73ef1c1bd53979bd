"""What the verbs that talk to a controller share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from controller.client import Client

__all__ = ["client", "controller_option", "reference"]

controller_option = click.option(
    "--controller", "url", metavar="URL", help="Of the controller; default: VEDETTE_CONTROLLER, or the home's own."
)
"""Adds the parameter ``url: str | None`` to a command."""


def client(url: str | None) -> Client:
    """Return a client of the controller at *url*; raises as `Client.find`."""
    from controller.client import Client

    return Client.find(url)


def reference(release: Mapping[str, Any] | None) -> str:
    """Return ``NAME@VERSION`` of anything that has both; a dash for nothing."""
    return f"{release['model']}@{release['version']}" if release else "-"
