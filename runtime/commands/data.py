"""`vedette data`: look at datasets and convert them to Parquet."""

from __future__ import annotations

from pathlib import Path

import click

from runtime.terminal import emit, json_option, progress

__all__ = ["data"]


@click.group()
def data() -> None:
    """Look at datasets and convert them to Parquet."""


@data.command()
@click.argument("source")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--image-column", help="The image column, if SOURCE is Parquet with several.")
@click.option("--label-column", help="The label column, if SOURCE is Parquet and it is not 'label'.")
@click.option(
    "--row-group-rows",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="At most so many rows in a row group; fewer where images are big.",
)
@json_option
def convert(
    source: str, out: Path, image_column: str | None, label_column: str | None, row_group_rows: int, *, as_json: bool
) -> None:
    """Write SOURCE as one Parquet file OUT.

    SOURCE: Parquet, an image folder, COCO's annotations, IDX files (MNIST family), CIFAR-10's Python archive, or the
    word `digits`; `#train` or `#test` behind it chooses a split. What is known of the images comes along: classes,
    boxes, outlines, keypoints, masks.
    """
    from runtime.datasets import open_dataset
    from runtime.datasets.parquet import write_parquet

    dataset = open_dataset(source, image_column=image_column, label_column=label_column)
    target = out if out.suffix else out / "data.parquet"
    with progress(len(dataset), "convert", "rows") as bar:
        written = write_parquet(dataset, target, row_group_rows=row_group_rows, advance=bar.advance)
    columns = list(written.columns)
    result = {
        "source": source,
        "out": str(target),
        "rows": written.rows,
        "bytes": target.stat().st_size,
        "columns": columns,
    }
    text = f"wrote {written.rows} rows ({', '.join(columns)}), {result['bytes']} bytes, to {target}"
    emit(result, as_json=as_json, text=text)
