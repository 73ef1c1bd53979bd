"""`vedette batch`: run a model over a dataset, and read what it wrote."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runtime.terminal import emit, json_option, table

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["batch"]

SHOWN_ROWS = 10
SHOWN_WIDTH = 40  # characters of a cell


@click.group()
def batch() -> None:
    """Run a model over images in Parquet and other datasets, on this machine or on a Ray cluster."""


@batch.command()
@click.option("--model", required=True, help="NAME, NAME@VERSION, or the path of an artifact.")
@click.option(
    "--input", "input_", required=True, metavar="URI", help="Parquet, image folder, IDX, CIFAR archive, digits."
)
@click.option("--output", required=True, metavar="URI", help="Directory to write; it belongs to this job from then on.")
@click.option("--image-column", metavar="COLUMN", help="Holds the images; found out if there is only one.")
@click.option(
    "--keep",
    multiple=True,
    metavar="COLS",
    help="Input columns to pass through: COLUMN or COLUMN=NAME, separated by commas; where the output has a column "
    "of that name itself, COLUMN is kept as input_COLUMN.",
)
@click.option("--filter", "filter_", metavar="EXPR", help="Rows to take: COLUMN OP LITERAL [and ...].")
@click.option("--workers", default="auto", show_default=True, metavar="SPEC", help="auto (one a core), N or cpu=N.")
@click.option("--provider", default="auto", show_default=True, help="Execution provider to run on.")
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True, help="Images an inference.")
@click.option("--shard-rows", type=click.IntRange(min=1), help="At most so many rows a shard [default: by input size].")
@click.option("--max-bad-rows", type=click.IntRange(min=0), help="End the job at more bad rows [default: never].")
@click.option(
    "--max-retries", type=click.IntRange(min=0), default=3, show_default=True, help="Further tries of a shard."
)
@click.option(
    "--stall-timeout",
    type=click.FloatRange(min=1),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="Give a shard up that makes no progress for so long.",
)
@click.option("--local", is_flag=True, help="Run in this process, without Ray.")
@click.option("--address", metavar="RAY", help="Ray cluster to use [default: RAY_ADDRESS, else one is started here].")
@click.option("--store", metavar="URI", help="Artifact store that --model names a model of.")
@click.option("--dry-run", is_flag=True, help="Show the plan, and write nothing.")
@json_option
def run(*, input_: str, filter_: str | None, keep: tuple[str, ...], dry_run: bool, as_json: bool, **rest: Any) -> None:
    """Run a model over a dataset; the same command again goes on where it stopped.

    Each row of the input is either in the output once, or in quarantine with a reason. What is
    committed survives any crash.
    """
    from cluster.job import BatchOptions, plan_job, run_batch

    names = tuple(name.strip() for group in keep for name in group.split(",") if name.strip())
    options = BatchOptions(input=input_, filter=filter_, keep=names, **rest)
    if dry_run:
        plan = plan_job(options).describe()
        emit(plan, as_json=as_json, text=lambda: _plan_text(plan))
        return
    summary = run_batch(options)
    emit(summary.as_dict(), as_json=as_json, text=summary.text)


def _plan_text(plan: dict[str, Any]) -> str:
    columns = plan.pop("columns")
    facts = [(name.replace("_", " "), "-" if value is None else value) for name, value in plan.items()]
    return table(("plan", ""), facts) + "\n\n" + table(("output column", "type"), list(columns.items()))


@batch.command()
@click.argument("uri")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the rows to this Parquet file.")
@json_option
def read(uri: str, out: Path | None, *, as_json: bool) -> None:
    """Show the rows that a finished batch job wrote to URI, in the order of its input."""
    if out is not None:
        rows = _write(uri, out)
        emit({"out": str(out), "rows": rows}, as_json=as_json, text=f"wrote {rows} rows to {out}")
    elif as_json:
        _print_json(uri)
    else:
        click.echo(_head(uri))


def _write(uri: str, out: Path) -> int:
    """Write the rows to the file *out*, atomically; return how many."""
    import pyarrow.parquet as pq

    from cluster.output import iter_output

    tables = iter_output(uri)
    first = next(tables)
    temporary = out.with_name(f".{out.name}.tmp")
    rows: int = first.num_rows
    try:
        with pq.ParquetWriter(temporary, first.schema) as writer:
            writer.write_table(first)
            for part in tables:
                writer.write_table(part)
                rows += part.num_rows
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    return rows


def _rows(tables: Iterator[pa.Table]) -> Iterator[dict[str, Any]]:
    for part in tables:
        yield from part.to_pylist()


def _plain(value: Any) -> str:
    """Return what JSON has no form for: bytes as base64, times as text."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _print_json(uri: str) -> None:
    """Print a list of all rows, one a line, without holding them all."""
    from cluster.output import iter_output

    separator = "[\n"
    for row in _rows(iter_output(uri)):
        click.echo(separator + json.dumps(row, ensure_ascii=False, default=_plain), nl=False)
        separator = ",\n"
    click.echo("[]" if separator == "[\n" else "\n]")


def _head(uri: str) -> str:
    """Return the first rows and the figures as text."""
    from cluster.output import iter_output, read_manifest

    manifest = read_manifest(uri)
    rows = [row for row, _ in zip(_rows(iter_output(uri)), range(SHOWN_ROWS), strict=False)]
    figures = ", ".join(f"{count} {name}" for name, count in manifest.rows.items())
    lines = [f"{manifest.model} over {manifest.input}: {figures}"]
    if rows:
        cells = [[_short(value) for value in row.values()] for row in rows]
        lines += ["", table(list(rows[0]), cells)]
    if manifest.rows["out"] > len(rows):
        lines.append(f"... and {manifest.rows['out'] - len(rows)} more; --json or --out FILE gives all")
    return "\n".join(lines)


def _short(value: Any) -> str:
    text = f"<{len(value)} bytes>" if isinstance(value, bytes) else str(value)
    return text if len(text) <= SHOWN_WIDTH else text[: SHOWN_WIDTH - 3] + "..."
