"""The verb `vedette model prune`: a run of `vedette train` made smaller."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from controller.cli.shared import oldest_ort_option
from runtime.errors import UsageError
from runtime.terminal import emit, json_option, table

if TYPE_CHECKING:
    from controller.lifecycle.prune import Figures, Pruned

__all__ = ["VERBS"]

PACKAGES = ("torch", "torch_pruning")
NO_FASTER = (
    "unstructured pruning sets single weights to zero and keeps every shape: dense kernels compute with zeros as with "
    "anything else, so it brings no speed and no smaller file; leave --unstructured out for a faster model"
)


@click.command()
@click.argument("run", metavar="RUN", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Directory of the new run."
)
@click.option("--ratio", required=True, type=float, help="Share of each layer's channels that goes, before rounding.")
@click.option("--epochs", required=True, type=int, help="To train on, after the last cut.")
@click.option("--data", metavar="URI", help="To train on with.  [default: the run's own]")
@click.option("--validation", metavar="URI", help="Held-out part of --data.  [default: as `train` does]")
@click.option("--importance", default="group-norm", show_default=True, metavar="group-norm|taylor", help="Of channels.")
@click.option("--steps", type=int, default=3, show_default=True, help="Cuts; an epoch of training between two.")
@click.option("--round-to", type=int, default=16, show_default=True, help="Channels left are a multiple of it.")
@click.option("--learning-rate", type=float, help="At the start.  [default: half of the run's]")
@click.option("--unstructured", is_flag=True, help="Set single weights to zero instead: it brings no speed.")
@oldest_ort_option
@click.option("--resume", is_flag=True, help="Go on with the interrupted run in --out.")
@json_option
def prune(*, as_json: bool, **options: Any) -> None:
    """Take channels out of the model of RUN, train it on, and measure both; `vedette model import` takes the result."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in `vedette train`
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise UsageError(f"pruning needs {', '.join(missing)}, which is not installed: pip install 'vedette[train]'")
    from controller.lifecycle.prune import PruneRequest
    from controller.lifecycle.prune import prune as run_pruning

    if options["unstructured"]:
        click.echo(f"warning: {NO_FASTER}", err=True)
    request = PruneRequest(**options)
    found = run_pruning(request)
    result = {
        "out": str(request.out),
        "before": asdict(found.before),
        "after": asdict(found.after),
        "pruning": found.record.pruning.model_dump(mode="json", exclude={"widths"}) if found.record.pruning else None,
    }
    emit(result, as_json=as_json, text=lambda: f"{_figures(found)}\n{request.out}: vedette model import {request.out}")


def _figures(found: Pruned) -> str:
    def row(name: str, figures: Figures) -> tuple[object, ...]:
        macs = "-" if figures.macs is None else f"{figures.macs / 1e6:.1f}"
        share = f"{figures.nonzero:.1%}"
        size, latency = f"{figures.size / 1e6:.3f}", f"{figures.latency_ms:.3f}"
        return name, f"{figures.accuracy:.2%}", figures.parameters, share, macs, size, latency

    headers = ("", "accuracy", "parameters", "not zero", "million MACs", "MB", "ms, 1 thread")
    return table(headers, [row("before", found.before), row("after", found.after)])


VERBS = (prune,)
