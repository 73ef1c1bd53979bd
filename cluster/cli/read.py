"""`vedette batch read`: the rows that a finished job wrote."""

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

__all__ = ["read"]

SHOWN_ROWS = 10
SHOWN_WIDTH = 40  # characters of a cell


@click.command()
@click.argument("uri")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the rows to this Parquet file.")
@json_option
def read(uri: str, out: Path | None, *, as_json: bool) -> None:
    """Show the rows that a finished batch job wrote to URI, in the order of its input.

    Those of a job with --partition-by come partition by partition, in each in the order of the input.
    """
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

    from cluster.output.read import iter_output

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
    from cluster.output.read import iter_output

    separator = "[\n"
    for row in _rows(iter_output(uri)):
        click.echo(separator + json.dumps(row, ensure_ascii=False, default=_plain), nl=False)
        separator = ",\n"
    click.echo("[]" if separator == "[\n" else "\n]")


def _head(uri: str) -> str:
    """Return the first rows and the figures as text."""
    from cluster.output.read import iter_output, read_manifest

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
