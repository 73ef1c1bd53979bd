"""The verb `vedette model quantize`: a thin call of `controller.lifecycle.variants.requantize`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from controller.cli.shared import oldest_ort_option
from runtime.errors import UsageError
from runtime.terminal import emit, json_option

__all__ = ["VERBS", "quantize"]


@click.command()
@click.argument("reference", metavar="NAME[@VERSION]|DIR")
@click.option("--calibration", required=True, metavar="URI", help="Images to calibrate with.")
@click.option("--evaluation", metavar="URI", help="Labelled images to judge by.  [default: some of --calibration]")
@click.option("--precision", default="int8", show_default=True, metavar="IDS", help="Variants to build, or 'all'.")
@click.option(
    "--method",
    default="auto",
    show_default=True,
    metavar="auto|minmax|entropy|percentile|mse",
    help="Of calibration; auto: the one that is nearest to fp32.",
)
@click.option("--max-drop", type=float, default=0.5, show_default=True, help="Points that a variant may lose.")
@click.option("--budget", type=float, default=240.0, show_default=True, help="Processor seconds of a variant's search.")
@click.option(
    "--min-speedup", type=float, default=1.0, show_default=True, help="Over fp32; no measure may make it slower."
)
@oldest_ort_option
@click.option("--image-column", help="Of Parquet.  [default: found out]")
@click.option("--label-column", help="Of Parquet.  [default: label]")
@click.option("--store", metavar="URI", help="Artifact store.  [default: under VEDETTE_HOME]")
@json_option
def quantize(
    *,
    precision: str,
    method: str,
    budget: float,
    min_speedup: float,
    store: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Build INT8 variants of a published model from its fp32 file, and publish its next version.

    Where a plain quantization is not near enough to fp32, a search climbs a ladder of measures until it is, or the
    budget is spent. It sees the calibration images alone; the labelled ones accept or reject what it found.
    """
    from controller.lifecycle.quantization.calibration.methods import METHODS
    from controller.lifecycle.quantization.recovery.search import AUTO, Goal
    from controller.lifecycle.variants.requantize import QuantizeRequest, quantize_model
    from runtime.store import ModelStore

    if method not in (AUTO, *METHODS):
        raise UsageError(f"--method {method!r} is not known; expected {', '.join((AUTO, *METHODS))}")
    for option, value in (("--budget", budget), ("--min-speedup", min_speedup)):
        if not value >= 0:
            raise UsageError(f"{option} is {value}; expected 0 or more")
    goal = Goal(method=method, budget=budget, least_speedup=min_speedup)
    words = tuple(word.strip() for word in precision.split(","))
    report = quantize_model(QuantizeRequest(precisions=words, goal=goal, **options), ModelStore.open(store))
    for note in report.notes:
        click.echo(f"note: {note}", err=True)
    searches = {
        name: {**recovery.metrics(), "steps": [asdict(step) for step in recovery.steps]}
        for name, recovery in report.recoveries.items()
    }
    result = {
        "model": report.manifest.reference,
        "variants": {v.id: {"size": v.size, "metrics": v.metrics} for v in report.manifest.variants},
        "rejected": {v.id: {"reason": v.reason, "metrics": v.metrics} for v in report.manifest.rejected},
        "searches": searches,
        "notes": list(report.notes),
    }

    def text() -> str:
        from controller.cli.figures import figures

        tables = [f"{name}\n{recovery.table()}" for name, recovery in report.recoveries.items()]
        return "\n\n".join([f"published {report.manifest.reference}\n{figures(report.manifest)}", *tables])

    emit(result, as_json=as_json, text=text)


VERBS = (quantize,)
