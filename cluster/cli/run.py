"""`vedette batch run`: a batch job from this process."""

from __future__ import annotations

from typing import Any

import click

from cluster.cli.options import job_options
from runtime.errors import UsageError
from runtime.terminal import emit, json_option, table

__all__ = ["run"]


@click.command()
@job_options
@click.option("--local", is_flag=True, help="Run on this machine, without Ray.")
@click.option("--address", metavar="RAY", help="Ray cluster to use [default: RAY_ADDRESS, else one is started here].")
@click.option(
    "--dry-run", is_flag=True, help="Show the plan and, from a probe of 200 rows here, its time; write nothing."
)
@click.option(
    "--cost-per-hour", type=click.FloatRange(min=0), metavar="PRICE", help="Of a worker, for what --dry-run estimates."
)
@json_option
def run(
    *,
    model: tuple[str, ...],
    input_: str,
    filter_: str | None,
    keep: tuple[str, ...],
    dry_run: bool,
    cost_per_hour: float | None,
    as_json: bool,
    **rest: Any,
) -> None:
    """Run one model or several over a dataset; the same command again goes on where it stopped.

    Each row of the input is either in the output once, or in quarantine with a reason. What is
    committed survives any crash.
    """
    from cluster.job import run_batch
    from cluster.planning import BatchOptions, plan_job
    from cluster.worker.memory import keep_memory_low

    keep_memory_low()  # of a driver, or, with --local, of a worker
    names = tuple(name.strip() for group in keep for name in group.split(",") if name.strip())
    options = BatchOptions(models=model, input=input_, filter=filter_, keep=names, **rest)
    if cost_per_hour is not None and not dry_run:
        raise UsageError("--cost-per-hour is for what --dry-run estimates; give both")
    if dry_run:
        from cluster import estimate

        plan = estimate.dry_run(plan_job(options), cost_per_hour)
        emit(plan, as_json=as_json, text=lambda: _plan_text(plan))
        return
    summary = run_batch(options)
    emit(summary.as_dict(), as_json=as_json, text=summary.text)


def _plan_text(plan: dict[str, Any]) -> str:
    titles = {"columns": "output column", "providers": "execution provider"}
    single = {name: value for name, value in plan.items() if not isinstance(value, dict)}
    groups = {titles.get(name, name): value for name, value in plan.items() if isinstance(value, dict)}
    return "\n\n".join(table((title, ""), _facts(values)) for title, values in {"plan": single, **groups}.items())


def _facts(values: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name, "-" if value is None else value) for name, value in values.items()]
