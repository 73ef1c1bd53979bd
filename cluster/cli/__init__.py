"""`vedette batch`: run a model over a dataset, here or on a cluster, and read what it wrote."""

from __future__ import annotations

import click

from cluster.cli.jobs import VERBS
from cluster.cli.read import read
from cluster.cli.run import run

__all__ = ["batch"]


@click.group()
def batch() -> None:
    """Run a model over images in Parquet and other datasets, on this machine or on a Ray cluster."""


for _verb in (run, *VERBS, read):
    batch.add_command(_verb)
